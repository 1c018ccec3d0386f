//! Convolutions over images.
//!
//! For f32 on the CPU the columns of an image are never written out whole: a strip of them is gathered into the form
//! that the kernel takes, multiplied, and forgotten.

use candle_core::{Result, Tensor};

use super::Engine;
use super::cpu::{Shared, is_fast, with_elements, zeros};
use super::geometry::{Geometry, Output, runs};
use super::image::Image;
use super::product::Panels;
use super::winograd;
use crate::render::kernels::{self, Onto, Window};

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
    pub(in crate::render) image: Option<&'a Image>,
}

/// A convolution with a square kernel.
pub(in crate::render) struct Conv2d {
    weight: Weight,
    bias: Tensor,
    out: usize,
    size: usize,
    stride: usize,
    padding: Padding,
}

enum Weight {
    /// As the product takes it; the tensor itself is not kept.
    Packed(Panels),
    Tensor(Tensor),
    Kernels(kernels::Convolution),
}

impl Conv2d {
    /// With a weight of `[out, in, size, size]`.
    pub(in crate::render) fn new(
        engine: &Engine,
        weight: Tensor,
        bias: Tensor,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        let (out, channels, size, _) = weight.dims4()?;
        let weight = match engine {
            Engine::Kernels(kernels) => Weight::Kernels(kernels::Convolution::new(kernels, &weight, Some(&bias))?),
            Engine::Candle if is_fast(&[&weight, &bias]) => {
                Weight::Packed(with_elements(&weight, |weight| Ok(Panels::new(weight, channels * size * size)))?)
            }
            Engine::Candle => Weight::Tensor(weight),
        };
        Ok(Conv2d { weight, bias, out, size, stride, padding })
    }

    /// Of an image `[batch, in, height, width]`.
    pub(in crate::render) fn forward(&self, x: &Image) -> Result<Image> {
        self.forward_with(x, Added::default())
    }

    /// As [`Conv2d::forward`], with something added to the result.
    pub(in crate::render) fn forward_with(&self, x: &Image, added: Added<'_>) -> Result<Image> {
        self.run(x, false, added)
    }

    /// Of an image of twice the size, each pixel taken four times.
    pub(in crate::render) fn forward_doubled(&self, x: &Image) -> Result<Image> {
        self.run(x, true, Added::default())
    }

    fn run(&self, x: &Image, doubled: bool, added: Added<'_>) -> Result<Image> {
        match &self.weight {
            Weight::Packed(weight) => Ok(Image::of_planes(self.packed(weight, x.planes()?, doubled, added)?)),
            Weight::Tensor(weight) => {
                let x = x.planes()?;
                let (_, _, height, width) = x.dims4()?;
                let x = if doubled { x.upsample_nearest2d(2 * height, 2 * width)? } else { x.clone() };
                Ok(Image::of_planes(self.plain(weight, &x, added)?))
            }
            Weight::Kernels(convolution) => {
                let Padding { before, after } = self.padding;
                let window = Window { stride: self.stride, before, after, doubled };
                let image = added.image.map(Image::pixels).transpose()?;
                let onto = Onto { channels: added.channels, image };
                x.with_pixels(convolution.forward(x.pixels()?, window, onto)?, self.out)
            }
        }
    }

    fn bias(&self, added: Added<'_>) -> Result<Tensor> {
        match added.channels {
            Some(channels) => &self.bias + channels,
            None => Ok(self.bias.clone()),
        }
    }

    fn packed(&self, weight: &Panels, x: &Tensor, doubled: bool, added: Added<'_>) -> Result<Tensor> {
        let geometry = self.geometry(weight, x, doubled)?;
        let dims = (geometry.batch, weight.rows(), geometry.out_height, geometry.out_width);
        let bias = self.bias(added)?;
        let mut images = zeros(weight.rows() * geometry.columns());
        let mut run = |x: &[f32], bias: &[f32], added: Option<&[f32]>| {
            let (height, width) = (geometry.out_height, geometry.out_width);
            let output = Output { images: Shared::new(&mut images), bias, added, height, width };
            convolve(&geometry, weight, x, &output);
            Ok(())
        };
        with_elements(x, |x| {
            with_elements(&bias, |bias| match added.image {
                Some(image) if image.planes()?.dims4()? != dims => {
                    candle_core::bail!("{:?} cannot be added to {dims:?}", image.planes()?)
                }
                Some(image) => with_elements(image.planes()?, |image| run(x, bias, Some(image))),
                None => run(x, bias, None),
            })
        })?;
        Tensor::from_vec(images, dims, x.device())
    }

