//! Which Stable Diffusion a state dict belongs to, told from keys and shapes, with the evidence.
//!
//! Each clue says which architectures it leaves possible; what all clues leave is the answer. No clue at all, several
//! architectures left and none left are all "unknown", and the evidence says why. Numbers of layers weigh first, as
//! they are the same for models of any width; widths decide where they are those of a published model.

use crate::model::layout::UnetStructure;
use crate::state_dict::StateDict;

/// A family of models with the same keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Architecture {
    /// SD 1.1 to 1.5.
    Sd1,
    /// SD 2.0, 2.1, Turbo.
    Sd2,
    /// The base model of SDXL.
    SdxlBase,
    /// The refiner of SDXL.
    SdxlRefiner,
}

use Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner};

impl Architecture {
    /// All of them.
    pub const ALL: &'static [Architecture] = &[Sd1, Sd2, SdxlBase, SdxlRefiner];

    /// Its name for people and for `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Sd1 => "SD v1",
            Sd2 => "SD v2",
            SdxlBase => "SDXL base",
            SdxlRefiner => "SDXL refiner",
        }
    }
}

/// What a UNet is given beside the noisy latent, told from the channels that go into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// 4 channels: nothing.
    TextToImage,
    /// 5: a depth map.
    Depth,
    /// 8: an image to edit.
    InstructPix2Pix,
    /// 9: a mask, and the image under it.
    Inpainting,
    /// Another number.
    Other(u64),
}

impl Task {
    /// By the channels that go in.
    pub fn of_channels(channels: u64) -> Self {
        match channels {
            4 => Task::TextToImage,
            5 => Task::Depth,
            8 => Task::InstructPix2Pix,
            9 => Task::Inpainting,
            other => Task::Other(other),
        }
    }

    /// Its name for people and for `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Task::TextToImage => "text to image",
            Task::Depth => "depth to image",
            Task::InstructPix2Pix => "instruct-pix2pix",
            Task::Inpainting => "inpainting",
            Task::Other(_) => "unknown",
        }
    }
}

/// What a UNet was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// The noise. No file says so.
    Epsilon,
    /// The velocity. The file carries the mark that trainers put into such models of SDXL.
    Velocity,
    /// Neither keys nor shapes tell. SD 2.0 base and SD 2.1 have the same.
    Unknown,
}

/// The key that marks a model of v-prediction, of no use otherwise.
const VELOCITY_MARK: &str = "v_pred";

/// In whose names the keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Naming {
    /// Those of the original code, as in single-file checkpoints.
    Ldm,
    /// Those of a diffusers folder.
    Diffusers,
}

/// One thing that was seen, and what it leaves possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The key that was looked at.
    pub key: String,
    /// Its dimensions.
    pub dims: Vec<u64>,
    /// What it says, to be read behind key and dimensions.
    pub says: String,
    /// The architectures that are possible with it.
    pub leaves: Vec<Architecture>,
}

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// The names the keys are in; `None` where no component was recognised.
    pub naming: Option<Naming>,
    /// What the UNet is for; `None` without a UNet.
    pub task: Option<Task>,
    /// What the UNet predicts.
    pub prediction: Prediction,
    /// All that was seen, in the order in which it was looked at.
    pub evidence: Vec<Evidence>,
}

impl Detection {
    /// The architectures that all the evidence leaves; none without evidence, and none where it contradicts itself.
    pub fn candidates(&self) -> Vec<Architecture> {
        let possible =
            |architecture: &Architecture| self.evidence.iter().all(|seen| seen.leaves.contains(architecture));
        let all = if self.evidence.is_empty() { &[] } else { Architecture::ALL };
        all.iter().copied().filter(possible).collect()
    }

    /// The architecture, where the evidence leaves exactly one.
    pub fn architecture(&self) -> Option<Architecture> {
        match self.candidates().as_slice() {
            &[only] => Some(only),
            _ => None,
        }
    }

    /// What two components of one model say together.
    pub fn and(mut self, other: Detection) -> Self {
        self.evidence.extend(other.evidence);
        Detection {
            naming: self.naming.or(other.naming),
            task: self.task.or(other.task),
            prediction: if self.prediction == Prediction::Unknown { other.prediction } else { self.prediction },
            evidence: self.evidence,
        }
    }
}

/// Looks at a checkpoint in LDM names, or at one component of a diffusers folder.
pub fn detect(state_dict: &StateDict) -> Detection {
    detect_by(&|key| state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec()))
}

