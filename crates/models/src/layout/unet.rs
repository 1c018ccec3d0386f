use super::folder::{Folder, UNET_PREFIX};
use super::sizes;
use super::table::{Pair, PairBuilder, Row};
use super::transformer::Block;
use super::video;
use crate::family::Architecture;

/// Residual blocks per resolution in the down path of published models. The up path has one more.
const BLOCKS: usize = 2;

/// The layers of a UNet, whatever its widths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Structure {
    /// Transformer blocks per attention of the down path at each resolution, the highest resolution first; 0 without
    /// attention.
    pub(crate) depths: Vec<usize>,
    /// Residual blocks of the down path at each resolution.
    blocks: Vec<usize>,
    /// Transformer blocks of the attention after each residual block of the up path, in the order of execution.
    pub(crate) up_depths: Vec<Vec<usize>>,
    /// Transformer blocks of the middle block; `None` without attention.
    pub(crate) middle: Option<usize>,
    /// Whether the middle block has a residual block. Without attention, it has no second one.
    has_middle: bool,
    /// Whether it takes extra conditioning besides time and text.
    pub(crate) label: bool,
    /// Whether `proj_in` and `proj_out` are linear layers rather than 1x1 convolutions.
    pub(crate) linear: bool,
    /// Whether each residual block and each attention has layers over time beside it.
    pub(crate) video: bool,
    /// For each resolution, whether its width differs from the next higher resolution.
    widens: Vec<bool>,
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
            depths: depths.to_vec(),
            blocks: vec![BLOCKS; depths.len()],
            up_depths: up_depths.iter().map(|depths| depths.to_vec()).collect(),
            middle,
            has_middle: true,
            label: architecture.is_xl() || architecture == Architecture::StableVideo,
            linear: architecture != Architecture::Sd1,
            video: architecture == Architecture::StableVideo,
            widens: if depths.len() == THREE.len() { THREE } else { FOUR }.to_vec(),
        }
    }

    /// Reads the structure off the keys of a UNet in diffusers names. `dims` returns the dimensions of a tensor.
    pub(super) fn measured(dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Self {
        let count = |key: &dyn Fn(usize) -> String| super::count(|&index| dims(&key(index)).is_some());
        let resnets = |path: &str| count(&|index| format!("{path}.resnets.{index}.norm1.weight"));
        let depth = |path: String| count(&|index| format!("{path}.transformer_blocks.{index}.norm1.weight"));
        let down: Vec<String> = (0..count(&|level| format!("down_blocks.{level}.resnets.0.norm1.weight")))
            .map(|level| format!("down_blocks.{level}"))
            .collect();
        let depths: Vec<usize> = down.iter().map(|path| depth(format!("{path}.attentions.0"))).collect();
        let up = (0..down.len()).map(|level| format!("up_blocks.{level}"));
        let up_depths =
            up.map(|path| (0..resnets(&path)).map(|index| depth(format!("{path}.attentions.{index}"))).collect());
        let middle = depth("mid_block.attentions.0".to_owned());
        let first = down.iter().zip(&depths).find(|(_, depth)| **depth > 0);
        let projection = first.and_then(|(path, _)| dims(&format!("{path}.attentions.0.proj_in.weight")));
        Structure {
            blocks: down.iter().map(|path| resnets(path)).collect(),
            up_depths: up_depths.collect(),
            middle: (middle > 0).then_some(middle),
            has_middle: resnets("mid_block") > 0,
            label: dims("add_embedding.linear_1.weight").is_some(),
            linear: projection.is_some_and(|dims| dims.len() == 2),
            video: false,
            widens: vec![true; depths.len()],
            depths,
        }
    }
}

impl Structure {
    /// Whether both have the same numbers of residual blocks.
    fn has_blocks_of(&self, other: &Self) -> bool {
        let up = |structure: &Self| structure.up_depths.iter().map(Vec::len).collect::<Vec<_>>();
        (&self.blocks, up(self), self.has_middle) == (&other.blocks, up(other), other.has_middle)
    }

    /// Returns whether a UNet in diffusers names has the residual blocks of an architecture. `dims` returns the dimensions of a
    /// tensor.
    pub(super) fn is_of(architecture: Architecture, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> bool {
        let own = Self::of(architecture);
        // The names of a video model's blocks are others.
        own.video || Self::measured(dims).has_blocks_of(&own)
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
        if self.structure.has_middle {
            self.residual("middle_block.0", "mid_block.resnets.0", last, last, false);
        }
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
            for index in 0..self.structure.blocks.get(level).copied().unwrap_or(BLOCKS) {
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
        let levels = self.levels().into_iter().rev().zip(&self.structure.up_depths).enumerate();
        let blocks = levels.flat_map(|(up, (level, depths))| {
            depths.iter().enumerate().map(move |(index, &depth)| (up, level, index, depth, index + 1 == depths.len()))
        });
        let blocks: Vec<_> = blocks.zip(skips.into_iter().rev()).collect();
        for (block, ((up, (level, out, ..), index, depth, is_last), skip)) in blocks.into_iter().enumerate() {
            let resnet = format!("up_blocks.{up}.resnets.{index}");
            self.residual(&format!("output_blocks.{block}.0"), &resnet, width + skip, out, true);
            let attention = format!("up_blocks.{up}.attentions.{index}");
            self.attention(&format!("output_blocks.{block}.1"), &attention, out, depth);
            width = out;
            if is_last && level > 0 {
                self.upsampler(block, (up, index), out, depth > 0);
            }
        }
    }

    /// Adds an upsampler. Its index follows the attention's; without attention it takes the attention's index. Some
    /// converters have confused the two, or named it as an attention.
    fn upsampler(&mut self, block: usize, (up, last): (usize, usize), width: u64, behind_attention: bool) {
        let (right, wrong) = if behind_attention { (2, 1) } else { (1, 2) };
        let ldm = [right, wrong].map(|index| format!("output_blocks.{block}.{index}.conv"));
        let diffusers = [format!("up_blocks.{up}.upsamplers.0.conv"), format!("up_blocks.{up}.attentions.{last}.conv")];
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
        let rest = self.structure.depths.iter().zip(&self.structure.widens);
        let levels = self.sizes.widths.iter().zip(rest).enumerate();
        levels.map(|(level, (width, (&depth, &widens)))| (level, width, depth, widens)).collect()
    }
}
