//! Convolutions over images.

use candle_core::{Result, Tensor};

/// Rows and columns of zeros around an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::render) struct Padding {
    /// Above and to the left.
    pub(in crate::render) before: usize,
    /// Below and to the right.
    pub(in crate::render) after: usize,
}

impl Padding {
    /// The same on all sides.
    pub(in crate::render) fn around(size: usize) -> Self {
        Padding { before: size, after: size }
    }
}

/// What is added to the result of a convolution while it is written.
#[derive(Default, Clone, Copy)]
pub(in crate::render) struct Added<'a> {
    /// A value for each channel, beside the bias: `[out]`.
    pub(in crate::render) channels: Option<&'a Tensor>,
    /// An image of the result's shape.
    pub(in crate::render) image: Option<&'a Tensor>,
}

/// A convolution with a square kernel.
pub(in crate::render) struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    /// With a weight of `[out, in, size, size]`.
    pub(in crate::render) fn new(weight: Tensor, bias: Tensor, stride: usize, padding: Padding) -> Result<Self> {
        Ok(Conv2d { weight, bias, stride, padding })
    }

    /// Of an image `[batch, in, height, width]`.
    pub(in crate::render) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Added::default())
    }

    /// As [`Conv2d::forward`], with something added to the result.
    pub(in crate::render) fn forward_with(&self, x: &Tensor, added: Added<'_>) -> Result<Tensor> {
        self.plain(x, added)
    }

    /// Of an image of twice the size, each pixel taken four times.
    pub(in crate::render) fn forward_doubled(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        self.forward(&x.upsample_nearest2d(2 * height, 2 * width)?)
    }

    fn plain(&self, x: &Tensor, added: Added<'_>) -> Result<Tensor> {
        let Padding { before, after } = self.padding;
        let x = if before == after {
            x.conv2d(&self.weight, before, self.stride, 1, 1)?
        } else {
            let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
            x.conv2d(&self.weight, 0, self.stride, 1, 1)?
        };
        let bias = match added.channels {
            Some(channels) => (&self.bias + channels)?,
            None => self.bias.clone(),
        };
        let x = x.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
        match added.image {
            Some(image) => x + image,
            None => Ok(x),
        }
    }
}
