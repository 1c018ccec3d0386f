//! Writes the `.yaml` that WebUI needs beside an SD v1 or v2 checkpoint that differs from the published models.

use trinart_ckpt_formats::state_dict::StateDict;

use super::value::Parameterization;
use crate::family::{Architecture, Prediction, Task};

/// Returns the configuration of a checkpoint in LDM names for the original code, which WebUI instantiates. `None` if that
/// code has no such model: SDXL, tasks other than text to image and inpainting, and predictions other than epsilon and v.
pub fn configuration(state_dict: &StateDict, wanted: &Parameterization) -> Option<String> {
    let is_v2 = match wanted.architecture {
        Some(Architecture::Sd1) => false,
        Some(Architecture::Sd2) => true,
        _ => return None,
    };
    let parameterization = match wanted.prediction {
        Prediction::Epsilon => "eps",
        Prediction::Velocity => "v",
        _ => return None,
    };
    let (model, conditioning, inpainting) = match wanted.task {
        Some(Task::TextToImage) => ("LatentDiffusion", "crossattn", ""),
        Some(Task::Inpainting) => ("LatentInpaintDiffusion", "hybrid", "\n    finetune_keys: null"),
        _ => return None,
    };
    let unet = Widths::of(state_dict, UNET, |level| format!("{}.0.out_layers.3.weight", 3 * level + 1));
    let vae = Widths::of(state_dict, VAE, |level| format!("{level}.block.0.conv2.weight"));
    let dim = |key: &str, axis, published| dim(state_dict, key, axis).unwrap_or(published);
    let in_channels = dim("model.diffusion_model.input_blocks.0.0.weight", 1, 4);
    let out_channels = dim("model.diffusion_model.out.2.weight", 0, 4);
    let latents = dim("first_stage_model.decoder.conv_in.weight", 1, 4);
    let context = dim(
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        1,
        if is_v2 { 1024 } else { 768 },
    );
    let heads = if is_v2 { "num_head_channels: 64\n        use_linear_in_transformer: true" } else { "num_heads: 8" };
    let text = if is_v2 {
        "FrozenOpenCLIPEmbedder\n      params:\n        freeze: true\n        layer: penultimate"
    } else {
        "FrozenCLIPEmbedder"
    };
    Some(format!(
        "\
model:
  target: ldm.models.diffusion.ddpm.{model}
  params:
    parameterization: \"{parameterization}\"
    linear_start: 0.00085
    linear_end: 0.012
    num_timesteps_cond: 1
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: 64
    channels: {latents}
    cond_stage_trainable: false
    conditioning_key: {conditioning}
    monitor: val/loss_simple_ema
    scale_factor: {scale}
    use_ema: false{inpainting}
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        use_checkpoint: true
        image_size: 32
        in_channels: {in_channels}
        out_channels: {out_channels}
        model_channels: {channels}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: 2
        channel_mult: {mult:?}
        {heads}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {context}
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: {latents}
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: {latents}
          resolution: 256
          in_channels: 3
          out_ch: 3
          ch: {vae_channels}
          ch_mult: {vae_mult:?}
          num_res_blocks: 2
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.{text}
",
        scale = wanted.vae.scaling_factor,
        channels = unet.first,
        mult = unet.multiples,
        vae_channels = vae.first,
        vae_mult = vae.multiples,
    ))
}

/// The widths of a network: that of its first resolution, and the others as multiples of it.
struct Widths {
    first: u64,
    multiples: Vec<u64>,
}

/// A network: the prefix of its resolutions, and the width of the published model.
struct Network {
    prefix: &'static str,
    published: u64,
}

const UNET: Network = Network { prefix: "model.diffusion_model.input_blocks.", published: 320 };
const VAE: Network = Network { prefix: "first_stage_model.encoder.down.", published: 128 };

impl Widths {
    /// Reads the widths of four resolutions. A network that is missing, or whose widths are no multiples, has the published
    /// ones.
    fn of(state_dict: &StateDict, network: Network, key: impl Fn(u64) -> String) -> Self {
        let width = |level| dim(state_dict, &format!("{}{}", network.prefix, key(level)), 0);
        let widths: Option<Vec<u64>> = (0..4).map(width).collect();
        let read = widths.and_then(|widths| {
            let first = *widths.first().filter(|&&first| first > 0)?;
            let multiples = widths.iter().map(|width| (width % first == 0).then_some(width / first));
            Some(Widths { first, multiples: multiples.collect::<Option<_>>()? })
        });
        read.unwrap_or(Widths { first: network.published, multiples: vec![1, 2, 4, 4] })
    }
}

fn dim(state_dict: &StateDict, key: &str, axis: usize) -> Option<u64> {
    state_dict.get(key)?.shape().dims().get(axis).copied()
}
