use super::folder::{Folder, UNET_PREFIX};
use super::sizes;
use super::table::{Pair, PairBuilder, Row};
use super::transformer::Block;
use super::video;
use crate::family::Architecture;

/// Residual blocks per resolution in the down path. The up path has one more.
const BLOCKS: usize = 2;

/// The layers of a UNet, whatever its widths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Structure {
    /// Transformer blocks per attention of the down path at each resolution, the highest resolution first; 0 without
    /// attention.
    pub(crate) depths: &'static [usize],
    /// Transformer blocks of each attention of the up path, in the order of execution.
    pub(crate) up_depths: &'static [[usize; BLOCKS + 1]],
    /// Transformer blocks of the middle block; `None` if it is a single residual block without attention.
    pub(crate) middle: Option<usize>,
    /// Whether it takes extra conditioning besides time and text.
    pub(crate) label: bool,
    /// Whether `proj_in` and `proj_out` are linear layers rather than 1x1 convolutions.
    pub(crate) linear: bool,
    /// Whether each residual block and each attention has layers over time beside it.
    pub(crate) video: bool,
    /// For each resolution, whether its width differs from the next higher resolution.
    widens: &'static [bool],
}

impl Structure {
    /// Returns the structure of an architecture. Those of Segmind are in the configurations of their folders
    /// (`reverse_transformer_layers_per_block`).
    pub(crate) fn of(architecture: Architecture) -> Self {
        const FOUR: &[bool] = &[false, true, true, false];
        const THREE: &[bool] = &[false, true, true];
        let (depths, up_depths, middle): (&[usize], &[[usize; BLOCKS + 1]], _) = match architecture {
            Architecture::Sd1 | Architecture::Sd2 | Architecture::StableVideo => {
                (&[1, 1, 1, 0], &[[0; 3], [1; 3], [1; 3], [1; 3]], Some(1))
            }
            Architecture::SdxlBase => (&[0, 2, 10], &[[10; 3], [2; 3], [0; 3]], Some(10)),
            Architecture::SdxlRefiner => (&[0, 4, 4, 0], &[[0; 3], [4; 3], [4; 3], [0; 3]], Some(4)),
            Architecture::Ssd1b => (&[0, 2, 4], &[[4, 4, 10], [2, 1, 1], [0; 3]], None),
            Architecture::Vega => (&[0, 1, 2], &[[2; 3], [1; 3], [0; 3]], None),
        };
        Structure {
            depths,
            up_depths,
            middle,
            label: architecture.is_xl() || architecture == Architecture::StableVideo,
            linear: architecture != Architecture::Sd1,
            video: architecture == Architecture::StableVideo,
            widens: if depths.len() == THREE.len() { THREE } else { FOUR },
        }
    }
}

/// Adds a UNet, layer by layer, in the order of the original code.
pub(super) fn add(pairs: &mut Vec<Pair>, structure: &Structure, sizes: &sizes::Unet) {
    let component = PairBuilder { pairs, folder: Folder::Unet, ldm: &[UNET_PREFIX], diffusers: &[""] };
    Walk { component, structure, sizes }.all();
}

/// A walk through the layers of a UNet, or of a ControlNet, which has those of its first half.
pub(super) struct Walk<'a> {
    pub(super) component: PairBuilder<'a>,
    pub(super) structure: &'a Structure,
    pub(super) sizes: &'a sizes::Unet,
}

