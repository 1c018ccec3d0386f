use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use super::heading::{COMPARISON, INPUT, OUTPUT, RENDERING};
use crate::cli::values::{dtype, sampling};
use trinart_ckpt_formats::tensor::Dtype;
use trinart_ckpt_render::job::Device;
use trinart_ckpt_render::prompt::PRESETS;
use trinart_ckpt_render::settings::parse_size;

/// Render a picture with a checkpoint and check it
///
/// Runs txt2img of SD v1, SD v2 or SDXL on the CPU or an NVIDIA GPU, without any file besides the checkpoint. Noise,
/// samplers and prompt syntax are those of WebUI, and the PNG contains WebUI's parameters.
#[derive(Debug, Args)]
pub(in crate::cli) struct RenderCheck {
    /// Checkpoints to render with, and folders of such with --out-dir
    #[arg(required = true, value_name = "CHECKPOINT", help_heading = INPUT)]
    pub checkpoints: Vec<PathBuf>,
    /// Render with this VAE instead of the checkpoint's own
    #[arg(long, value_name = "VAE", help_heading = INPUT)]
    pub vae: Option<PathBuf>,
    /// Let this checkpoint take over for the last steps, as the SDXL refiner does
    ///
    /// The latent is decoded with the VAE of CHECKPOINT.
    #[arg(long, value_name = "CHECKPOINT", help_heading = INPUT, hide_short_help = true)]
    pub refiner: Option<PathBuf>,
    /// Write the picture to this PNG file
    #[arg(short, long, value_name = "PICTURE", required_unless_present = "out_dir", help_heading = OUTPUT)]
    pub output: Option<PathBuf>,
    /// Write a picture per checkpoint to this folder, and a contact sheet of all
    ///
    /// Keeps the subfolders of the inputs. In folders, files without a Stable Diffusion UNet are skipped.
    #[arg(long, value_name = "DIR", conflicts_with = "output", help_heading = OUTPUT)]
    #[arg(value_hint = clap::ValueHint::DirPath)]
    pub out_dir: Option<PathBuf>,
    /// Replace existing output files
    #[arg(long, help_heading = OUTPUT)]
    pub force: bool,
    /// Write intermediate tensors to this file, for debugging
    ///
    /// The file contains the text embeddings, the noise, the epsilon of each UNet call, the latent of each step and the
    /// decoded image.
    #[arg(long, value_name = "SAFETENSORS", help_heading = OUTPUT, hide_short_help = true)]
    pub dump: Option<PathBuf>,

