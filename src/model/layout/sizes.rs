use crate::model::architecture::Architecture;

/// The numbers that shapes are made of: those of the published models, or of a given one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) unet: Unet,
    pub(super) autoencoder: Autoencoder,
    /// The first text encoder; the refiner's has no meaning.
    pub(super) text_encoder: Text,
    /// The second text encoder, of SDXL.
    pub(super) text_encoder_2: Text,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unet {
    /// Channels of what goes in: 4, or more where an image is given.
    pub(super) input: u64,
    pub(super) output: u64,
    /// Channels at each resolution, the highest first.
    pub(super) widths: Vec<u64>,
    /// Width of the embedded time.
    pub(super) time: u64,
    /// Width of the text encoders' output.
    pub(super) context: u64,
    /// Width of what else SDXL is told: pooled text and sizes.
    pub(super) label: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Autoencoder {
    pub(super) image: u64,
    pub(super) latent: u64,
    /// Channels at each resolution, the highest first.
    pub(super) widths: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) vocabulary: u64,
    pub(super) positions: u64,
    pub(super) width: u64,
    /// Width inside of the perceptrons.
    pub(super) hidden: u64,
    /// Width of the pooled output.
    pub(super) projection: u64,
}

impl Text {
    const fn published(width: u64) -> Self {
        Text { vocabulary: 49408, positions: 77, width, hidden: 4 * width, projection: width }
    }
}

/// Which tensor tells the sizes of a text encoder.
enum TextNames {
    Clip,
    OpenClip,
}

impl Sizes {
    pub(super) fn published(architecture: Architecture) -> Self {
        let (widths, context, label): (&[u64], _, _) = match architecture {
            Architecture::Sd1 => (&[320, 640, 1280, 1280], 768, 0),
            Architecture::Sd2 => (&[320, 640, 1280, 1280], 1024, 0),
            Architecture::SdxlBase => (&[320, 640, 1280], 2048, 2816),
            Architecture::SdxlRefiner => (&[384, 768, 1536, 1536], 1280, 2560),
        };
        let time = 4 * widths.first().copied().unwrap_or_default();
        let text_width = if architecture == Architecture::Sd2 { 1024 } else { 768 };
        Sizes {
            unet: Unet { input: 4, output: 4, widths: widths.to_vec(), time, context, label },
            autoencoder: Autoencoder { image: 3, latent: 4, widths: vec![128, 256, 512, 512] },
            text_encoder: Text::published(text_width),
            text_encoder_2: Text::published(1280),
        }
    }

    /// The sizes that the tensors of a model have, by their written keys in LDM names; published ones where they are
    /// missing.
    pub(super) fn measured(architecture: Architecture, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Self {
        let Sizes { unet, autoencoder, text_encoder, text_encoder_2 } = Sizes::published(architecture);
        let size = |key: &str, axis: usize, published: u64| {
            dims(key).and_then(|dims| dims.get(axis).copied()).unwrap_or(published)
        };
        let in_unet = |key: &str, axis, published| size(&format!("model.diffusion_model.{key}"), axis, published);
        let in_autoencoder = |key: &str, axis, published| size(&format!("first_stage_model.{key}"), axis, published);
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
        let of_level = |(level, published): (usize, &u64)| {
            in_unet(&format!("input_blocks.{}.0.out_layers.3.weight", 3 * level + 1), 0, *published)
        };
        let of_autoencoder_level = |(level, published): (usize, &u64)| {
            in_autoencoder(&format!("encoder.down.{level}.block.0.conv2.weight"), 0, *published)
        };
        // Where a resolution has text: the second highest has it in every architecture.
        let context = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight";
        Sizes {
            unet: Unet {
                input: in_unet("input_blocks.0.0.weight", 1, unet.input),
                output: in_unet("out.2.weight", 0, unet.output),
                widths: unet.widths.iter().enumerate().map(of_level).collect(),
                time: in_unet("time_embed.0.weight", 0, unet.time),
                context: in_unet(context, 1, unet.context),
                label: in_unet("label_emb.0.0.weight", 1, unet.label),
            },
            autoencoder: Autoencoder {
                image: in_autoencoder("encoder.conv_in.weight", 1, autoencoder.image),
                latent: in_autoencoder("decoder.conv_in.weight", 1, autoencoder.latent),
                widths: autoencoder.widths.iter().enumerate().map(of_autoencoder_level).collect(),
            },
            text_encoder: match architecture {
                Architecture::Sd1 => in_text(TextNames::Clip, "cond_stage_model.transformer.text_model.", text_encoder),
                Architecture::Sd2 => in_text(TextNames::OpenClip, "cond_stage_model.model.", text_encoder),
                Architecture::SdxlBase => {
                    in_text(TextNames::Clip, "conditioner.embedders.0.transformer.text_model.", text_encoder)
                }
                Architecture::SdxlRefiner => text_encoder,
            },
            text_encoder_2: match architecture {
                Architecture::SdxlBase => {
                    in_text(TextNames::OpenClip, "conditioner.embedders.1.model.", text_encoder_2)
                }
                Architecture::SdxlRefiner => {
                    in_text(TextNames::OpenClip, "conditioner.embedders.0.model.", text_encoder_2)
                }
                Architecture::Sd1 | Architecture::Sd2 => text_encoder_2,
            },
        }
    }
}