impl Walk<'_> {
    fn all(&mut self) {
        let &sizes::Unet { output, ref widths, .. } = self.sizes;
        let (first, last) = (widths.first, widths.last());
        self.begin();
        let skips = self.down(first);
        self.middle(last);
        self.up(last, skips);
        self.component.layer("out.0", "conv_norm_out", &[first]);
        self.component.layer("out.2", "conv_out", &[output, first, 3, 3]);
    }

    /// Adds the embeddings of time and size, and the first convolution.
    pub(super) fn begin(&mut self) {
        let &sizes::Unet { input, time, label, ref widths, .. } = self.sizes;
        let first = widths.first;
        self.component.layer("time_embed.0", "time_embedding.linear_1", &[time, first]);
        self.component.layer("time_embed.2", "time_embedding.linear_2", &[time, time]);
        if self.structure.label {
            self.component.layer("label_emb.0.0", "add_embedding.linear_1", &[time, label]);
            self.component.layer("label_emb.0.2", "add_embedding.linear_2", &[time, time]);
        }
        self.component.layer("input_blocks.0.0", "conv_in", &[first, input, 3, 3]);
    }

    /// Adds the middle block.
    pub(super) fn middle(&mut self, last: u64) {
        self.residual("middle_block.0", "mid_block.resnets.0", last, last, false);
        if let Some(depth) = self.structure.middle {
            self.attention("middle_block.1", "mid_block.attentions.0", last, depth);
            self.residual("middle_block.2", "mid_block.resnets.1", last, last, false);
        }
    }

    /// Adds the down path. Returns the widths of the skip connections, in order.
    pub(super) fn down(&mut self, first: u64) -> Vec<u64> {
        let levels = self.levels();
        let mut skips = vec![first];
        let mut width = first;
        for &(level, out, depth, widens) in &levels {
            for index in 0..BLOCKS {
                let block = format!("input_blocks.{}", skips.len());
                let shortcut = index == 0 && widens;
                let resnet = format!("down_blocks.{level}.resnets.{index}");
                self.residual(&format!("{block}.0"), &resnet, width, out, shortcut);
                self.attention(&format!("{block}.1"), &format!("down_blocks.{level}.attentions.{index}"), out, depth);
                skips.push(out);
                width = out;
            }
            if level + 1 < levels.len() {
                let ldm = format!("input_blocks.{}.0.op", skips.len());
                let diffusers = format!("down_blocks.{level}.downsamplers.0.conv");
                self.component.layer(&ldm, &diffusers, &[out, out, 3, 3]);
                skips.push(out);
            }
        }
        skips
    }

    /// Adds the up path. Each block takes the last remaining skip connection.
    fn up(&mut self, mut width: u64, skips: Vec<u64>) {
        let levels = self.levels().into_iter().rev().enumerate();
        let blocks = levels.flat_map(|(up, level)| (0..=BLOCKS).map(move |index| (up, level, index)));
        for (block, ((up, (level, out, depth, _), index), skip)) in blocks.zip(skips.into_iter().rev()).enumerate() {
            let resnet = format!("up_blocks.{up}.resnets.{index}");
            self.residual(&format!("output_blocks.{block}.0"), &resnet, width + skip, out, true);
            let attention = format!("up_blocks.{up}.attentions.{index}");
            let up_depth = self.structure.up_depths.get(up).and_then(|depths| depths.get(index)).copied();
            self.attention(&format!("output_blocks.{block}.1"), &attention, out, up_depth.unwrap_or(depth));
            width = out;
            if index == BLOCKS && level > 0 {
                self.upsampler(block, up, out, depth > 0);
            }
        }
    }

    /// Adds an upsampler. Its index follows the attention's; without attention it takes the attention's index. Some
    /// converters have confused the two, or named it as an attention.
    fn upsampler(&mut self, block: usize, up: usize, width: u64, behind_attention: bool) {
        let (right, wrong) = if behind_attention { (2, 1) } else { (1, 2) };
        let ldm = [right, wrong].map(|index| format!("output_blocks.{block}.{index}.conv"));
        let diffusers =
            [format!("up_blocks.{up}.upsamplers.0.conv"), format!("up_blocks.{up}.attentions.{BLOCKS}.conv")];
        self.component.layer_of(Row::new(
            &ldm.each_ref().map(String::as_str),
            &diffusers.each_ref().map(String::as_str),
            &[width, width, 3, 3],
        ));
    }

    fn residual(&mut self, ldm: &str, diffusers: &str, input: u64, output: u64, shortcut: bool) {
        let layers: &[(&str, &str, &[u64])] = &[
            ("in_layers.0", "norm1", &[input]),
            ("in_layers.2", "conv1", &[output, input, 3, 3]),
            ("emb_layers.1", "time_emb_proj", &[output, self.sizes.time]),
            ("out_layers.0", "norm2", &[output]),
            ("out_layers.3", "conv2", &[output, output, 3, 3]),
            ("skip_connection", "conv_shortcut", &[output, input, 1, 1]),
        ];
        let count = if shortcut { layers.len() } else { layers.len() - 1 };
        let space = if self.structure.video { "spatial_res_block." } else { "" };
        for (in_ldm, in_diffusers, weight) in layers.iter().take(count) {
            self.component.layer(&format!("{ldm}.{in_ldm}"), &format!("{diffusers}.{space}{in_diffusers}"), weight);
        }
        if self.structure.video {
            video::residual(&mut self.component, ldm, diffusers, output, Some(self.sizes.time));
            self.component.scalar(&format!("{ldm}.{}", video::MIX), &format!("{diffusers}.{}", video::MIX));
        }
    }

    /// Adds an attention. Names inside it are the same in both layouts.
    fn attention(&mut self, ldm: &str, diffusers: &str, width: u64, depth: usize) {
        if depth == 0 {
            return;
        }
        let projection: &[u64] = if self.structure.linear { &[width, width] } else { &[width, width, 1, 1] };
        let mut layer = |name: &str, weight: &[u64]| {
            self.component.layer(&format!("{ldm}.{name}"), &format!("{diffusers}.{name}"), weight);
        };
        layer("norm", &[width]);
        layer("proj_in", projection);
        for block in 0..depth {
            let (ldm, diffusers) =
                (format!("{ldm}.transformer_blocks.{block}"), format!("{diffusers}.transformer_blocks.{block}"));
            self.transformer_block(&ldm, &diffusers, width);
        }
        self.component.layer(&format!("{ldm}.proj_out"), &format!("{diffusers}.proj_out"), projection);
        if self.structure.video {
            for block in 0..depth {
                let ldm = format!("{ldm}.time_stack.{block}");
                let diffusers = format!("{diffusers}.temporal_transformer_blocks.{block}");
                video::transformer_block(&mut self.component, &ldm, &diffusers, width, self.sizes.context);
            }
            for (in_ldm, in_diffusers, weight) in
                [("0", "linear_1", [4 * width, width]), ("2", "linear_2", [width, 4 * width])]
            {
                let ldm = format!("{ldm}.time_pos_embed.{in_ldm}");
                self.component.layer(&ldm, &format!("{diffusers}.time_pos_embed.{in_diffusers}"), &weight);
            }
            self.component.scalar(&format!("{ldm}.{}", video::MIX), &format!("{diffusers}.{}", video::MIX));
        }
    }

    fn transformer_block(&mut self, ldm: &str, diffusers: &str, width: u64) {
        let mut block = Block { component: &mut self.component, ldm, diffusers, width };
        block.attention("attn1", width);
        block.feed_forward("ff");
        block.attention("attn2", self.sizes.context);
        ["norm1", "norm2", "norm3"].into_iter().for_each(|norm| block.norm(norm));
    }

    /// The resolutions: index, width, transformer blocks per attention, and whether the width changes.
    fn levels(&self) -> Vec<(usize, u64, usize, bool)> {
        let rest = self.structure.depths.iter().zip(self.structure.widens);
        let levels = self.sizes.widths.iter().zip(rest).enumerate();
        levels.map(|(level, (width, (&depth, &widens)))| (level, width, depth, widens)).collect()
    }
}
