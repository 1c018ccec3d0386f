//! Detects the architecture of a state dict from its keys and shapes, and collects the evidence.
//!
//! Each piece of evidence lists the architectures that can have it. The answer is the architecture that all evidence
//! allows; without evidence, or if several or no architectures remain, it is unknown. Layer counts come first because
//! they do not depend on the width of a model; widths decide only if a published model has them.

use serde::Serialize;

use Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner, StableVideo};

use crate::family::{Architecture, Task};
use crate::layout::{self, UnetStructure};
use trinart_ckpt_formats::state_dict::StateDict;

/// The naming scheme of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Naming {
    /// Latent Diffusion, the original code: the names in single-file checkpoints.
    Ldm,
    /// diffusers: the names in folders.
    Diffusers,
}

/// One tensor, and the architectures that can have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Evidence {
    /// The key of the tensor.
    pub key: String,
    /// The dimensions of the tensor; empty if the evidence is that it is missing.
    #[serde(rename = "shape")]
    pub dims: Vec<u64>,
    /// What the tensor shows, in words.
    pub finding: String,
    /// The architectures that can have this tensor.
    pub candidates: Vec<Architecture>,
}

/// The result of [`detect`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detection {
    /// The naming scheme; `None` if no component was recognised.
    pub naming: Option<Naming>,
    /// The task of the UNet; `None` without a UNet, as for a ControlNet.
    pub task: Option<Task>,
    /// The evidence, in the order it was found.
    pub evidence: Vec<Evidence>,
}

impl Detection {
    /// Returns the architectures that all evidence allows. Empty without evidence, or if the evidence is contradictory.
    ///
    /// SSD-1B and Vega differ from SDXL base in the UNet alone; without one, only SDXL base counts. A video model has layers
    /// over time; without them, the others count.
    pub fn candidates(&self) -> Vec<Architecture> {
        let possible =
            |architecture: &Architecture| self.evidence.iter().all(|seen| seen.candidates.contains(architecture));
        let all = if self.evidence.is_empty() { &[] } else { Architecture::ALL };
        let mut candidates: Vec<Architecture> = all.iter().copied().filter(possible).collect();
        if candidates.contains(&SdxlBase) {
            candidates.retain(|it| it.base() == *it);
        }
        if candidates.len() > 1 {
            candidates.retain(|it| *it != StableVideo);
        }
        candidates
    }

    /// Returns the architecture if the evidence allows exactly one.
    pub fn architecture(&self) -> Option<Architecture> {
        match self.candidates().as_slice() {
            &[only] => Some(only),
            _ => None,
        }
    }

    /// The name of the model, if a key shows one that this program does not render.
    pub fn foreign(&self) -> Option<&'static str> {
        let is_seen = |key: &str| self.evidence.iter().any(|seen| seen.key == key);
        let found = FOREIGN.iter().find(|(key, _)| is_seen(key)).map(|(_, model)| *model);
        found.or_else(|| self.is_video().then_some(StableVideo.text()))
    }

    /// Returns whether the UNet has layers over time.
    fn is_video(&self) -> bool {
        let ends = [LDM.time, DIFFUSERS_VIDEO.time];
        self.evidence.iter().any(|seen| ends.iter().any(|end| seen.key.ends_with(end)))
    }

    /// Describes why [`Detection::architecture`] is `None`.
    pub fn doubt(&self) -> String {
        match self.candidates().as_slice() {
            [] if self.evidence.is_empty() => "no known keys".to_owned(),
            [] => "keys and shapes contradict each other".to_owned(),
            candidates => candidates.iter().map(|it| it.text()).collect::<Vec<_>>().join(" or "),
        }
    }

    /// Combines the detections of two components of one model.
    pub fn and(mut self, other: Detection) -> Self {
        self.evidence.extend(other.evidence);
        Detection { naming: self.naming.or(other.naming), task: self.task.or(other.task), evidence: self.evidence }
    }
}

/// Detects the architecture of a checkpoint in LDM names, or of one component of a diffusers folder.
pub fn detect(state_dict: &StateDict) -> Detection {
    detect_by(&|key| state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec()))
}

