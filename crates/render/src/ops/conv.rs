//! Convolutions over images.
//!
//! On the CPU with F32, the im2col matrix of an image is never stored as a whole. It is gathered and multiplied in
//! strips, in the layout of the microkernel.

use candle_core::{Result, Tensor};

use super::cpu::{is_f32_on_cpu, with_elements, zeros};
use super::disjoint::DisjointWriter;
use super::elements::is_packable;
use super::engine::Engine;
use super::geometry::{Geometry, Output, runs};
use super::image::Image;
use super::matmul::PackedMatrix;
use super::microkernel::ROWS;
use super::winograd;
use crate::kernels::{self, Window};

/// Rows and columns of zeros around an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Padding {
    /// Above and to the left.
    pub(crate) before: usize,
    /// Below and to the right.
    pub(crate) after: usize,
}

impl Padding {
    /// The same padding on all sides.
    pub(crate) fn around(size: usize) -> Self {
        Padding { before: size, after: size }
    }
}

/// Summands that a convolution adds to its result before writing it.
#[derive(Default, Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// One value for each channel, in addition to the bias: `[1, out]` or `[batch, out]`.
    pub(crate) channels: Option<&'a Tensor>,
    /// An image of the result's shape.
    pub(crate) image: Option<&'a Image>,
}

/// A convolution with a square kernel.
pub(crate) struct Conv2d {
    weight: Weight,
    bias: Tensor,
    out: usize,
    size: usize,
    stride: usize,
    padding: Padding,
}

enum Weight {
    /// The packed weight. The tensor itself is not kept.
    Packed(PackedMatrix<ROWS>),
    Tensor(Tensor),
    Kernels(kernels::Convolution),
}

impl Conv2d {
    /// Creates a convolution with a weight `[out, in, size, size]` and a bias `[out]`. On the CPU, a weight in half precision
    /// with an F32 bias is widened when it is used.
    ///
    /// Fails if the shapes do not match.
    pub(crate) fn new(engine: &Engine, weight: Tensor, bias: Tensor, stride: usize, padding: Padding) -> Result<Self> {
        let (out, channels, size, width) = weight.dims4()?;
        if size != width || bias.dims() != [out] || stride == 0 {
            candle_core::bail!("unsupported convolution: weight {weight:?}, bias {bias:?}, stride {stride}")
        }
        let weight = match engine {
            Engine::Kernels(kernels) => Weight::Kernels(kernels::Convolution::new(kernels, &weight, Some(&bias))?),
            Engine::Candle if is_packable(&weight) && is_f32_on_cpu(&[&bias]) => {
                Weight::Packed(PackedMatrix::new(&weight, channels * size * size)?)
            }
            Engine::Candle => Weight::Tensor(weight),
        };
        Ok(Conv2d { weight, bias, out, size, stride, padding })
    }

    /// Convolves an image with `in` channels.
    pub(crate) fn forward(&self, x: &Image) -> Result<Image> {
        self.forward_with(x, Epilogue::default())
    }

    /// Like [`Conv2d::forward`], plus the summands of `epilogue`.
    pub(crate) fn forward_with(&self, x: &Image, epilogue: Epilogue<'_>) -> Result<Image> {
        self.run(x, false, epilogue)
    }

    /// Convolves the image upsampled to twice its size by nearest neighbor.
    pub(crate) fn forward_upsampled(&self, x: &Image) -> Result<Image> {
        self.run(x, true, Epilogue::default())
    }

    fn run(&self, x: &Image, upsampled: bool, epilogue: Epilogue<'_>) -> Result<Image> {
        match &self.weight {
            Weight::Packed(weight) => Ok(Image::from_planes(self.packed(weight, x.planes()?, upsampled, epilogue)?)),
            Weight::Tensor(weight) => {
                let x = x.planes()?;
                let (_, _, height, width) = x.dims4()?;
                let x = if upsampled { x.upsample_nearest2d(2 * height, 2 * width)? } else { x.clone() };
                Ok(Image::from_planes(self.plain(weight, &x, epilogue)?))
            }
            Weight::Kernels(convolution) => {
                let Padding { before, after } = self.padding;
                let window = Window { stride: self.stride, before, after, upsampled };
                let image = epilogue.image.map(Image::pixels).transpose()?;
                let epilogue = kernels::Epilogue { channels: epilogue.channels, image };
                x.with_pixels(convolution.forward(x.pixels()?, window, epilogue)?, self.out)
            }
        }
    }

    /// The bias with the channels of `epilogue`: `[1, out]` or `[batch, out]`.
    fn bias(&self, epilogue: Epilogue<'_>) -> Result<Tensor> {
        let bias = self.bias.unsqueeze(0)?;
        match epilogue.channels {
            Some(channels) => bias.broadcast_add(channels),
            None => Ok(bias),
        }
    }

    fn packed(
        &self,
        weight: &PackedMatrix<ROWS>,
        x: &Tensor,
        upsampled: bool,
        epilogue: Epilogue<'_>,
    ) -> Result<Tensor> {
        let geometry = self.geometry(weight, x, upsampled)?;
        let dims = (geometry.batch, weight.rows(), geometry.out_height, geometry.out_width);
        let bias = self.bias(epilogue)?;
        if bias.dims2()? != (geometry.batch, self.out) && bias.dims2()? != (1, self.out) {
            candle_core::bail!("{bias:?} cannot be added to {} images", geometry.batch)
        }
        let mut images = zeros(weight.rows() * geometry.columns());
        let mut run = |x: &[f32], bias: &[f32], image: Option<&[f32]>| {
            let (height, width) = (geometry.out_height, geometry.out_width);
            let images = DisjointWriter::new(&mut images);
            let output = Output { images, bias, channels: weight.rows(), image, height, width };
            convolve(&geometry, weight, x, &output);
            Ok(())
        };
        with_elements(x, |x| {
            with_elements(&bias, |bias| match epilogue.image {
                Some(image) if image.planes()?.dims4()? != dims => {
                    candle_core::bail!("{:?} cannot be added to {dims:?}", image.planes()?)
                }
                Some(image) => with_elements(image.planes()?, |image| run(x, bias, Some(image))),
                None => run(x, bias, None),
            })
        })?;
        Tensor::from_vec(images, dims, x.device())
    }

