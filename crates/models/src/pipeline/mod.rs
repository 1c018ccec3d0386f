//! The pipeline of a diffusers folder: its class, and the configuration of each component, derived from the shapes of
//! the tensors and from the architecture.
//!
//! Properties that shapes do not show have the values of the published models: the number of attention heads, the groups
//! of normalizations, the scaling factor of the latents.

mod config;
mod control_net;
mod definition;
mod scheduler;
mod text_encoder;
mod tokenizer;
mod unet;
mod vae;
mod video;

use serde_json::{Map, Value, json};

use crate::family::{Architecture, Prediction, Task};
use crate::layout::Folder;
use config::{dim, text};
pub(crate) use definition::Pipeline;
pub(crate) use scheduler::timestep_spacing;
pub(crate) use video::{FRAMES, image_encoder, vision_heads};

/// The projection of a text encoder to the pooled text.
const PROJECTION: &str = "text_projection.weight";

impl Pipeline<'_> {
    /// The diffusers class; `None` if the pipeline needs components that a checkpoint does not have.
    fn class(&self) -> Option<&'static str> {
        use Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner, Ssd1b, StableVideo, Vega};
        match (self.architecture, self.task) {
            (Sd1 | Sd2, Task::TextToImage) => Some("StableDiffusionPipeline"),
            (Sd1 | Sd2, Task::Inpainting) => Some("StableDiffusionInpaintPipeline"),
            (Sd1 | Sd2, Task::InstructPix2Pix) => Some("StableDiffusionInstructPix2PixPipeline"),
            (SdxlBase | Ssd1b | Vega, Task::TextToImage) => Some("StableDiffusionXLPipeline"),
            (SdxlBase | Ssd1b | Vega, Task::Inpainting) => Some("StableDiffusionXLInpaintPipeline"),
            (SdxlBase | Ssd1b | Vega, Task::InstructPix2Pix) => Some("StableDiffusionXLInstructPix2PixPipeline"),
            (SdxlRefiner, Task::TextToImage) => Some("StableDiffusionXLImg2ImgPipeline"),
            (StableVideo, Task::ImageToVideo) => Some("StableVideoDiffusionPipeline"),
            _ => None,
        }
    }

    /// Returns all files of the folder except the weights, as pairs of path and text. `None` if the pipeline needs
    /// components that a checkpoint does not have.
    pub(crate) fn files(&self, dims: &dyn Fn(Folder, &str) -> Option<Vec<u64>>) -> Option<Vec<(String, String)>> {
        let mut files = vec![("model_index.json".to_owned(), text(&self.model_index()?))];
        files.extend(self.configs(dims));
        for (folder, pad) in self.tokenizers() {
            files.extend(tokenizer::files(pad).into_iter().map(|(name, text)| (format!("{folder}/{name}"), text)));
        }
        if self.architecture == Architecture::StableVideo {
            let size = video::picture_size(&|key| dims(Folder::ImageEncoder, key));
            files
                .push(("feature_extractor/preprocessor_config.json".to_owned(), text(&video::feature_extractor(size))));
        }
        Some(files)
    }

    /// Returns the configurations of the components and of the scheduler, as pairs of path and text.
    pub(crate) fn configs(&self, dims: &dyn Fn(Folder, &str) -> Option<Vec<u64>>) -> Vec<(String, String)> {
        let components = Folder::of(self.architecture).iter();
        let of_component =
            |&folder: &Folder| (format!("{}/config.json", folder.name()), text(&self.config(folder, dims)));
        let scheduler = ("scheduler/scheduler_config.json".to_owned(), text(&scheduler::config(self)));
        components.map(of_component).chain([scheduler]).collect()
    }

    /// Returns `config.json` of a component.
    pub(crate) fn config(&self, folder: Folder, dims: &dyn Fn(Folder, &str) -> Option<Vec<u64>>) -> Value {
        let own = |key: &str| dims(folder, key);
        match (folder, self.architecture) {
            (Folder::Unet, Architecture::StableVideo) => video::unet(&own),
            (Folder::Vae, Architecture::StableVideo) => video::vae(&self.parameterization.vae, &own),
            (Folder::ImageEncoder, _) => image_encoder(&own, "gelu"),
            (Folder::Unet, _) => {
                unet::config(self, &own, dim(&|key| dims(Folder::TextEncoder2, key), PROJECTION, 0, 1280))
            }
            (Folder::Vae, _) => vae::config(self.architecture, &self.parameterization.vae, &own),
            (Folder::ControlNet, _) => control_net::config(self, &own),
            (Folder::TextEncoder | Folder::TextEncoder2, _) => text_encoder::config(self.architecture, folder, &own),
        }
    }

    /// The subfolders of the tokenizers, and the padding token of each.
    fn tokenizers(&self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self.architecture {
            Architecture::Sd1 => &[("tokenizer", END)],
            Architecture::Sd2 => &[("tokenizer", "!")],
            Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega => {
                &[("tokenizer", END), ("tokenizer_2", "!")]
            }
            Architecture::SdxlRefiner => &[("tokenizer_2", "!")],
            Architecture::StableVideo => &[],
        }
    }

    /// Returns the scheduler's class and configuration.
    pub(crate) fn scheduler(&self) -> (&'static str, Value) {
        (scheduler::class(self), scheduler::config(self))
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
        // diffusers needs a version here to open a pipeline as one of another task.
        index.insert("_diffusers_version".into(), "0.42.1".into());
        if self.architecture == Architecture::StableVideo {
            index.insert("feature_extractor".into(), part("transformers", "CLIPImageProcessor"));
            index.insert("image_encoder".into(), part("transformers", "CLIPVisionModelWithProjection"));
            index.insert("scheduler".into(), part("diffusers", scheduler::class(self)));
            index.insert("unet".into(), part("diffusers", "UNetSpatioTemporalConditionModel"));
            index.insert("vae".into(), part("diffusers", "AutoencoderKLTemporalDecoder"));
            return Some(Value::Object(index));
        }
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
            _ => {
                let is_base = self.architecture.has_two_text_encoders();
                index.insert("text_encoder_2".into(), text_encoder(Folder::TextEncoder2));
                index.insert("tokenizer_2".into(), tokenizer("tokenizer_2"));
                index.insert("force_zeros_for_empty_prompt".into(), is_base.into());
                if self.task == Task::InstructPix2Pix && self.parameterization.prediction == Prediction::EdmVelocity {
                    index.insert("is_cosxl_edit".into(), true.into());
                }
                if !is_base {
                    index.insert("requires_aesthetics_score".into(), true.into());
                }
            }
        }
        Some(Value::Object(index))
    }
}