/// As [`detect`], for anything that knows the dimensions of its tensors.
pub fn detect_by(dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Detection {
    let found = Detection { naming: None, task: None, prediction: Prediction::Unknown, evidence: Vec::new() };
    let mut look = Look { dims, found };
    for &(key, model) in FOREIGN {
        look.at(key, |_| (format!("of {model}"), Vec::new()));
    }
    for (names, prefix) in [(&LDM, "model.diffusion_model."), (&LDM, ""), (&DIFFUSERS, "")] {
        if look.unet(names, prefix) {
            break;
        }
    }
    look.text_encoders();
    look.autoencoder();
    if (look.dims)(VELOCITY_MARK).is_some() {
        look.at(VELOCITY_MARK, |_| ("the mark of v-prediction".to_owned(), Architecture::ALL.to_vec()));
        look.found.prediction = Prediction::Velocity;
    }
    look.found
}

/// Keys that none of the architectures has, and whose they are.
const FOREIGN: &[(&str, &str)] = &[
    ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "SD v3"),
    ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
    ("model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight", "Stable Video Diffusion"),
    ("embedder.model.ln_final.weight", "SD v2 unCLIP"),
    ("cond_stage_model.roberta.embeddings.word_embeddings.weight", "AltDiffusion"),
    ("cc_projection.weight", "Zero-1-to-3"),
];

/// The keys of a UNet that are looked at.
struct Names {
    naming: Naming,
    conv_in: &'static str,
    label: &'static str,
    /// Of a resolution's first block.
    block: fn(usize) -> String,
    /// Of a resolution's first attention.
    attention: fn(usize) -> String,
}

const LDM: Names = Names {
    naming: Naming::Ldm,
    conv_in: "input_blocks.0.0.weight",
    label: "label_emb.0.0.weight",
    block: |level| format!("input_blocks.{}.0.in_layers.0.weight", 3 * level + 1),
    attention: |level| format!("input_blocks.{}.1", 3 * level + 1),
};

const DIFFUSERS: Names = Names {
    naming: Naming::Diffusers,
    conv_in: "conv_in.weight",
    label: "add_embedding.linear_1.weight",
    block: |level| format!("down_blocks.{level}.resnets.0.norm1.weight"),
    attention: |level| format!("down_blocks.{level}.attentions.0"),
};

/// Layers of one kind that are counted, at most: more than any model has.
const MOST_LAYERS: usize = 100;

struct Look<'a> {
    dims: &'a dyn Fn(&str) -> Option<Vec<u64>>,
    found: Detection,
}

