use super::folder::Folder;
use super::sizes;
use super::table::{Pair, PairBuilder, Row};
use super::video;
use crate::vae::PREFIX;

/// Residual blocks per resolution of the encoder. The decoder has one more.
const BLOCKS: usize = 2;

/// The attention of the middle block: 1x1 convolutions in LDM, linear layers in diffusers, which has used two sets of
/// names.
const ATTENTION: [(&str, [&str; 2]); 4] = [
    ("q", ["to_q", "query"]),
    ("k", ["to_k", "key"]),
    ("v", ["to_v", "value"]),
    ("proj_out", ["to_out.0", "proj_attn"]),
];

/// Adds the VAE, layer by layer, in the order of the original code. `is_video` gives its decoder layers over time.
pub(super) fn add(pairs: &mut Vec<Pair>, sizes: &sizes::Vae, is_video: bool) {
    let component = PairBuilder { pairs, folder: Folder::Vae, ldm: &[PREFIX], diffusers: &[""] };
    Walk { component, sizes, is_video }.all();
}

struct Walk<'a> {
    component: PairBuilder<'a>,
    sizes: &'a sizes::Vae,
    is_video: bool,
}

impl Walk<'_> {
    fn all(&mut self) {
        let &sizes::Vae { image, latent, widths: [first, .., last] } = self.sizes;
        // A mean and a log variance per latent channel.
        let moments = 2 * latent;
        self.ends("encoder", "conv_in", &[first, image, 3, 3]);
        self.down(first);
        self.middle("encoder", last);
        self.norm_out("encoder", last);
        self.ends("encoder", "conv_out", &[moments, last, 3, 3]);
        self.ends("decoder", "conv_in", &[last, latent, 3, 3]);
        self.middle("decoder", last);
        self.up(last);
        self.norm_out("decoder", first);
        self.ends("decoder", "conv_out", &[image, first, 3, 3]);
        if self.is_video {
            let weight = video::convolution(image, image);
            self.component.layer("decoder.conv_out.time_mix_conv", "decoder.time_conv_out", &weight);
        }
        self.component.layer_of(Row {
            in_checkpoint: !self.is_video,
            ..Row::new(&["quant_conv"], &["quant_conv"], &[moments, moments, 1, 1])
        });
        if !self.is_video {
            self.component.layer("post_quant_conv", "post_quant_conv", &[latent, latent, 1, 1]);
        }
    }

    fn ends(&mut self, part: &str, name: &str, weight: &[u64]) {
        let name = format!("{part}.{name}");
        self.component.layer(&name, &name, weight);
    }

    fn norm_out(&mut self, part: &str, width: u64) {
        self.component.layer(&format!("{part}.norm_out"), &format!("{part}.conv_norm_out"), &[width]);
    }

    fn down(&mut self, mut width: u64) {
        for (level, &out) in self.sizes.widths.iter().enumerate() {
            for block in 0..BLOCKS {
                let ldm = format!("encoder.down.{level}.block.{block}");
                let diffusers = format!("encoder.down_blocks.{level}.resnets.{block}");
                self.residual(&ldm, &diffusers, width, out, block == 0 && matches!(level, 1 | 2));
                width = out;
            }
            if level + 1 < self.sizes.widths.len() {
                let ldm = format!("encoder.down.{level}.downsample.conv");
                let diffusers = format!("encoder.down_blocks.{level}.downsamplers.0.conv");
                self.component.layer(&ldm, &diffusers, &[out, out, 3, 3]);
            }
        }
    }

    /// LDM numbers the resolutions of the decoder from the highest, diffusers in the order of execution.
    fn up(&mut self, last: u64) {
        let levels = self.sizes.widths.len();
        for (level, &out) in self.sizes.widths.iter().enumerate() {
            let up = levels - 1 - level;
            let mut width = self.sizes.widths.get(level + 1).copied().unwrap_or(last);
            for block in 0..=BLOCKS {
                let ldm = format!("decoder.up.{level}.block.{block}");
                let diffusers = format!("decoder.up_blocks.{up}.resnets.{block}");
                self.residual(&ldm, &diffusers, width, out, block == 0 && matches!(level, 0 | 1));
                width = out;
            }
            if level > 0 {
                let ldm = format!("decoder.up.{level}.upsample.conv");
                let diffusers = format!("decoder.up_blocks.{up}.upsamplers.0.conv");
                self.component.layer(&ldm, &diffusers, &[out, out, 3, 3]);
            }
        }
    }

    fn middle(&mut self, part: &str, width: u64) {
        let (ldm, diffusers) = (format!("{part}.mid"), format!("{part}.mid_block"));
        self.residual(&format!("{ldm}.block_1"), &format!("{diffusers}.resnets.0"), width, width, false);
        let attention = format!("{diffusers}.attentions.0");
        self.component.layer(&format!("{ldm}.attn_1.norm"), &format!("{attention}.group_norm"), &[width]);
        for (name, names) in ATTENTION {
            let diffusers = names.map(|name| format!("{attention}.{name}"));
            self.component.layer_of(Row {
                diffusers_dims: Some(&[width, width]),
                ..Row::new(
                    &[&format!("{ldm}.attn_1.{name}")],
                    &diffusers.each_ref().map(String::as_str),
                    &[width, width, 1, 1],
                )
            });
        }
        self.residual(&format!("{ldm}.block_2"), &format!("{diffusers}.resnets.1"), width, width, false);
    }

    fn residual(&mut self, ldm: &str, diffusers: &str, input: u64, output: u64, shortcut: bool) {
        let layers: &[(&str, &[u64])] = &[
            ("norm1", &[input]),
            ("conv1", &[output, input, 3, 3]),
            ("norm2", &[output]),
            ("conv2", &[output, output, 3, 3]),
        ];
        let is_video = self.is_video && ldm.starts_with("decoder.");
        let space = if is_video { "spatial_res_block." } else { "" };
        if is_video {
            self.component.scalar(&format!("{ldm}.mix_factor"), &format!("{diffusers}.{}", video::MIX));
        }
        for (name, weight) in layers {
            self.component.layer(&format!("{ldm}.{name}"), &format!("{diffusers}.{space}{name}"), weight);
        }
        if shortcut {
            let (ldm, diffusers) = (format!("{ldm}.nin_shortcut"), format!("{diffusers}.{space}conv_shortcut"));
            self.component.layer(&ldm, &diffusers, &[output, input, 1, 1]);
        }
        if is_video {
            video::residual(&mut self.component, ldm, diffusers, output, None);
        }
    }
}