    fn geometry(&self, weight: &PackedMatrix<ROWS>, x: &Tensor, upsampled: bool) -> Result<Geometry> {
        let (batch, channels, mut height, mut width) = x.dims4()?;
        if upsampled {
            (height, width) = (2 * height, 2 * width);
        }
        let padded = self.padding.before + self.padding.after;
        let out = |side: usize| (side + padded).checked_sub(self.size).map(|rest| rest / self.stride + 1);
        let (Some(out_height), Some(out_width)) = (out(height), out(width)) else {
            candle_core::bail!("an image of {height}x{width} is too small for this convolution")
        };
        if channels * self.size * self.size != weight.depth() || !is_f32_on_cpu(&[x]) {
            candle_core::bail!("a convolution with {} values per window cannot process {x:?}", weight.depth())
        }
        let (size, stride, before) = (self.size, self.stride, self.padding.before);
        Ok(Geometry { batch, channels, height, width, upsampled, out_height, out_width, size, stride, before })
    }

    fn plain(&self, weight: &Tensor, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Tensor> {
        let Padding { before, after } = self.padding;
        let x = if before == after {
            x.conv2d(weight, before, self.stride, 1, 1)?
        } else {
            let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
            x.conv2d(weight, 0, self.stride, 1, 1)?
        };
        let x = x.broadcast_add(&self.bias(epilogue)?.unsqueeze(2)?.unsqueeze(3)?)?;
        match epilogue.image {
            Some(image) => x + image.planes()?,
            None => Ok(x),
        }
    }
}

fn convolve(geometry: &Geometry, weight: &PackedMatrix<ROWS>, images: &[f32], output: &Output) {
    if winograd::is_faster(geometry) {
        return winograd::convolve(geometry, weight, images, output);
    }
    weight.multiply(
        geometry.columns(),
        |first, panel| geometry.gather(images, first, panel),
        |row, first, tile| {
            for (channel, line) in (row..).zip(tile) {
                for run in runs(first, geometry.batch, geometry.out_height, geometry.out_width) {
                    let pixel = run.y * geometry.out_width + run.x;
                    // SAFETY: each tile of the product is written once, and no two tiles share a pixel of a channel.
                    unsafe { output.put(run.image, channel, pixel, run.of(line)) };
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, random};

    /// Compares the packed convolution with candle's for these sizes.
    fn check(dims: [usize; 4], out: usize, size: usize, stride: usize, padding: Padding, upsampled: bool) {
        let [batch, channels, height, width] = dims;
        let x = random(&dims);
        let weight = (random(&[out, channels, size, size]) / ((channels * size * size) as f64).sqrt()).unwrap();
        let bias = random(&[out]);
        let conv = Conv2d::new(&Engine::Candle, weight.clone(), bias, stride, padding).unwrap();
        let input = if upsampled { x.upsample_nearest2d(2 * height, 2 * width).unwrap() } else { x.clone() };
        let expected = conv.plain(&weight, &input, Epilogue::default()).unwrap();
        let x = Image::from_planes(x);
        let found = if upsampled { conv.forward_upsampled(&x) } else { conv.forward(&x) }.unwrap();
        let case =
            format!("{batch} x {channels}x{height}x{width} -> {out}, {size} by {stride}, {padding:?}, {upsampled}");
        assert_close(found.planes().unwrap(), &expected, 2e-6, &case);

        let (channels, image) = (random(&[batch, out]), Image::from_planes(random(expected.dims())));
        let epilogue = Epilogue { channels: Some(&channels), image: Some(&image) };
        let expected = conv.plain(&weight, x.planes().unwrap(), epilogue);
        if !upsampled {
            let found = conv.forward_with(&x, epilogue).unwrap();
            assert_close(found.planes().unwrap(), &expected.unwrap(), 2e-6, &case);
        }
    }

    #[test]
    fn direct_convolutions_match_candle() {
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
    fn weights_in_half_precision_give_the_results_of_their_values() {
        for dims in [[2, 33, 9, 5], [1, 7, 19, 23]] {
            let x = Image::from_planes(random(&dims));
            let (weight, bias) = (random(&[21, dims[1], 3, 3]), random(&[21]));
            for dtype in [candle_core::DType::F16, candle_core::DType::BF16] {
                let half = weight.to_dtype(dtype).unwrap();
                let whole = half.to_dtype(candle_core::DType::F32).unwrap();
                let run = |weight| {
                    let conv = Conv2d::new(&Engine::Candle, weight, bias.clone(), 1, Padding::around(1)).unwrap();
                    conv.forward(&x).unwrap().planes().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
                };
                assert_eq!(run(half), run(whole), "{dims:?} {dtype:?}");
            }
        }
    }

    #[test]
    fn winograd_convolutions_match_candle() {
        check([1, 6, 16, 16], 20, 3, 1, Padding::around(1), false);
        check([2, 7, 19, 23], 11, 3, 1, Padding::around(1), false);
        check([1, 3, 70, 67], 4, 3, 1, Padding::around(1), false);
        check([2, 9, 9, 20], 31, 3, 1, Padding::around(1), true);
        check([1, 900, 10, 12], 12, 3, 1, Padding::around(1), false);
        check([5, 2, 11, 3], 1, 3, 1, Padding::around(1), false);
    }
}
