//! The pipeline of a diffusers folder: which class runs it, and the configuration of every part, told from the shapes
//! of its tensors and from what is known of its architecture.
//!
//! What shapes do not tell has the value of the published models: numbers of attention heads, groups of the
//! normalisations, the scale of the latents.

mod scheduler;
mod text_encoder;
mod tokenizer;
mod unet;
mod vae;

use serde_json::{Map, Value, json};

use crate::model::architecture::{Architecture, Prediction, Task};
use crate::model::layout::Folder;

/// The dimensions of a tensor by its key in its component.
pub type Dims<'a> = &'a dyn Fn(&str) -> Option<Vec<u64>>;

/// What a pipeline is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipeline {
    /// The architecture of its components.
    pub architecture: Architecture,
    /// What its UNet is given.
    pub task: Task,
    /// What its UNet predicts. Unknown is only SD v2's, and taken for the velocity.
    pub prediction: Prediction,
    /// Whether its schedule ends in pure noise: of some models of v-prediction.
    pub zero_terminal_snr: bool,
}

impl Pipeline {
    /// The class of diffusers that runs it; `None` where it needs parts that a checkpoint does not have.
    fn class(&self) -> Option<&'static str> {
        use Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner};
        match (self.architecture, self.task) {
            (Sd1 | Sd2, Task::TextToImage) => Some("StableDiffusionPipeline"),
            (Sd1 | Sd2, Task::Inpainting) => Some("StableDiffusionInpaintPipeline"),
            (Sd1 | Sd2, Task::InstructPix2Pix) => Some("StableDiffusionInstructPix2PixPipeline"),
            (SdxlBase, Task::TextToImage) => Some("StableDiffusionXLPipeline"),
            (SdxlBase, Task::Inpainting) => Some("StableDiffusionXLInpaintPipeline"),
            (SdxlBase, Task::InstructPix2Pix) => Some("StableDiffusionXLInstructPix2PixPipeline"),
            (SdxlRefiner, Task::TextToImage) => Some("StableDiffusionXLImg2ImgPipeline"),
            _ => None,
        }
    }

    /// Every file of the folder but the weights: its path inside, and its text. `None` where diffusers needs parts
    /// that a checkpoint does not have.
    pub fn files(&self, dims: &dyn Fn(Folder, &str) -> Option<Vec<u64>>) -> Option<Vec<(String, String)>> {
        let mut files = vec![("model_index.json".to_owned(), text(&self.model_index()?))];
        for &folder in Folder::of(self.architecture) {
            let config = self.config(folder, &|key| dims(folder, key));
            files.push((format!("{}/config.json", folder.name()), text(&config)));
        }
        files.push(("scheduler/scheduler_config.json".to_owned(), text(&scheduler::config(self))));
        for (folder, pad) in self.tokenizers() {
            files.extend(tokenizer::files(pad).into_iter().map(|(name, text)| (format!("{folder}/{name}"), text)));
        }
        Some(files)
    }

    /// The configuration of one component.
    pub fn config(&self, folder: Folder, dims: Dims<'_>) -> Value {
        match folder {
            Folder::Unet => unet::config(self, dims),
            Folder::Vae => vae::config(self.architecture, dims),
            Folder::TextEncoder | Folder::TextEncoder2 => text_encoder::config(self.architecture, folder, dims),
        }
    }

    /// The folders of its tokenizers, and the token each fills up with.
    fn tokenizers(&self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self.architecture {
            Architecture::Sd1 => &[("tokenizer", END)],
            Architecture::Sd2 => &[("tokenizer", "!")],
            Architecture::SdxlBase => &[("tokenizer", END), ("tokenizer_2", "!")],
            Architecture::SdxlRefiner => &[("tokenizer_2", "!")],
        }
    }

    fn model_index(&self) -> Option<Value> {
        let nothing = json!([null, null]);
        let part = |library: &str, class: &str| json!([library, class]);
        let has = |folder: Folder| Folder::of(self.architecture).contains(&folder);
        let text_encoder = |folder: Folder| match has(folder) {
            true => part("transformers", text_encoder::class(folder)),
            false => nothing.clone(),
        };
        let tokenizer = |name: &str| match self.tokenizers().iter().any(|(folder, _)| *folder == name) {
            true => part("transformers", "CLIPTokenizer"),
            false => nothing.clone(),
        };
        let mut index = Map::new();
        index.insert("_class_name".into(), self.class()?.into());
        index.insert("scheduler".into(), part("diffusers", scheduler::class(self)));
        index.insert("unet".into(), part("diffusers", "UNet2DConditionModel"));
        index.insert("vae".into(), part("diffusers", "AutoencoderKL"));
        index.insert("text_encoder".into(), text_encoder(Folder::TextEncoder));
        index.insert("tokenizer".into(), tokenizer("tokenizer"));
        match self.architecture {
            Architecture::Sd1 | Architecture::Sd2 => {
                index.insert("safety_checker".into(), nothing.clone());
                index.insert("feature_extractor".into(), nothing.clone());
                if self.task != Task::InstructPix2Pix {
                    index.insert("image_encoder".into(), nothing.clone());
                }
                index.insert("requires_safety_checker".into(), false.into());
            }
            Architecture::SdxlBase | Architecture::SdxlRefiner => {
                let is_base = self.architecture == Architecture::SdxlBase;
                index.insert("text_encoder_2".into(), text_encoder(Folder::TextEncoder2));
                index.insert("tokenizer_2".into(), tokenizer("tokenizer_2"));
                index.insert("force_zeros_for_empty_prompt".into(), is_base.into());
                if !is_base {
                    index.insert("requires_aesthetics_score".into(), true.into());
                }
            }
        }
        Some(Value::Object(index))
    }
}

/// As diffusers writes it: indented, with an end of line.
fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Adds fields to a configuration.
fn add(config: &mut Value, more: Value) {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
}

/// A dimension of a tensor; `published` where there is no such tensor.
fn dim(dims: Dims<'_>, key: &str, axis: usize, published: u64) -> u64 {
    dims(key).and_then(|dims| dims.get(axis).copied()).unwrap_or(published)
}

/// 8 heads and 32 groups are what published models have; fewer where the channels of a toy cannot be divided so.
fn divisor(widths: &[u64], published: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    widths.iter().copied().fold(published, gcd)
}

/// Heads of a published model, whose size is 64: of SD v2, SDXL and every text encoder.
fn heads(width: u64) -> u64 {
    (width / 64).max(1)
}
