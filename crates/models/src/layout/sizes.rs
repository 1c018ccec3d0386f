use super::folder::{CONTROL_PREFIX, IMAGE_ENCODER_PREFIX, UNET_PREFIX};
use crate::family::Architecture;

/// The sizes that determine all shapes of a model: those of a published model, or of a given file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) unet: Unet,
    pub(super) control: Control,
    pub(super) vae: Vae,
    /// The first text encoder. Unused for the refiner, which has none.
    pub(super) text_encoder: Text,
    /// The second text encoder. Used for SDXL.
    pub(super) text_encoder_2: Text,
    /// The image encoder. Used for Stable Video Diffusion.
    pub(super) image_encoder: Vision,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unet {
    /// Input channels: 4, or more for models conditioned on an image.
    pub(super) input: u64,
    pub(super) output: u64,
    /// Channels at each resolution, the highest resolution first.
    pub(super) widths: Widths,
    /// Width of the time embedding.
    pub(super) time: u64,
    /// Width of the text embedding that cross-attention reads.
    pub(super) context: u64,
    /// Width of the extra conditioning of SDXL: pooled text and sizes.
    pub(super) label: u64,
}

impl Unet {
    /// Reads the sizes off the tensors of a UNet. `size` gets a key without prefix, an axis and the published size.
    fn measured(&self, size: &dyn Fn(&str, usize, u64) -> u64) -> Self {
        let of_level = |level: usize, published: u64| {
            size(&format!("input_blocks.{}.0.out_layers.3.weight", 3 * level + 1), 0, published)
        };
        // The second highest resolution has cross-attention in every architecture.
        let context = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight";
        Unet {
            input: size("input_blocks.0.0.weight", 1, self.input),
            output: size("out.2.weight", 0, self.output),
            widths: self.widths.measured(of_level),
            time: size("time_embed.0.weight", 0, self.time),
            context: size(context, 1, self.context),
            label: size("label_emb.0.0.weight", 1, self.label),
        }
    }
}

/// Channels at each resolution of a UNet. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Widths {
    /// At the highest resolution.
    pub(super) first: u64,
    lower: Vec<u64>,
}

impl Widths {
    fn new<const LOWER: usize>(first: u64, lower: [u64; LOWER]) -> Self {
        Widths { first, lower: lower.to_vec() }
    }

    /// At the lowest resolution.
    pub(super) fn last(&self) -> u64 {
        self.lower.last().copied().unwrap_or(self.first)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.first).chain(self.lower.iter().copied())
    }

    /// Returns this number of widths; the last one is repeated.
    pub(super) fn with_levels(&self, levels: usize) -> Self {
        let last = self.last();
        Widths {
            first: self.first,
            lower: (1..levels).map(|level| *self.lower.get(level - 1).unwrap_or(&last)).collect(),
        }
    }

    /// Replaces each width by the result of `measure`, which gets the level and the width.
    fn measured(&self, measure: impl Fn(usize, u64) -> u64) -> Self {
        let lower = self.lower.iter().enumerate().map(|(index, &width)| measure(index + 1, width)).collect();
        Widths { first: measure(0, self.first), lower }
    }
}

/// The sizes of a ControlNet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Control {
    /// Those of its copy of the first half of a UNet.
    pub(super) unet: Unet,
    /// Channels of the picture that steers.
    pub(super) picture: u64,
    /// Channels of the encoder of that picture, at each resolution, the highest first.
    pub(super) hint: [u64; 4],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vae {
    pub(super) image: u64,
    pub(super) latent: u64,
    /// Channels at each resolution, the highest resolution first.
    pub(super) widths: [u64; 4],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) vocabulary: u64,
    pub(super) positions: u64,
    pub(super) width: u64,
    /// Width of the hidden layer of the MLPs.
    pub(super) hidden: u64,
    /// Width of the pooled output, after the projection.
    pub(super) projection: u64,
}

