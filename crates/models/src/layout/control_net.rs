//! ControlNets of SD v1, SD v2 and SDXL: the first half of a UNet, the encoder of the picture that steers it, and 1x1
//! convolutions to each skip connection. Names: `cldm` of github.com/lllyasviel/ControlNet, and diffusers.

use super::folder::{CONTROL_PREFIX, Folder};
use super::sizes;
use super::table::{Pair, PairBuilder};
use super::unet::{Structure, Walk};

/// Adds a ControlNet, layer by layer, in the order of the original code.
pub(super) fn add(pairs: &mut Vec<Pair>, structure: &Structure, sizes: &sizes::Control) {
    let component = PairBuilder { pairs, folder: Folder::ControlNet, ldm: &[CONTROL_PREFIX], diffusers: &[""] };
    let (first, last) = (sizes.unet.widths.first, sizes.unet.widths.last());
    let mut walk = Walk { component, structure, sizes: &sizes.unet };
    walk.begin();
    for (index, width) in walk.down(first).into_iter().enumerate() {
        let (ldm, diffusers) = (format!("zero_convs.{index}.0"), format!("controlnet_down_blocks.{index}"));
        walk.component.layer(&ldm, &diffusers, &[width, width, 1, 1]);
    }
    hint(&mut walk.component, sizes, first);
    walk.middle(last);
    walk.component.layer("middle_block_out.0", "controlnet_mid_block", &[last, last, 1, 1]);
}

/// Adds the encoder of the picture. Each of its convolutions has an activation behind it, which has no tensors.
fn hint(component: &mut PairBuilder<'_>, sizes: &sizes::Control, output: u64) {
    let [first, second, third, fourth] = sizes.hint;
    let widths = [first, first, second, second, third, third, fourth];
    let mut input = sizes.picture;
    for (index, width) in widths.into_iter().enumerate() {
        let diffusers = match index.checked_sub(1) {
            Some(block) => format!("controlnet_cond_embedding.blocks.{block}"),
            None => "controlnet_cond_embedding.conv_in".to_owned(),
        };
        component.layer(&format!("input_hint_block.{}", 2 * index), &diffusers, &[width, input, 3, 3]);
        input = width;
    }
    component.layer("input_hint_block.14", "controlnet_cond_embedding.conv_out", &[output, input, 3, 3]);
}
