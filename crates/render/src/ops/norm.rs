//! Group normalization and layer normalization.

use candle_core::{D, DType, Result, Tensor};
use rayon::prelude::*;

use super::cpu::{is_f32_on_cpu, with_elements, zeros};
use super::engine::Engine;
use super::image::Image;
use super::simd::{exp, simd};
use crate::kernels;

/// Group normalization of an image.
pub(crate) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    epsilon: f64,
    kernels: Option<kernels::GroupNorm>,
}

impl GroupNorm {
    /// Creates a layer with one weight and one bias for each channel.
    ///
    /// Fails if the shapes do not match or the groups differ in size.
    pub(crate) fn new(engine: &Engine, weight: Tensor, bias: Tensor, groups: usize, epsilon: f64) -> Result<Self> {
        let channels = weight.dims1()?;
        if bias.dims() != [channels] || channels == 0 || !channels.is_multiple_of(groups) {
            candle_core::bail!("unsupported group normalization: {groups} groups, weight {weight:?}, bias {bias:?}")
        }
        let kernels = match engine {
            Engine::Kernels(kernels) => Some(kernels::GroupNorm::new(kernels, &weight, &bias, groups, epsilon)?),
            Engine::Candle => None,
        };
        Ok(GroupNorm { weight, bias, groups, epsilon, kernels })
    }

    /// Normalizes an image.
    pub(crate) fn forward(&self, x: &Image) -> Result<Image> {
        self.run(x, false)
    }

    /// Normalizes an image and applies SiLU, `x * sigmoid(x)`.
    pub(crate) fn forward_silu(&self, x: &Image) -> Result<Image> {
        self.run(x, true)
    }

    fn run(&self, x: &Image, silu: bool) -> Result<Image> {
        match &self.kernels {
            Some(norm) => {
                let pixels = norm.forward(x.pixels()?, silu)?;
                let channels = pixels.dim(3)?;
                x.with_pixels(pixels, channels)
            }
            None => Ok(Image::from_planes(self.normalized(x.planes()?, silu)?)),
        }
    }

    fn normalized(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        if is_f32_on_cpu(&[x, &self.weight, &self.bias]) { self.fast(x, silu) } else { self.plain(x, silu) }
    }

    fn plain(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        let channels = self.weight.dim(0)?;
        let norm =
            candle_nn::GroupNorm::new(self.weight.clone(), self.bias.clone(), channels, self.groups, self.epsilon)?;
        let x = candle_nn::Module::forward(&norm, x)?;
        if silu { x.silu() } else { Ok(x) }
    }

    /// Reads each group twice: for its moments, and for the result.
    fn fast(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        if channels != self.weight.dim(0)? || x.elem_count() == 0 {
            candle_core::bail!("a group normalization of {} channels cannot process {x:?}", self.weight.dim(0)?)
        }
        let (group_channels, plane) = (channels / self.groups, height * width);
        let mut out = zeros(batch * channels * plane);
        let normalize = |x: &[f32], weight: &[f32], bias: &[f32]| {
            let size = group_channels * plane;
            let groups = out.par_chunks_exact_mut(size).zip(x.par_chunks_exact(size)).enumerate();
            groups.for_each(|(index, (out, x))| {
                let first = index % self.groups * group_channels;
                let (mean, variance) = group_moments(x);
                let scale = 1.0 / (variance + self.epsilon).sqrt();
                let affine = weight.iter().zip(bias).skip(first);
                let planes = out.chunks_exact_mut(plane).zip(x.chunks_exact(plane)).zip(affine);
                for ((out, x), (weight, bias)) in planes {
                    let factor = f64::from(*weight) * scale;
                    let summand = f64::from(*bias) - mean * factor;
                    let (factor, summand) = (factor as f32, summand as f32);
                    write(x, factor, summand, silu, out);
                }
            });
            Ok(())
        };
        with_elements(x, |x| {
            with_elements(&self.weight, |weight| with_elements(&self.bias, |bias| { normalize }(x, weight, bias)))
        })?;
        Tensor::from_vec(out, (batch, channels, height, width), x.device())
    }
}

simd! {
    /// Writes `x * factor + summand`, or SiLU of it.
    fn write(x: &[f32], factor: f32, summand: f32, silu: bool, out: &mut [f32]) {
        if silu {
            for (out, x) in out.iter_mut().zip(x) {
                let y = x * factor + summand;
                *out = y / (1.0 + exp(-y));
            }
        } else {
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * factor + summand;
            }
        }
    }
}

simd! {
    fn group_moments(x: &[f32]) -> (f64, f64) {
        moments(x)
    }
}

/// Number of elements whose moments are computed in F32. They stay in the first-level cache for the second pass.
const PIECE: usize = 1024;

/// Number of partial sums that are accumulated in parallel.
const LANES: usize = 64;