impl Text {
    const fn published(width: u64) -> Self {
        Text { vocabulary: 49408, positions: 77, width, hidden: 4 * width, projection: width }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vision {
    pub(super) layers: usize,
    pub(super) width: u64,
    /// Width of the hidden layer of the MLPs.
    pub(super) hidden: u64,
    /// Patches of a picture, and the class.
    pub(super) positions: u64,
    /// Width and height of a patch.
    pub(super) patch: u64,
    /// Channels of a picture.
    pub(super) channels: u64,
    pub(super) projection: u64,
    /// What the original code leaves of the text encoder beside it.
    pub(super) text: Text,
}

impl Vision {
    /// ViT-H: pictures of 224 by 224.
    const PUBLISHED: Vision = Vision {
        layers: 32,
        width: 1280,
        hidden: 5120,
        positions: 16 * 16 + 1,
        patch: 14,
        channels: 3,
        projection: 1024,
        text: Text::published(1024),
    };

    /// Reads the sizes of an image encoder alone off its tensors in names of transformers.
    pub(super) fn alone(layers: usize, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Self {
        let size = |key: &str, axis: usize, published: u64| {
            let found = dims(key).and_then(|dims| dims.get(axis).copied());
            found.filter(|&size| size <= LARGEST_SIZE).unwrap_or(published)
        };
        let of = Self::PUBLISHED;
        Vision {
            layers,
            width: size("vision_model.embeddings.class_embedding", 0, of.width),
            hidden: size("vision_model.encoder.layers.0.mlp.fc1.weight", 0, of.hidden),
            positions: size("vision_model.embeddings.position_embedding.weight", 0, of.positions),
            patch: size("vision_model.embeddings.patch_embedding.weight", 3, of.patch),
            channels: size("vision_model.embeddings.patch_embedding.weight", 1, of.channels),
            projection: size("visual_projection.weight", 0, of.projection),
            text: of.text,
        }
    }

    /// Reads the sizes off the tensors of OpenCLIP. `size` gets a key without prefix, an axis and the published size.
    fn measured(&self, text: Text, size: &dyn Fn(&str, usize, u64) -> u64) -> Self {
        Vision {
            layers: self.layers,
            width: size("visual.class_embedding", 0, self.width),
            hidden: size("visual.transformer.resblocks.0.mlp.c_fc.weight", 0, self.hidden),
            positions: size("visual.positional_embedding", 0, self.positions),
            patch: size("visual.conv1.weight", 3, self.patch),
            channels: size("visual.conv1.weight", 1, self.channels),
            projection: size("visual.proj", 1, self.projection),
            text,
        }
    }
}

/// The largest size that is read from a file. Larger ones are not plausible, and products of them could overflow.
const LARGEST_SIZE: u64 = 1 << 32;

/// The naming scheme of a text encoder.
enum TextNames {
    Clip,
    OpenClip,
}

impl Sizes {
    pub(super) fn published(architecture: Architecture) -> Self {
        let (widths, context, label) = match architecture {
            Architecture::Sd1 => (Widths::new(320, [640, 1280, 1280]), 768, 0),
            Architecture::Sd2 => (Widths::new(320, [640, 1280, 1280]), 1024, 0),
            Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega => {
                (Widths::new(320, [640, 1280]), 2048, 2816)
            }
            Architecture::SdxlRefiner => (Widths::new(384, [768, 1536, 1536]), 1280, 2560),
            Architecture::StableVideo => (Widths::new(320, [640, 1280, 1280]), 1024, 768),
        };
        let time = 4 * widths.first;
        let text_width = if architecture == Architecture::Sd2 { 1024 } else { 768 };
        // A video model also takes the latent of the first frame.
        let input = if architecture == Architecture::StableVideo { 8 } else { 4 };
        let unet = Unet { input, output: 4, widths, time, context, label };
        Sizes {
            control: Control { unet: unet.clone(), picture: 3, hint: [16, 32, 96, 256] },
            unet,
            vae: Vae { image: 3, latent: 4, widths: [128, 256, 512, 512] },
            text_encoder: Text::published(text_width),
            text_encoder_2: Text::published(1280),
            image_encoder: Vision::PUBLISHED,
        }
    }

    /// Reads the sizes off the tensors of a model. `dims` gets keys in LDM names, as they are written. A missing tensor
    /// leaves the published size.
    pub(super) fn measured(architecture: Architecture, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Self {
        let Sizes { unet, control, vae, text_encoder, text_encoder_2, image_encoder } = Sizes::published(architecture);
        let size = |key: &str, axis: usize, published: u64| {
            dims(key).and_then(|dims| dims.get(axis).copied()).filter(|&size| size <= LARGEST_SIZE).unwrap_or(published)
        };
        let in_control = |key: &str, axis, published| size(&format!("{CONTROL_PREFIX}{key}"), axis, published);
        let in_vae = |key: &str, axis, published| size(&format!("first_stage_model.{key}"), axis, published);
        let in_text = |names: TextNames, prefix: &str, text: Text| {
            let [vocabulary, positions, width, hidden, projection] = match names {
                TextNames::Clip => [
                    ("embeddings.token_embedding.weight", 0),
                    ("embeddings.position_embedding.weight", 0),
                    ("final_layer_norm.weight", 0),
                    ("encoder.layers.0.mlp.fc1.weight", 0),
                    ("", 0),
                ],
                TextNames::OpenClip => [
                    ("token_embedding.weight", 0),
                    ("positional_embedding", 0),
                    ("ln_final.weight", 0),
                    ("transformer.resblocks.0.mlp.c_fc.weight", 0),
                    ("text_projection", 1),
                ],
            };
            let size = |(key, axis): (&str, usize), published| size(&format!("{prefix}{key}"), axis, published);
            Text {
                vocabulary: size(vocabulary, text.vocabulary),
                positions: size(positions, text.positions),
                width: size(width, text.width),
                hidden: size(hidden, text.hidden),
                projection: size(projection, text.projection),
            }
        };
        let of_vae_level =
            |level: usize, published: u64| in_vae(&format!("encoder.down.{level}.block.0.conv2.weight"), 0, published);
        let [level_0, level_1, level_2, level_3] = vae.widths;
        let [hint_0, hint_1, hint_2, hint_3] = control.hint;
        Sizes {
            unet: unet.measured(&|key, axis, published| size(&format!("{UNET_PREFIX}{key}"), axis, published)),
            control: Control {
                unet: control.unet.measured(&in_control),
                picture: in_control("input_hint_block.0.weight", 1, control.picture),
                hint: [
                    in_control("input_hint_block.0.weight", 0, hint_0),
                    in_control("input_hint_block.4.weight", 0, hint_1),
                    in_control("input_hint_block.8.weight", 0, hint_2),
                    in_control("input_hint_block.12.weight", 0, hint_3),
                ],
            },
            vae: Vae {
                image: in_vae("encoder.conv_in.weight", 1, vae.image),
                latent: in_vae("decoder.conv_in.weight", 1, vae.latent),
                widths: [
                    of_vae_level(0, level_0),
                    of_vae_level(1, level_1),
                    of_vae_level(2, level_2),
                    of_vae_level(3, level_3),
                ],
            },
            text_encoder: match architecture {
                Architecture::Sd1 => in_text(TextNames::Clip, "cond_stage_model.transformer.text_model.", text_encoder),
                Architecture::Sd2 => in_text(TextNames::OpenClip, "cond_stage_model.model.", text_encoder),
                Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega => {
                    in_text(TextNames::Clip, "conditioner.embedders.0.transformer.text_model.", text_encoder)
                }
                Architecture::SdxlRefiner | Architecture::StableVideo => text_encoder,
            },
            text_encoder_2: match architecture {
                Architecture::SdxlBase | Architecture::Ssd1b | Architecture::Vega => {
                    in_text(TextNames::OpenClip, "conditioner.embedders.1.model.", text_encoder_2)
                }
                Architecture::SdxlRefiner => {
                    in_text(TextNames::OpenClip, "conditioner.embedders.0.model.", text_encoder_2)
                }
                Architecture::Sd1 | Architecture::Sd2 | Architecture::StableVideo => text_encoder_2,
            },
            image_encoder: match architecture {
                Architecture::StableVideo => {
                    let text = in_text(TextNames::OpenClip, IMAGE_ENCODER_PREFIX, image_encoder.text);
                    let size =
                        |key: &str, axis, published| size(&format!("{IMAGE_ENCODER_PREFIX}{key}"), axis, published);
                    image_encoder.measured(text, &size)
                }
                _ => image_encoder,
            },
        }
    }
}