    /// Render 256x256 pixels in 10 steps, unless --size or --steps is given
    #[arg(long, help_heading = RENDERING)]
    pub quick: bool,
    /// Set the prompt, in WebUI's syntax
    ///
    /// (word:1.2), [word], [before:after:0.5], [one|two], BREAK and AND have their meaning there.
    #[arg(long, help_heading = RENDERING)]
    pub prompt: Option<String>,
    /// Set the negative prompt
    #[arg(long, help_heading = RENDERING)]
    pub negative: Option<String>,
    /// Set the prompt syntax [default: webui]
    #[arg(long, value_enum, value_name = "SYNTAX", help_heading = RENDERING, hide_short_help = true)]
    pub prompt_syntax: Option<SyntaxArgument>,
    /// Add a negative prompt from the model card of TrinArt Characters
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name)),
        help_heading = RENDERING,
        hide_short_help = true,
    )]
    pub preset: Option<String>,
    /// Look for the prompt's LoRAs (<lora:name:0.8>) in this folder
    ///
    /// A LoRA is found by its file name without the extension, or by the name that it was trained under.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = RENDERING)]
    pub lora_dir: Option<PathBuf>,
    /// Look for the textual inversions that the prompts name in this folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = RENDERING)]
    pub embeddings_dir: Option<PathBuf>,
    /// Set the seed [default: 0]
    #[arg(long, help_heading = RENDERING)]
    pub seed: Option<u64>,
    /// Set the number of steps [default: 20]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = RENDERING)]
    pub steps: Option<u16>,
    /// Set the sampler [default: Euler a]
    ///
    /// One of DPM++ 2M, DPM++ SDE, DPM++ 2M SDE, DPM++ 2M SDE Heun, DPM++ 2S a, DPM++ 3M SDE, Euler a, Euler, LMS, Heun,
    /// DPM2, DPM2 a, DPM fast, DPM adaptive, Restart, DDIM, DDIM CFG++, PLMS, UniPC, LCM. The name may end in a schedule
    /// type: DPM++ 2M Karras. Spaces may be written as _ or -.
    #[arg(long, value_parser = sampling::sampler(), help_heading = RENDERING, hide_possible_values = true)]
    pub sampler: Option<String>,
    /// Set the schedule type [default: automatic]
    ///
    /// How the noise levels of the steps are spaced: one of Automatic, Uniform, Karras, Exponential, Polyexponential, SGM
    /// Uniform, KL Optimal, Align Your Steps, Simple, Normal, DDIM, Beta. Automatic depends on the sampler, as in WebUI.
    /// DDIM, DDIM CFG++, PLMS and UniPC have fixed times and no schedule type.
    #[arg(long, value_name = "TYPE", value_parser = sampling::schedule(), help_heading = RENDERING)]
    #[arg(hide_possible_values = true)]
    pub schedule: Option<String>,
    /// Set the CFG scale [default: 7]
    #[arg(long, value_parser = finite, help_heading = RENDERING)]
    pub cfg: Option<f64>,
    /// Set width and height in pixels [default: 512x512]
    ///
    /// Both are multiples of 8 from 64 to 2048.
    #[arg(long, value_name = "WxH", value_parser = size, help_heading = RENDERING)]
    pub size: Option<(usize, usize)>,
    /// Use the text encoder's Nth layer from the end [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=12), help_heading = RENDERING)]
    #[arg(value_name = "N", hide_short_help = true)]
    pub clip_skip: Option<u8>,
    /// Set the noise generator [default: nv]
    #[arg(long, value_enum, help_heading = RENDERING, hide_short_help = true)]
    pub rng: Option<RngArgument>,
    /// Let the refiner take over after this share of the timesteps [default: 0.8]
    #[arg(long, value_name = "SHARE", value_parser = share, requires = "refiner", help_heading = RENDERING)]
    #[arg(hide_short_help = true)]
    pub switch_at: Option<f64>,
    /// Render on auto, cpu, cuda or cuda:N [default: auto]
    ///
    /// auto selects the first NVIDIA GPU if there is one and this program was built with CUDA, otherwise the CPU.
    #[arg(long, default_value = "auto", hide_default_value = true, value_parser = Device::parse, help_heading = RENDERING)]
    pub device: Device,
    /// Cast weights to f32, f16 or bf16 [default: f16 on a GPU, else f32]
    ///
    /// On a GPU, the values between layers have this dtype too; sums are always f32. On the CPU, only the weights are rounded
    /// to it. A VAE that overflows f16 runs in f32.
    #[arg(long, value_parser = dtype::computed(), help_heading = RENDERING, hide_possible_values = true)]
    pub dtype: Option<Dtype>,

    /// Compare with a picture, or with another checkpoint
    #[arg(long, value_name = "CHECKPOINT|PICTURE", help_heading = COMPARISON)]
    pub against: Option<PathBuf>,
    /// Take the settings of this picture, and compare with it
    ///
    /// The settings are in the parameters that WebUI writes into its pictures.
    ///
    /// Options on the command line override the picture's parameters.
    #[arg(long, value_name = "PICTURE", conflicts_with = "against", help_heading = COMPARISON)]
    pub like: Option<PathBuf>,
    /// Write the contact sheet here [default: NAME.sheet.png or DIR/sheet.png]
    ///
    /// The sheet of a comparison shows both pictures and their difference, amplified eight times. That of --out-dir shows the
    /// pictures of all checkpoints. Small pictures are enlarged.
    #[arg(long, value_name = "PICTURE", help_heading = COMPARISON, hide_short_help = true)]
    pub sheet: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SyntaxArgument {
    /// That of WebUI
    Webui,
    /// That of the TrinArt service: a b c::4 d::1
    Trinart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum RngArgument {
    /// WebUI's GPU noise
    Nv,
    /// torch's CPU noise
    Cpu,
}

fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("expected a finite number, found {text:?}"))
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| format!("expected a number from 0 to 1, found {text:?}"))
}

fn size(text: &str) -> Result<(usize, usize), String> {
    parse_size(text)
        .ok_or_else(|| format!("expected a size such as 512x768, multiples of 8 from 64 to 2048, found {text:?}"))
}