/// Like [`detect`], with a function that returns the dimensions of a tensor by its key.
pub fn detect_by(dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Detection {
    let detection = Detection { naming: None, task: None, evidence: Vec::new() };
    let mut detector = Detector { dims, detection };
    for &(key, model) in FOREIGN {
        detector.at(key, |_| (format!("a key of {model}"), Vec::new()));
    }
    for (keys, prefix) in [
        (&LDM, "model.diffusion_model."),
        (&LDM, "control_model."),
        (&LDM, ""),
        (&DIFFUSERS, ""),
        (&DIFFUSERS_VIDEO, ""),
    ] {
        if detector.unet(keys, prefix) {
            break;
        }
    }
    detector.text_encoders();
    detector.vae();
    detector.detection
}

/// Keys of models without a key layout, with the name of the model.
const FOREIGN: &[(&str, &str)] = &[
    ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "SD v3"),
    ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
    ("embedder.model.ln_final.weight", "SD v2 unCLIP"),
    ("cond_stage_model.roberta.embeddings.word_embeddings.weight", "AltDiffusion"),
    ("cc_projection.weight", "Zero-1-to-3"),
    ("model.diffusion_model.camera_embed.0.weight", "MVDream"),
    ("model.diffusion_model.input_blocks.1.0.temopral_conv.conv1.0.weight", "VideoCrafter"),
    ("input_blocks.1.0.temopral_conv.conv1.0.weight", "ModelScope text to video"),
    ("down_blocks.0.temp_convs.0.conv1.0.weight", "ModelScope text to video"),
];

/// The UNet keys that detection reads, in one naming scheme.
struct UnetKeys {
    naming: Naming,
    conv_in: &'static str,
    label: &'static str,
    /// The first residual block of a resolution.
    block: fn(usize) -> String,
    /// The first attention of a resolution.
    attention: fn(usize) -> String,
    /// A key that a ControlNet has, and a UNet lacks.
    control: &'static str,
    /// A layer over time.
    time: &'static str,
}

const LDM: UnetKeys = UnetKeys {
    naming: Naming::Ldm,
    conv_in: "input_blocks.0.0.weight",
    label: "label_emb.0.0.weight",
    block: |level| format!("input_blocks.{}.0.in_layers.0.weight", 3 * level + 1),
    attention: |level| format!("input_blocks.{}.1", 3 * level + 1),
    control: "zero_convs.0.0.weight",
    time: "input_blocks.1.0.time_stack.in_layers.0.weight",
};

const DIFFUSERS: UnetKeys = UnetKeys {
    naming: Naming::Diffusers,
    conv_in: "conv_in.weight",
    label: "add_embedding.linear_1.weight",
    block: |level| format!("down_blocks.{level}.resnets.0.norm1.weight"),
    attention: |level| format!("down_blocks.{level}.attentions.0"),
    control: "controlnet_down_blocks.0.weight",
    time: "down_blocks.0.resnets.0.temporal_res_block.norm1.weight",
};

/// The names of UNetSpatioTemporalConditionModel, where the layers over space have a part of the name to themselves.
const DIFFUSERS_VIDEO: UnetKeys =
    UnetKeys { block: |level| format!("down_blocks.{level}.resnets.0.spatial_res_block.norm1.weight"), ..DIFFUSERS };

/// Layers over time in the decoder of a VAE, in a checkpoint, alone, and in diffusers names.
const VIDEO_DECODER: [&str; 3] = [
    "first_stage_model.decoder.mid.block_1.time_stack.in_layers.0.weight",
    "decoder.mid.block_1.time_stack.in_layers.0.weight",
    "decoder.mid_block.resnets.0.temporal_res_block.norm1.weight",
];

struct Detector<'a> {
    dims: &'a dyn Fn(&str) -> Option<Vec<u64>>,
    detection: Detection,
}

