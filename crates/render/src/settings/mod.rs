//! The settings of a render: options, completed from a reference picture and the defaults.

mod fields;
mod hashes;
mod infotext;
mod options;
mod reference;
mod versions;
mod webui;

use crate::files::NetworkKind;
use crate::prompt::{Embeddings, Emphasis, Syntax};
use crate::sampling::{NoiseSource, Sampler, ScheduleType};
use fields::{PROMPT_SYNTAX, REFINER, SWITCH_AT, SWITCH_BY_STEPS, WEIGHT_DTYPE};
use infotext::is_side;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::Dtype;

pub(crate) use hashes::UsedFiles;
pub use infotext::{Infotext, parse_size};
pub use options::RenderOptions;
pub(crate) use reference::ReferenceParameters;
pub use reference::{ReferencePicture, read_picture};
pub use webui::{GuidanceSkips, Variation, WebUiOptions};

const STEPS: std::ops::RangeInclusive<usize> = 1..=1000;

/// All settings that determine a picture, apart from the checkpoint.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The prompt. Default: empty.
    pub prompt: String,
    /// The negative prompt. Default: empty.
    pub negative: String,
    /// The syntax of the prompt. Default: WebUI's.
    pub syntax: Syntax,
    /// The number of sampling steps, 1 to 1000. Default: 20.
    pub steps: usize,
    /// The sampler. Default: Euler a.
    pub sampler: Sampler,
    /// How the noise levels of the steps are spaced. Default: uniform.
    pub schedule: ScheduleType,
    /// The CFG scale. Default: 7.
    pub cfg: f64,
    /// The seed of the noise. Default: 0.
    pub seed: u64,
    /// WebUI's "eta noise seed delta" (ENSD): added to the seed for the noise of the steps. Default: 0.
    pub seed_delta: i64,
    /// The random number generator. Default: NVIDIA's.
    pub rng: NoiseSource,
    /// The width in pixels, a multiple of 8 from 64 to 2048. Default: 512.
    pub width: usize,
    /// The height in pixels, a multiple of 8 from 64 to 2048. Default: 512.
    pub height: usize,
    /// The layer of the text encoder whose output is used, counted from the end. Default: 1, the last.
    pub clip_skip: usize,
    /// The textual inversions that the prompts name. Default: none.
    pub embeddings: Embeddings,
    /// How weights of words act. Default: WebUI's, "Original".
    pub emphasis: Emphasis,
    /// Whether the numbers in `[before:after:0.5]` are read as before WebUI 1.6. Default: false.
    pub old_editing: bool,
    /// How prompts of different lengths are padded. Default: not at all.
    pub padding: PromptPadding,
    /// Whether the noise schedule is rounded to half precision, as in WebUI before 1.8. Default: false.
    pub downcast_alphas: bool,
    /// When the refiner takes over, for a model with one. Default: after 0.8 of the timesteps.
    pub refiner: RefinerSwitch,
    /// More options of WebUI. Default: WebUI's.
    pub webui: WebUiOptions,
    /// The dtype of the weights: F32, F16 or BF16. On the CPU, weights are rounded to it and values are F32; kernels
    /// also pass values between layers in it. Sums are F32. Default: F32.
    pub dtype: Dtype,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            prompt: String::new(),
            negative: String::new(),
            syntax: Syntax::default(),
            steps: 20,
            sampler: Sampler::default(),
            schedule: ScheduleType::default(),
            cfg: 7.0,
            seed: 0,
            seed_delta: 0,
            rng: NoiseSource::default(),
            width: 512,
            height: 512,
            clip_skip: 1,
            embeddings: Embeddings::default(),
            emphasis: Emphasis::default(),
            old_editing: false,
            padding: PromptPadding::default(),
            downcast_alphas: false,
            refiner: RefinerSwitch::default(),
            webui: WebUiOptions::default(),
            dtype: Dtype::F32,
        }
    }
}

/// When a refiner takes over from the model before it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RefinerSwitch {
    /// The share after which it takes over, 0 to 1.
    pub at: f64,
    /// Whether it is the share of the steps, as in WebUI before 1.8, and not that of the timesteps.
    pub by_steps: bool,
}