impl Look<'_> {
    /// Notes what a key says, if it is there.
    fn at(&mut self, key: &str, says: impl FnOnce(&[u64]) -> (String, Vec<Architecture>)) {
        if let Some(dims) = (self.dims)(key) {
            let (says, leaves) = says(&dims);
            self.found.evidence.push(Evidence { key: key.to_owned(), dims, says, leaves });
        }
    }

    /// How many there are, one after another.
    fn count(&self, key: impl Fn(usize) -> String) -> usize {
        (0..MOST_LAYERS).find(|&index| (self.dims)(&key(index)).is_none()).unwrap_or(MOST_LAYERS)
    }

    /// Looks at a UNet under these names; whether there is one.
    fn unet(&mut self, names: &Names, prefix: &str) -> bool {
        let levels = self.count(|level| format!("{prefix}{}", (names.block)(level)));
        if levels == 0 {
            return false;
        }
        self.found.naming = Some(names.naming);
        let conv_in = format!("{prefix}{}", names.conv_in);
        self.found.task = (self.dims)(&conv_in).and_then(|dims| dims.get(1).copied()).map(Task::of_channels);
        let task = self.found.task.unwrap_or(Task::Other(0));
        self.at(&conv_in, |dims| {
            let channels = dims.get(1).copied().unwrap_or_default();
            (format!("{channels} channels in: {}", task.name()), Architecture::ALL.to_vec())
        });
        let attention = |level| format!("{prefix}{}", (names.attention)(level));
        let block = |level, index| format!("{}.transformer_blocks.{index}.attn2.to_k.weight", attention(level));
        let depths: Vec<usize> = (0..levels).map(|level| self.count(|index| block(level, index))).collect();
        self.at(&format!("{prefix}{}", (names.block)(levels - 1)), |_| {
            let says = format!("the last of {levels} resolutions, with {depths:?} transformer blocks in an attention");
            (says, those(|architecture| UnetStructure::of(architecture).depths == depths))
        });
        let label = format!("{prefix}{}", names.label);
        let has_label = (self.dims)(&label).is_some();
        self.at(&label, |dims| match dims.get(1) {
            Some(2816) => ("SDXL base's pooled text and sizes".to_owned(), vec![SdxlBase]),
            Some(2560) => ("SDXL refiner's pooled text and sizes".to_owned(), vec![SdxlRefiner]),
            _ => ("told more than time and text".to_owned(), those(|it| UnetStructure::of(it).label)),
        });
        if !has_label {
            self.found.evidence.push(Evidence {
                key: label,
                dims: Vec::new(),
                says: "not there: told time and text alone".to_owned(),
                leaves: those(|architecture| !UnetStructure::of(architecture).label),
            });
        }
        // Widths, and where they are nobody's, ranks: SD v1 has convolutions around its transformer blocks.
        let Some(level) = depths.iter().position(|&depth| depth > 0) else { return true };
        self.at(&block(level, 0), |dims| {
            let width = dims.get(1).copied().unwrap_or_default();
            let leaves = match width {
                768 => vec![Sd1],
                1024 => vec![Sd2],
                2048 => vec![SdxlBase],
                1280 => vec![SdxlRefiner],
                _ => Architecture::ALL.to_vec(),
            };
            let published = if leaves.len() == 1 { "" } else { ", of no published model" };
            (format!("text of width {width}{published}"), leaves)
        });
        if self.found.candidates() == [Sd1, Sd2] {
            self.at(&format!("{}.proj_in.weight", attention(level)), |dims| match dims.len() {
                4 => ("a convolution, as in SD v1".to_owned(), vec![Sd1]),
                2 => ("a linear layer, as in SD v2".to_owned(), vec![Sd2]),
                _ => ("neither a convolution nor a linear layer".to_owned(), Vec::new()),
            });
        }
        true
    }

    fn text_encoders(&mut self) {
        let clip = |prefix: &'static str| move |layer| format!("{prefix}encoder.layers.{layer}.layer_norm1.weight");
        let open_clip =
            |prefix: &'static str| move |layer| format!("{prefix}transformer.resblocks.{layer}.ln_1.weight");
        type Place = (Naming, &'static str, bool, &'static [Architecture]);
        const PLACES: &[Place] = &[
            (Naming::Ldm, "cond_stage_model.transformer.text_model.", false, &[Sd1]),
            (Naming::Ldm, "cond_stage_model.transformer.", false, &[Sd1]),
            (Naming::Ldm, "cond_stage_model.model.", true, &[Sd2]),
            (Naming::Ldm, "conditioner.embedders.0.transformer.text_model.", false, &[SdxlBase]),
            (Naming::Ldm, "conditioner.embedders.0.transformer.", false, &[SdxlBase]),
            (Naming::Ldm, "conditioner.embedders.1.model.", true, &[SdxlBase]),
            // SD-Turbo keeps its text encoder where the refiner does.
            (Naming::Ldm, "conditioner.embedders.0.model.", true, &[Sd2, SdxlRefiner]),
            (Naming::Diffusers, "text_model.", false, Architecture::ALL),
            (Naming::Diffusers, "", false, Architecture::ALL),
        ];
        for &(naming, prefix, is_open, at_this_place) in PLACES {
            let layers = if is_open { self.count(open_clip(prefix)) } else { self.count(clip(prefix)) };
            let Some(last) = layers.checked_sub(1) else { continue };
            // Layers tell the models apart: CLIP ViT-L, OpenCLIP ViT-H (23 of 24 in folders), OpenCLIP ViT-bigG.
            let (model, with_so_many): (_, &[Architecture]) = match layers {
                12 => ("CLIP ViT-L", &[Sd1, SdxlBase]),
                23 | 24 => ("OpenCLIP ViT-H", &[Sd2]),
                32 => ("OpenCLIP ViT-bigG", &[SdxlBase, SdxlRefiner]),
                _ => ("a text encoder of no published model", Architecture::ALL),
            };
            self.found.naming = self.found.naming.or(Some(naming));
            let key = if is_open { open_clip(prefix)(last) } else { clip(prefix)(last) };
            let leaves = those(|it| at_this_place.contains(&it) && with_so_many.contains(&it));
            self.at(&key, |_| (format!("the last of {layers} layers: {model}"), leaves));
        }
    }

    fn autoencoder(&mut self) {
        let keys = [
            (Naming::Ldm, "first_stage_model.encoder.down.0.block.0.norm1.weight"),
            (Naming::Ldm, "encoder.down.0.block.0.norm1.weight"),
            (Naming::Diffusers, "encoder.down_blocks.0.resnets.0.norm1.weight"),
        ];
        for (naming, key) in keys {
            if (self.dims)(key).is_some() {
                self.found.naming = self.found.naming.or(Some(naming));
                self.at(key, |_| ("an autoencoder, the same in all".to_owned(), Architecture::ALL.to_vec()));
            }
        }
    }
}

fn those(possible: impl Fn(Architecture) -> bool) -> Vec<Architecture> {
    Architecture::ALL.iter().copied().filter(|&architecture| possible(architecture)).collect()
}
