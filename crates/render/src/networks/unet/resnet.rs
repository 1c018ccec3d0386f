//! The residual block of the UNet, which takes the time embedding.

use std::ops::Range;

use candle_core::{Result as CandleResult, Tensor};

use crate::networks::reader::Reader;
use crate::ops::{Conv2d, Epilogue, GroupNorm, Image};
use trinart_ckpt_formats::error::Result;

const EPSILON: f64 = 1e-5;

pub(super) struct Resnet {
    norm_in: GroupNorm,
    conv_in: Conv2d,
    /// The range of this block in the time projections of all blocks.
    time: Range<usize>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    skip: Option<Conv2d>,
}

impl Resnet {
    /// Reads a block for images of `width` channels, and returns it with the number of channels after it. `first` is
    /// the start of its range in the time projections of all blocks.
    pub(super) fn read(here: &Reader, width: usize, first: usize) -> Result<(Self, usize)> {
        let [out, _, _, _] = here.dims_of("in_layers.2.weight")?;
        let skip = (out != width).then(|| here.conv("skip_connection", width)).transpose()?;
        let resnet = Resnet {
            norm_in: here.group_norm("in_layers.0", width, EPSILON)?,
            conv_in: here.conv("in_layers.2", width)?,
            time: first..first + out,
            norm_out: here.group_norm("out_layers.0", out, EPSILON)?,
            conv_out: here.conv("out_layers.3", out)?,
            skip,
        };
        Ok((resnet, out))
    }

    /// Applies the block. `time_embedding` has the time projections of all blocks, `[batch, values]`, or `[1, values]` for
    /// the whole batch.
    pub(super) fn forward(&self, x: &Image, time_embedding: &Tensor) -> CandleResult<Image> {
        let time = time_embedding.narrow(1, self.time.start, self.time.len())?;
        let added = Epilogue { channels: Some(&time), ..Epilogue::default() };
        let inner = self.conv_in.forward_with(&self.norm_in.forward_silu(x)?, added)?;
        let inner = self.norm_out.forward_silu(&inner)?;
        let skip = self.skip.as_ref().map(|skip| skip.forward(x)).transpose()?;
        let image = Some(skip.as_ref().unwrap_or(x));
        self.conv_out.forward_with(&inner, Epilogue { image, ..Epilogue::default() })
    }
}