impl Detector<'_> {
    /// Adds evidence if the key exists. `judge` gets the dimensions and returns the finding and the candidates.
    fn at(&mut self, key: &str, judge: impl FnOnce(&[u64]) -> (String, Vec<Architecture>)) {
        if let Some(dims) = (self.dims)(key) {
            let (finding, candidates) = judge(&dims);
            self.detection.evidence.push(Evidence { key: key.to_owned(), dims, finding, candidates });
        }
    }

    /// Counts consecutive indices whose key exists, from 0.
    fn count(&self, key: impl Fn(usize) -> String) -> usize {
        layout::count(|&index| (self.dims)(&key(index)).is_some())
    }

    /// Looks for a UNet with these keys. Returns whether there is one.
    fn unet(&mut self, keys: &UnetKeys, prefix: &str) -> bool {
        let levels = self.count(|level| format!("{prefix}{}", (keys.block)(level)));
        let Some(last_level) = levels.checked_sub(1) else { return false };
        self.detection.naming = Some(keys.naming);
        let conv_in = format!("{prefix}{}", keys.conv_in);
        let channels = (self.dims)(&conv_in).and_then(|dims| dims.get(1).copied());
        // A ControlNet has no task of its own: the UNet that it steers has one.
        let is_unet = (self.dims)(&format!("{prefix}{}", keys.control)).is_none();
        let time = format!("{prefix}{}", keys.time);
        let is_video = (self.dims)(&time).is_some();
        let task = |channels| Task::from_channels(channels, is_video);
        self.detection.task = channels.filter(|_| is_unet).map(task);
        self.at(&conv_in, |_| {
            let finding = match channels {
                Some(channels) if !is_unet => format!("{channels} input channels of a ControlNet"),
                Some(channels) => format!("{channels} input channels: {}", task(channels).text()),
                None => "no input channels: not the weight of a convolution".to_owned(),
            };
            (finding, Architecture::ALL.to_vec())
        });
        let attention = |level| format!("{prefix}{}", (keys.attention)(level));
        let block = |level, index| format!("{}.transformer_blocks.{index}.attn2.to_k.weight", attention(level));
        let depths: Vec<usize> = (0..levels).map(|level| self.count(|index| block(level, index))).collect();
        self.at(&format!("{prefix}{}", (keys.block)(last_level)), |_| {
            let finding = format!("last of {levels} resolutions; transformer blocks per attention: {depths:?}");
            let is_like = |it: UnetStructure| it.depths == depths && it.video == is_video;
            (finding, matching(|architecture| is_like(UnetStructure::of(architecture))))
        });
        if is_video {
            self.video(&time, &format!("{prefix}{}", keys.label));
            return true;
        }
        self.label(format!("{prefix}{}", keys.label));
        // Widths decide if a published model has them, otherwise ranks: SD v1 has 1x1 convolutions around its
        // transformer blocks.
        let Some(level) = depths.iter().position(|&depth| depth > 0) else { return true };
        self.at(&block(level, 0), |dims| match dims.get(1) {
            Some(&width) => match with_text_width(width) {
                [] => (format!("text width {width}, of no published model"), Architecture::ALL.to_vec()),
                candidates => (format!("text width {width}"), candidates.to_vec()),
            },
            None => ("no text width: not the weight of a linear layer".to_owned(), Architecture::ALL.to_vec()),
        });
        if self.detection.candidates() == [Sd1, Sd2] {
            self.at(&format!("{}.proj_in.weight", attention(level)), |dims| match dims.len() {
                4 => ("a convolution, as in SD v1".to_owned(), vec![Sd1]),
                2 => ("a linear layer, as in SD v2".to_owned(), vec![Sd2]),
                _ => ("neither a convolution nor a linear layer".to_owned(), Vec::new()),
            });
        }
        true
    }

    /// The layers over time of a video model, and the layer that embeds its extra conditioning.
    fn video(&mut self, time: &str, label: &str) {
        self.at(time, |_| ("layers over time".to_owned(), vec![StableVideo]));
        self.at(label, |dims| match dims.get(1) {
            // One angle, or five of them.
            Some(256 | 1280) => ("conditioning of Stable Video 3D".to_owned(), Vec::new()),
            _ => ("extra conditioning".to_owned(), vec![StableVideo]),
        });
    }

    /// The layer that embeds extra conditioning: SDXL has one, SD v1 and v2 do not.
    fn label(&mut self, key: String) {
        if (self.dims)(&key).is_none() {
            self.detection.evidence.push(Evidence {
                key,
                dims: Vec::new(),
                finding: "missing: no conditioning besides time and text".to_owned(),
                candidates: matching(|architecture| !UnetStructure::of(architecture).label),
            });
            return;
        }
        self.at(&key, |dims| match dims.get(1).map_or(&[][..], |&width| with_label_width(width)) {
            [] => ("extra conditioning".to_owned(), matching(|it| UnetStructure::of(it).label)),
            found @ [first, ..] => (format!("pooled text and sizes of {}", first.text()), found.to_vec()),
        });
    }

    fn text_encoders(&mut self) {
        let clip = |prefix: &'static str| move |layer| format!("{prefix}encoder.layers.{layer}.layer_norm1.weight");
        let open_clip =
            |prefix: &'static str| move |layer| format!("{prefix}transformer.resblocks.{layer}.ln_1.weight");
        /// The naming, the prefix, whether it is OpenCLIP, and the architectures that use this prefix.
        type Location = (Naming, &'static str, bool, &'static [Architecture]);
        const LOCATIONS: &[Location] = &[
            (Naming::Ldm, "cond_stage_model.transformer.text_model.", false, &[Sd1]),
            (Naming::Ldm, "cond_stage_model.transformer.", false, &[Sd1]),
            (Naming::Ldm, "cond_stage_model.model.", true, &[Sd2]),
            (Naming::Ldm, "conditioner.embedders.0.transformer.text_model.", false, Architecture::XL_BASES),
            (Naming::Ldm, "conditioner.embedders.0.transformer.", false, Architecture::XL_BASES),
            (Naming::Ldm, "conditioner.embedders.1.model.", true, Architecture::XL_BASES),
            // SD-Turbo uses the prefix of the refiner.
            (Naming::Ldm, "conditioner.embedders.0.model.", true, &[Sd2, SdxlRefiner]),
            (Naming::Diffusers, "text_model.", false, Architecture::ALL),
            (Naming::Diffusers, "", false, Architecture::ALL),
        ];
        for &(naming, prefix, is_open, with_prefix) in LOCATIONS {
            let layers = if is_open { self.count(open_clip(prefix)) } else { self.count(clip(prefix)) };
            let Some(last) = layers.checked_sub(1) else { continue };
            // An image encoder has the same layers.
            if (self.dims)(&format!("{prefix}embeddings.class_embedding")).is_some() {
                continue;
            }
            // The layer count identifies the encoder. Folders hold 23 of the 24 layers of OpenCLIP ViT-H.
            let (encoder, with_layers): (_, &[Architecture]) = match layers {
                12 => ("CLIP ViT-L", Architecture::WITH_CLIP_L),
                23 | 24 => ("OpenCLIP ViT-H", &[Sd2]),
                32 => ("OpenCLIP ViT-bigG", Architecture::WITH_CLIP_G),
                _ => ("text encoder of no published model", Architecture::ALL),
            };
            self.detection.naming = self.detection.naming.or(Some(naming));
            let key = if is_open { open_clip(prefix)(last) } else { clip(prefix)(last) };
            let candidates = matching(|it| with_prefix.contains(&it) && with_layers.contains(&it));
            self.at(&key, |_| (format!("last of {layers} layers: {encoder}"), candidates));
        }
    }

    fn vae(&mut self) {
        let keys = [
            (Naming::Ldm, "first_stage_model.encoder.down.0.block.0.norm1.weight"),
            (Naming::Ldm, "encoder.down.0.block.0.norm1.weight"),
            (Naming::Diffusers, "encoder.down_blocks.0.resnets.0.norm1.weight"),
        ];
        for (naming, key) in keys {
            if (self.dims)(key).is_some() {
                self.detection.naming = self.detection.naming.or(Some(naming));
                self.at(key, |_| ("VAE, the same in all architectures".to_owned(), Architecture::ALL.to_vec()));
            }
        }
        for key in VIDEO_DECODER {
            self.at(key, |_| ("layers over time in the decoder of the VAE".to_owned(), vec![StableVideo]));
        }
    }
}

/// Returns the published architectures whose UNet takes text of this width.
pub(crate) fn with_text_width(width: u64) -> &'static [Architecture] {
    match width {
        768 => &[Sd1],
        1024 => &[Sd2],
        2048 => Architecture::XL_BASES,
        1280 => &[SdxlRefiner],
        _ => &[],
    }
}

/// Returns the published architectures whose UNet takes pooled text and sizes of this width.
pub(crate) fn with_label_width(width: u64) -> &'static [Architecture] {
    match width {
        2816 => Architecture::XL_BASES,
        2560 => &[SdxlRefiner],
        _ => &[],
    }
}

fn matching(possible: impl Fn(Architecture) -> bool) -> Vec<Architecture> {
    Architecture::ALL.iter().copied().filter(|&architecture| possible(architecture)).collect()
}
