//! What `render-check` can be told.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use crate::cli::args::DtypeArgument;
use crate::render::device::Device;
use crate::render::prompt::PRESETS;

/// Render a picture with a checkpoint of SD v1, and judge it
///
/// txt2img straight from the checkpoint, on a card or on the CPU, without side files: the noise, the samplers and the prompt syntax
/// are WebUI's, and the PNG carries WebUI's parameters. Exit code 0: all checks passed; 1: one failed.
#[derive(Debug, Args)]
pub(in crate::cli) struct RenderCheck {
    /// The checkpoint
    pub checkpoint: PathBuf,
    /// Render with this autoencoder in the place of the checkpoint's
    #[arg(long, value_name = "VAE")]
    pub vae: Option<PathBuf>,
    /// The picture to write, a PNG
    #[arg(short, long, value_name = "PICTURE")]
    pub output: PathBuf,
    /// Replace a file that is there already
    #[arg(long)]
    pub force: bool,
    /// The prompt, in WebUI's syntax: (word:1.2), [word], BREAK, AND
    #[arg(long)]
    pub prompt: Option<String>,
    /// The negative prompt
    #[arg(long)]
    pub negative: Option<String>,
    /// How the prompt is written: WebUI's way, or the TrinArt service's (a b c::4 d::1) [default: webui]
    #[arg(long, value_enum, value_name = "SYNTAX")]
    pub prompt_syntax: Option<SyntaxArgument>,
    /// Add the negative prompt of a recipe from the model card of TrinArt Characters
    #[arg(long, value_parser = PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name)))]
    pub preset: Option<String>,
    /// The seed [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Steps [default: 20]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub steps: Option<u16>,
    /// Euler, Euler a, DDIM, DPM++ 2M, DPM++ 2M Karras, Heun, LMS, DPM2 a, UniPC [default: Euler a]
    #[arg(long)]
    pub sampler: Option<String>,
    /// The scale of the guidance [default: 7]
    #[arg(long, value_parser = finite)]
    pub cfg: Option<f64>,
    /// Width and height in pixels, multiples of 8 from 64 to 2048 [default: 512x512]
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<(usize, usize)>,
    /// The layer of the text encoder to take, from its end [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=12))]
    pub clip_skip: Option<u8>,
    /// Whose noise: nv is WebUI's GPU, its default; cpu is torch's CPU [default: nv]
    #[arg(long, value_enum)]
    pub rng: Option<RngArgument>,
    /// Where to compute: auto, cpu, cuda or cuda:N. auto takes the first NVIDIA card where there is one and this
    /// program was built for them, else the CPU
    #[arg(long, default_value = "auto", value_parser = Device::parse)]
    pub device: Device,
    /// The type of the weights, and on a card that of the values between the layers; sums are always f32. On the CPU
    /// weights are rounded to it first, as programs do that keep them in half precision, and all else is f32. An
    /// autoencoder that does not fit stays in f32 [default: f16 on a card, f32 on the CPU]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeArgument>,
    /// Compare with a picture, or with what another checkpoint renders
    #[arg(long, value_name = "CHECKPOINT|PICTURE")]
    pub against: Option<PathBuf>,
    /// Take everything that is not said from the parameters of this picture, and compare with it
    #[arg(long, value_name = "PICTURE", conflicts_with = "against")]
    pub like: Option<PathBuf>,
    /// Where the contact sheet of a comparison goes: both pictures and their difference, eight times amplified
    /// [default: beside the picture, as NAME.sheet.png]
    #[arg(long, value_name = "PICTURE")]
    pub sheet: Option<PathBuf>,
    /// For debugging: write the tensors between the stages (text, noise, each call's epsilon, each step's latent, decoded)
    #[arg(long, value_name = "SAFETENSORS")]
    pub dump: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SyntaxArgument {
    Webui,
    Trinart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum RngArgument {
    Nv,
    Cpu,
}

fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("{text:?} is no number"))
}

/// `512x768`: multiples of 8, from 64 to 2048, as in WebUI.
pub(super) fn size(text: &str) -> Result<(usize, usize), String> {
    let side = |text: &str| {
        let side = text.trim().parse::<usize>().ok();
        side.filter(|side| side.is_multiple_of(8) && (64..=2048).contains(side))
    };
    let sides = text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
    sides.ok_or_else(|| format!("{text:?} is no size such as 512x768, of multiples of 8 from 64 to 2048"))
}