    fn geometry(&self, weight: &Panels, x: &Tensor, doubled: bool) -> Result<Geometry> {
        let (batch, channels, mut height, mut width) = x.dims4()?;
        if doubled {
            (height, width) = (2 * height, 2 * width);
        }
        let padded = self.padding.before + self.padding.after;
        let out = |side: usize| (side + padded).checked_sub(self.size).map(|room| room / self.stride + 1);
        let (Some(out_height), Some(out_width)) = (out(height), out(width)) else {
            candle_core::bail!("an image of {height}x{width} is too small for this convolution")
        };
        if channels * self.size * self.size != weight.depth() || !is_fast(&[x]) {
            candle_core::bail!("a convolution with a weight of depth {} does not take {x:?}", weight.depth())
        }
        let (size, stride, before) = (self.size, self.stride, self.padding.before);
        Ok(Geometry { batch, channels, height, width, doubled, out_height, out_width, size, stride, before })
    }

    fn plain(&self, weight: &Tensor, x: &Tensor, added: Added<'_>) -> Result<Tensor> {
        let Padding { before, after } = self.padding;
        let x = if before == after {
            x.conv2d(weight, before, self.stride, 1, 1)?
        } else {
            let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
            x.conv2d(weight, 0, self.stride, 1, 1)?
        };
        let x = x.broadcast_add(&self.bias(added)?.reshape((1, (), 1, 1))?)?;
        match added.image {
            Some(image) => x + image.planes()?,
            None => Ok(x),
        }
    }
}

fn convolve(geometry: &Geometry, weight: &Panels, images: &[f32], output: &Output) {
    if winograd::pays(geometry) {
        return winograd::convolve(geometry, weight, images, output);
    }
    weight.multiply(
        geometry.columns(),
        |first, panel| geometry.gather(images, first, panel),
        |row, first, tile| {
            for (channel, line) in (row..).zip(tile) {
                let mut line = *line;
                for run in runs(first, geometry.batch, geometry.out_height, geometry.out_width) {
                    let values = line.get_mut(run.at..run.at + run.len).unwrap_or_default();
                    // SAFETY: every tile of the product is put once, and no other one holds these pixels.
                    unsafe { output.put(run.image, channel, run.y * geometry.out_width + run.x, values) };
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::ops::testing::{close, random};

    /// Holds the packed way against candle's own, for these numbers.
    fn check(dims: [usize; 4], out: usize, size: usize, stride: usize, padding: Padding, doubled: bool) {
        let [batch, channels, height, width] = dims;
        let x = random(&dims);
        let weight = (random(&[out, channels, size, size]) / ((channels * size * size) as f64).sqrt()).unwrap();
        let bias = random(&[out]);
        let conv = Conv2d::new(&Engine::Candle, weight.clone(), bias, stride, padding).unwrap();
        let seen = if doubled { x.upsample_nearest2d(2 * height, 2 * width).unwrap() } else { x.clone() };
        let expected = conv.plain(&weight, &seen, Added::default()).unwrap();
        let x = Image::of_planes(x);
        let found = if doubled { conv.forward_doubled(&x) } else { conv.forward(&x) }.unwrap();
        let case =
            format!("{batch} x {channels}x{height}x{width} -> {out}, {size} by {stride}, {padding:?}, {doubled}");
        close(found.planes().unwrap(), &expected, 2e-6, &case);

        let (channels, image) = (random(&[out]), Image::of_planes(random(expected.dims())));
        let added = Added { channels: Some(&channels), image: Some(&image) };
        let expected = conv.plain(&weight, x.planes().unwrap(), added);
        if !doubled {
            let found = conv.forward_with(&x, added).unwrap();
            close(found.planes().unwrap(), &expected.unwrap(), 2e-6, &case);
        }
    }

    #[test]
    fn direct_convolutions_are_candles() {
        check([1, 3, 5, 7], 4, 3, 1, Padding::around(1), false);
        check([2, 8, 4, 4], 24, 3, 1, Padding::around(1), false);
        check([2, 33, 9, 5], 21, 3, 2, Padding::around(1), false);
        check([1, 16, 34, 35], 33, 3, 2, Padding { before: 0, after: 1 }, false);
        check([2, 40, 13, 11], 10, 1, 1, Padding::around(0), false);
        check([1, 5, 3, 2], 7, 3, 1, Padding::around(1), true);
        check([1, 1, 1, 1], 1, 3, 1, Padding::around(1), false);
        check([3, 300, 2, 3], 83, 3, 1, Padding::around(1), false);
    }

    #[test]
    fn winograds_convolutions_are_candles() {
        check([1, 6, 16, 16], 20, 3, 1, Padding::around(1), false);
        check([2, 7, 19, 23], 11, 3, 1, Padding::around(1), false);
        check([1, 3, 70, 67], 4, 3, 1, Padding::around(1), false);
        check([2, 9, 9, 20], 31, 3, 1, Padding::around(1), true);
        check([1, 900, 10, 12], 12, 3, 1, Padding::around(1), false);
        check([5, 2, 11, 3], 1, 3, 1, Padding::around(1), false);
    }
}
