//! The layers over time of Stable Video Diffusion, beside those of a UNet and of the decoder of a VAE. Names: `sgm` of
//! github.com/Stability-AI/generative-models (`VideoUNet`, `VideoDecoder`), and diffusers.

use super::table::PairBuilder;
use super::transformer::Block;

/// The weight that mixes the layers over time with those over space.
pub(super) const MIX: &str = "time_mixer.mix_factor";

/// Frames that a convolution over time reads.
const FRAMES: u64 = 3;

/// The dimensions of a convolution over time: frames, height and width behind the channels.
pub(super) fn convolution(output: u64, input: u64) -> [u64; 5] {
    [output, input, FRAMES, 1, 1]
}

/// Adds a residual block over time. `time` is the width of the time embedding; the VAE has none.
pub(super) fn residual(component: &mut PairBuilder<'_>, ldm: &str, diffusers: &str, width: u64, time: Option<u64>) {
    let convolution = convolution(width, width);
    let mut layer = |in_ldm: &str, in_diffusers: &str, weight: &[u64]| {
        let ldm = format!("{ldm}.time_stack.{in_ldm}");
        component.layer(&ldm, &format!("{diffusers}.temporal_res_block.{in_diffusers}"), weight);
    };
    layer("in_layers.0", "norm1", &[width]);
    layer("in_layers.2", "conv1", &convolution);
    if let Some(time) = time {
        layer("emb_layers.1", "time_emb_proj", &[width, time]);
    }
    layer("out_layers.0", "norm2", &[width]);
    layer("out_layers.3", "conv2", &convolution);
}

/// Adds a transformer block over time.
pub(super) fn transformer_block(component: &mut PairBuilder<'_>, ldm: &str, diffusers: &str, width: u64, context: u64) {
    let mut block = Block { component, ldm, diffusers, width };
    block.norm("norm_in");
    block.feed_forward("ff_in");
    block.attention("attn1", width);
    block.feed_forward("ff");
    block.norm("norm2");
    block.attention("attn2", context);
    ["norm1", "norm3"].into_iter().for_each(|norm| block.norm(norm));
}
