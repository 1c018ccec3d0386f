//! What each family takes from its text encoders, and how their tensors are named.

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_models::hyperparameters::{Activation, Hyperparameters, TextHyperparameters};
use trinart_ckpt_models::layout::Folder;

/// Number of tokens in CLIP's vocabulary.
const VOCABULARY: u64 = 49_408;

/// What a family takes from a text encoder.
#[derive(Debug)]
pub(super) struct EncoderTraits {
    /// The name for people.
    pub(super) name: &'static str,
    /// The component of a folder.
    folder: Folder,
    pub(super) names: &'static Names,
    /// The possible key prefixes. Writers disagree.
    prefixes: &'static [&'static str],
    /// The token after the end of a prompt.
    pub(super) padding: Padding,
    pub(super) layer: Layer,
    /// Whether the final layer norm applies to the output.
    pub(super) is_normalized: bool,
    /// Whether the pooled output is used.
    pub(super) is_pooled: bool,
}

/// The token that fills a chunk after the end token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    /// The end token again.
    End,
    Zero,
}

/// The layer whose output is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// The one that "clip skip" chooses, counted from the last.
    ClipSkip,
    /// The one before the last. Diffusers folders of SD v2 do not hold the last one.
    Penultimate,
}

/// The names of a text encoder's tensors.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) tokens: &'static str,
    pub(super) positions: &'static str,
    pub(super) layers: &'static str,
    pub(super) norm_1: &'static str,
    pub(super) norm_2: &'static str,
    pub(super) qkv: Qkv,
    pub(super) out: &'static str,
    pub(super) fc1: &'static str,
    pub(super) fc2: &'static str,
    pub(super) final_norm: &'static str,
    /// The activation of the MLPs in the published models.
    activation: Activation,
}

/// The names of the query, key and value projections.
#[derive(Debug)]
pub(super) enum Qkv {
    Separate([&'static str; 3]),
    /// One tensor for all three: the prefix of `weight` and `bias`.
    Fused(&'static str),
}

static CLIP: Names = Names {
    tokens: "embeddings.token_embedding.weight",
    positions: "embeddings.position_embedding.weight",
    layers: "encoder.layers",
    norm_1: "layer_norm1",
    norm_2: "layer_norm2",
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    out: "self_attn.out_proj",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
    final_norm: "final_layer_norm",
    activation: Activation::QuickGelu,
};

static OPEN_CLIP: Names = Names {
    tokens: "token_embedding.weight",
    positions: "positional_embedding",
    layers: "transformer.resblocks",
    norm_1: "ln_1",
    norm_2: "ln_2",
    qkv: Qkv::Fused("attn.in_proj_"),
    out: "attn.out_proj",
    fc1: "mlp.c_fc",
    fc2: "mlp.c_proj",
    final_norm: "ln_final",
    activation: Activation::Gelu,
};

impl EncoderTraits {
    pub(super) const SD1: EncoderTraits = EncoderTraits {
        name: "the text encoder of SD v1",
        folder: Folder::TextEncoder,
        names: &CLIP,
        // The second one is that of NovelAI's checkpoint.
        prefixes: &["cond_stage_model.transformer.text_model", "cond_stage_model.transformer"],
        padding: Padding::End,
        layer: Layer::ClipSkip,
        is_normalized: true,
        is_pooled: false,
    };

    pub(super) const SD2: EncoderTraits = EncoderTraits {
        name: "the text encoder of SD v2",
        folder: Folder::TextEncoder,
        names: &OPEN_CLIP,
        // The second one is that of SD Turbo.
        prefixes: &["cond_stage_model.model", "conditioner.embedders.0.model"],
        padding: Padding::Zero,
        layer: Layer::Penultimate,
        is_normalized: true,
        is_pooled: false,
    };

    pub(super) const SDXL_L: EncoderTraits = EncoderTraits {
        name: "the first text encoder of SDXL",
        prefixes: &["conditioner.embedders.0.transformer.text_model", "conditioner.embedders.0.transformer"],
        layer: Layer::Penultimate,
        is_normalized: false,
        ..EncoderTraits::SD1
    };

    pub(super) const SDXL_G: EncoderTraits = EncoderTraits {
        name: "the second text encoder of SDXL",
        folder: Folder::TextEncoder2,
        prefixes: &["conditioner.embedders.1.model"],
        is_normalized: false,
        is_pooled: true,
        ..EncoderTraits::SD2
    };

    pub(super) const REFINER_G: EncoderTraits = EncoderTraits {
        name: "the text encoder of the SDXL refiner",
        prefixes: &["conditioner.embedders.0.model"],
        ..EncoderTraits::SDXL_G
    };

    /// Returns the activation of the MLPs.
    pub(super) fn activation(&self, hyperparameters: &Hyperparameters) -> Activation {
        self.of(hyperparameters).activation.unwrap_or(self.names.activation)
    }

    /// Returns the number of attention heads in a text encoder of this width. Without hyperparameters, it is one per 64
    /// values, as in CLIP and OpenCLIP, or 4 if the width is not a multiple of 64, as in small test models.
    pub(super) fn heads(&self, hyperparameters: &Hyperparameters, width: usize) -> usize {
        let published = if width.is_multiple_of(64) { width / 64 } else { 4 };
        self.of(hyperparameters).heads.unwrap_or(published)
    }

    fn of(&self, hyperparameters: &Hyperparameters) -> TextHyperparameters {
        match self.folder {
            Folder::TextEncoder2 => hyperparameters.text_encoder_2,
            _ => hyperparameters.text_encoder,
        }
    }

    /// Whether the layers are those of OpenAI's CLIP.
    pub(super) fn is_clip(&self) -> bool {
        matches!(self.names.qkv, Qkv::Separate(_))
    }

    /// Returns the key prefix of the text encoder in a checkpoint.
    ///
    /// Fails if it is missing, or has a smaller vocabulary than the prompts need.
    pub(super) fn prefix(&self, state_dict: &StateDict) -> Result<&'static str> {
        let key = |prefix: &str| format!("{prefix}.{}", self.names.tokens);
        let Some(prefix) = self.prefixes.iter().find(|prefix| state_dict.contains(&key(prefix))) else {
            let first = self.prefixes.first().copied().unwrap_or_default();
            let message = format!("required by {}, missing from the checkpoint", self.name);
            return Err(Error::missing(message).in_tensor(key(first)));
        };
        let tokens = state_dict.get(&key(prefix)).and_then(|tensor| tensor.shape().dims().first().copied());
        match tokens {
            Some(tokens) if tokens < VOCABULARY => {
                let found = format!("the vocabulary has {tokens} tokens; the prompts need CLIP's {VOCABULARY}");
                Err(Error::unsupported(found).in_tensor(key(prefix)))
            }
            _ => Ok(prefix),
        }
    }
}