/// Returns mean and variance. Computes the moments of each piece in F32, relative to the piece's mean, and combines the
/// pieces in F64.
#[inline(always)]
fn moments(x: &[f32]) -> (f64, f64) {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for piece in x.chunks(PIECE) {
        let len = piece.len() as f64;
        let piece_mean = f64::from(sum(piece, |x| x)) / len;
        let about = piece_mean as f32;
        let piece_squares = f64::from(sum(piece, |x| (x - about) * (x - about)));
        let delta = piece_mean - mean;
        let total = count + len;
        squares += piece_squares + delta * delta * count * len / total;
        mean += delta * len / total;
        count = total;
    }
    (mean, squares / count)
}

#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (lines, rest) = x.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for line in lines {
        for (sum, x) in sums.iter_mut().zip(line) {
            *sum += f(*x);
        }
    }
    let rest: f32 = rest.iter().map(|x| f(*x)).sum();
    sums.iter().sum::<f32>() + rest
}

/// Layer normalization of the last dimension.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    kernels: Option<kernels::LayerNorm>,
}

impl LayerNorm {
    const EPSILON: f32 = 1e-5;

    /// Creates a layer with one weight and one bias for each value of a token.
    ///
    /// Fails if the shapes do not match.
    pub(crate) fn new(engine: &Engine, weight: Tensor, bias: Tensor) -> Result<Self> {
        let width = weight.dims1()?;
        if bias.dims() != [width] || width == 0 {
            candle_core::bail!("unsupported layer normalization: weight {weight:?}, bias {bias:?}")
        }
        let kernels = match engine {
            Engine::Kernels(kernels) => Some(kernels::LayerNorm::new(kernels, &weight, &bias, Self::EPSILON)?),
            Engine::Candle => None,
        };
        Ok(LayerNorm { weight, bias, kernels })
    }

    /// Normalizes each token.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(norm) = &self.kernels {
            return norm.forward(x);
        }
        if is_f32_on_cpu(&[x, &self.weight, &self.bias]) { self.fast(x) } else { self.plain(x) }
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        if x.dtype() == DType::F64 {
            // The fused operation does not support F64.
            return candle_nn::ops::layer_norm_slow(x, &self.weight, &self.bias, Self::EPSILON);
        }
        candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, Self::EPSILON)
    }

    fn fast(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.dim(0)?;
        if x.dim(D::Minus1)? != width {
            candle_core::bail!("a layer normalization of {width} values cannot process {x:?}")
        }
        let mut out = zeros(x.elem_count());
        let normalize = |x: &[f32], weight: &[f32], bias: &[f32]| {
            // A single token is too little work for a thread.
            const TOKENS: usize = 16;
            let size = TOKENS * width;
            out.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(out, x)| {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    normalize_token(x, weight, bias, out);
                }
            });
            Ok(())
        };
        with_elements(x, |x| {
            with_elements(&self.weight, |weight| with_elements(&self.bias, |bias| { normalize }(x, weight, bias)))
        })?;
        Tensor::from_vec(out, x.dims(), x.device())
    }
}

simd! {
    fn normalize_token(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
        let (mean, variance) = moments(x);
        let scale = 1.0 / (variance + f64::from(LayerNorm::EPSILON)).sqrt();
        let (mean, scale) = (mean as f32, scale as f32);
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (x - mean) * scale * weight + bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{assert_close, random};

    fn group_norm(channels: usize, groups: usize) -> GroupNorm {
        GroupNorm::new(&Engine::Candle, random(&[channels]), random(&[channels]), groups, 1e-5).unwrap()
    }

    #[test]
    fn group_normalization_matches_candle() {
        for (dims, groups) in [([1, 4, 3, 5], 2), ([2, 64, 17, 33], 32), ([1, 32, 1, 1], 4), ([3, 6, 40, 40], 3)] {
            // With values far from zero, a naive variance would lose its precision by cancellation.
            let x = ((random(&dims) * 2.0).unwrap() + 30.0).unwrap();
            let [_, channels, _, _] = dims;
            let norm = group_norm(channels, groups);
            for silu in [false, true] {
                assert_close(
                    &norm.normalized(&x, silu).unwrap(),
                    &norm.plain(&x, silu).unwrap(),
                    1e-5,
                    &format!("{dims:?}"),
                );
            }
        }
    }

    #[test]
    fn layer_normalization_matches_candle() {
        for dims in [[1, 1, 8], [2, 77, 768], [3, 5, 321]] {
            let x = (random(&dims) + 3.0).unwrap();
            let [_, _, width] = dims;
            let norm = LayerNorm::new(&Engine::Candle, random(&[width]), random(&[width])).unwrap();
            // candle's variance suffers from cancellation, hence the tolerance.
            assert_close(&norm.forward(&x).unwrap(), &norm.plain(&x).unwrap(), 1e-5, &format!("{dims:?}"));
        }
    }

    #[test]
    fn group_normalization_propagates_nan() {
        let x = Tensor::from_vec(vec![1f32, f32::NAN, 2.0, 3.0], (1, 2, 1, 2), &Device::Cpu).unwrap();
        let norm = group_norm(2, 2);
        let found = norm.normalized(&x, true).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found.iter().map(|x| x.is_nan()).collect::<Vec<_>>(), [true, true, false, false]);
    }
}