impl Default for RefinerSwitch {
    fn default() -> Self {
        RefinerSwitch { at: 0.8, by_steps: false }
    }
}

/// How a prompt and a negative prompt of different lengths are padded to equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PromptPadding {
    /// Not at all: each has calls of its own.
    #[default]
    None,
    /// With the encoding of an empty prompt: WebUI's option "Pad prompt/negative prompt".
    EmptyPrompt,
    /// The negative prompt with its last vector, or cut: WebUI's option "Pad prompt/negative prompt (v0)".
    LastVector,
}

impl Settings {
    /// Fails if a value is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        if !STEPS.contains(&self.steps) {
            return Err(Error::usage(format!("{} steps are out of range: expected 1 to 1000", self.steps)));
        }
        let least = self.sampler.least_steps();
        if self.steps < least {
            let (sampler, steps) = (self.sampler.name(), self.steps);
            return Err(Error::usage(format!("{sampler} cannot render in {steps} steps: expected at least {least}")));
        }
        if !self.cfg.is_finite() {
            return Err(Error::usage(format!("CFG scale {} is out of range: expected a finite number", self.cfg)));
        }
        if !matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(Error::usage(format!("cannot render in {}: expected F32, F16 or BF16", self.dtype)));
        }
        if !is_side(self.width) || !is_side(self.height) {
            let size = format!("{}x{}", self.width, self.height);
            return Err(Error::usage(format!("size {size} is out of range: expected multiples of 8 from 64 to 2048")));
        }
        Ok(())
    }

    /// Returns the `parameters` of the picture, its fields in WebUI's order. `model` is the name of the checkpoint.
    pub(crate) fn infotext(&self, model: &str, files: &UsedFiles<'_>) -> Infotext {
        let mut text = Infotext { prompt: self.prompt.clone(), negative: self.negative.clone(), ..Infotext::default() };
        text.push("Steps", self.steps);
        text.push("Sampler", self.sampler.name());
        if self.sampler.has_schedule() {
            text.push("Schedule type", self.schedule.name());
            self.webui.write_schedule(&mut text, self.schedule);
        }
        text.push("CFG scale", self.cfg);
        text.push("Seed", self.seed);
        text.push("Size", format!("{}x{}", self.width, self.height));
        if let Some(hash) = files.model.first().copied().flatten() {
            text.push("Model hash", hash);
        }
        text.push("Model", model);
        if let Some((name, hash)) = files.vae {
            if let Some(hash) = hash {
                text.push("VAE hash", hash);
            }
            text.push("VAE", name);
        }
        self.webui.write_seed(&mut text);
        if self.clip_skip > 1 {
            text.push("Clip skip", self.clip_skip);
        }
        if self.seed_delta != 0 && self.sampler.is_ancestral() {
            text.push("ENSD", self.seed_delta);
        }
        text.push("RNG", self.rng.name());
        if self.emphasis != Emphasis::default() {
            text.push("Emphasis", self.emphasis.name());
        }
        if self.downcast_alphas {
            text.push("Downcast alphas_cumprod", "True");
        }
        match self.padding {
            PromptPadding::None => {}
            PromptPadding::EmptyPrompt => text.push("Pad conds", "True"),
            PromptPadding::LastVector => text.push("Pad conds v0", "True"),
        }
        if self.old_editing {
            text.push("Old prompt editing timelines", "True");
        }
        self.webui.write(&mut text, self.sampler);
        if let Some((name, hash)) = &files.refiner {
            text.push(REFINER, hash.map_or_else(|| name.clone(), |hash| format!("{name} [{hash}]")));
            text.push(SWITCH_AT, self.refiner.at);
            if self.refiner.by_steps {
                text.push(SWITCH_BY_STEPS, "True");
            }
        }
        for kind in NetworkKind::ALL {
            let hashes = UsedFiles::field(files.networks, kind);
            if !hashes.is_empty() {
                text.push(kind.field(), hashes);
            }
        }
        if self.syntax == Syntax::Trinart {
            text.push(PROMPT_SYNTAX, "trinart");
        }
        if self.dtype != Dtype::F32 {
            text.push(WEIGHT_DTYPE, self.dtype);
        }
        text.push("Version", concat!("trinart-ckpt ", env!("CARGO_PKG_VERSION")));
        text
    }
}
