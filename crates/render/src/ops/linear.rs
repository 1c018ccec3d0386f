//! Linear layers.

use candle_core::{Result, Tensor};

use super::cpu::{is_f32_on_cpu, with_elements, zeros};
use super::disjoint::DisjointWriter;
use super::elements::is_packable;
use super::engine::Engine;
use super::matmul::{PackedMatrix, pack};
use super::microkernel::{COLUMNS, ROWS, Tile};
use crate::kernels;

/// `x * weight^T + bias` over the last dimension.
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    width: usize,
    out: usize,
}

enum Weight {
    /// The packed weight. The tensor itself is not kept.
    Packed(PackedMatrix<COLUMNS>),
    Tensor(Tensor),
    Kernels(kernels::Convolution),
}

impl Linear {
    /// Creates a layer with a weight `[out, in]` and a bias `[out]`. On the CPU, a weight in half precision with an F32 bias
    /// is widened when it is used.
    ///
    /// Fails if the shapes do not match.
    pub(crate) fn new(engine: &Engine, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out, width) = weight.dims2()?;
        if let Some(bias) = bias.as_ref().filter(|bias| bias.dims() != [out]) {
            candle_core::bail!("a linear layer with {out} outputs cannot have the bias {bias:?}")
        }
        let weight = match engine {
            Engine::Kernels(kernels) => Weight::Kernels(kernels::Convolution::new(kernels, &weight, bias.as_ref())?),
            Engine::Candle if is_packable(&weight) && bias.as_ref().is_none_or(|bias| is_f32_on_cpu(&[bias])) => {
                Weight::Packed(PackedMatrix::new(&weight, width)?)
            }
            Engine::Candle => Weight::Tensor(weight),
        };
        Ok(Linear { weight, bias, width, out })
    }

    /// The number of inputs.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Maps `[.., in]` to `[.., out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == self.width => *last = self.out,
            _ => candle_core::bail!("a linear layer with {} inputs cannot process {x:?}", self.width),
        }
        match &self.weight {
            Weight::Packed(weight) => self.packed(weight, x, dims, None),
            Weight::Tensor(weight) => self.plain(weight, x)?.reshape(dims),
            Weight::Kernels(convolution) => convolution.forward_tokens(x, None),
        }
    }

    /// Like [`Linear::forward`], but CUDA kernels return the result as F32.
    pub(crate) fn forward_to_f32(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Kernels(convolution) => convolution.forward_to_f32(x),
            _ => self.forward(x),
        }
    }

    /// Like [`Linear::forward`], plus a tensor of the result's shape.
    pub(crate) fn forward_add(&self, x: &Tensor, added: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Packed(weight) if is_f32_on_cpu(&[added]) => {
                self.packed(weight, x, added.dims().to_vec(), Some(added))
            }
            Weight::Kernels(convolution) => convolution.forward_tokens(x, Some(added)),
            _ => added + self.forward(x)?,
        }
    }

    fn plain(&self, weight: &Tensor, x: &Tensor) -> Result<Tensor> {
        let rows = x.reshape(((), self.width))?.matmul(&weight.t()?)?;
        match &self.bias {
            Some(bias) => rows.broadcast_add(bias),
            None => Ok(rows),
        }
    }

    fn packed(
        &self,
        weight: &PackedMatrix<COLUMNS>,
        x: &Tensor,
        dims: Vec<usize>,
        added: Option<&Tensor>,
    ) -> Result<Tensor> {
        let tokens = x.elem_count() / weight.depth();
        if x.dims().last() != Some(&self.width)
            || dims.iter().product::<usize>() != tokens * self.out
            || !is_f32_on_cpu(&[x])
        {
            candle_core::bail!(
                "a linear layer with {} inputs and {} outputs cannot map {x:?} to {dims:?}",
                self.width,
                self.out
            )
        }
        let mut out = match added {
            Some(added) => with_elements(added, |added| Ok(added.to_vec()))?,
            None => zeros(tokens * self.out),
        };
        let bias = match &self.bias {
            Some(bias) => with_elements(bias, |bias| Ok(bias.to_vec()))?,
            None => zeros(self.out),
        };
        with_elements(x, |x| {
            let out = DisjointWriter::new(&mut out);
            weight.multiply(
                tokens,
                |first, panel| pack::<ROWS, f32>(x.split_at(first * self.width).1, self.width, panel),
                |row, first, tile: &Tile| {
                    let bias = bias.split_at(row).1;
                    for (token, line) in (first..tokens).zip(tile) {
                        let start = token * self.out + row;
                        // SAFETY: each tile of the product is written once, and no two tiles share an output of a
                        // token.
                        let values = unsafe { out.claim(start..start + bias.len().min(COLUMNS)) };
                        values.iter_mut().zip(line).zip(bias).for_each(|((value, x), bias)| *value += x + bias);
                    }
                },
            );
            Ok(())
        })?;
        Tensor::from_vec(out, dims, x.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, random};

    #[test]
    fn rejects_a_bias_of_another_length() {
        assert!(Linear::new(&Engine::Candle, random(&[4, 3]), Some(random(&[3]))).is_err());
    }

    #[test]
    fn packed_linear_layers_match_candle() {
        for (tokens, width, out) in [(1, 1, 1), (77, 32, 64), (300, 321, 45), (33, 1280, 10)] {
            let weight = (random(&[out, width]) / (width as f64).sqrt()).unwrap();
            let (x, added) = (random(&[1, tokens, width]), random(&[1, tokens, out]));
            for bias in [None, Some(random(&[out]))] {
                let linear = Linear::new(&Engine::Candle, weight.clone(), bias).unwrap();
                let expected = linear.plain(&weight, &x).unwrap().reshape((1, tokens, out)).unwrap();
                let case = format!("{tokens} tokens, {width} to {out}");
                assert_close(&linear.forward(&x).unwrap(), &expected, 2e-6, &case);
                assert_close(&linear.forward_add(&x, &added).unwrap(), &(expected + &added).unwrap(), 2e-6, &case);
            }
        }
    }
}
