//! Linear layers.

use candle_core::{Result, Tensor};

use super::Engine;
use super::cpu::{Shared, is_fast, with_elements, zeros};
use super::kernel::{COLUMNS, ROWS};
use super::product::{Panels, pack};
use crate::render::kernels;

/// `x * weight^T + bias` over the last dimension.
pub(in crate::render) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    width: usize,
    out: usize,
}

enum Weight {
    /// As the product takes it; the tensor itself is not kept.
    Packed(Panels),
    Tensor(Tensor),
    Kernels(kernels::Convolution),
}

impl Linear {
    /// With a weight of `[out, in]`.
    pub(in crate::render) fn new(engine: &Engine, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out, width) = weight.dims2()?;
        let weight = match engine {
            Engine::Kernels(kernels) => Weight::Kernels(kernels::Convolution::new(kernels, &weight, bias.as_ref())?),
            Engine::Candle if is_fast(&[&weight]) => {
                Weight::Packed(with_elements(&weight, |weight| Ok(Panels::new(weight, width)))?)
            }
            Engine::Candle => Weight::Tensor(weight),
        };
        Ok(Linear { weight, bias, width, out })
    }

    /// `[.., in]` to `[.., out]`.
    pub(in crate::render) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == self.width => *last = self.out,
            _ => candle_core::bail!("a linear layer of {} values does not take {x:?}", self.width),
        }
        match &self.weight {
            Weight::Packed(weight) => self.packed(weight, x, dims, None),
            Weight::Tensor(weight) => self.plain(weight, x)?.reshape(dims),
            Weight::Kernels(convolution) => convolution.forward_tokens(x, None),
        }
    }

    /// As [`Linear::forward`], with a result that kernels leave in F32.
    pub(in crate::render) fn forward_wide(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Kernels(convolution) => convolution.forward_to_f32(x),
            _ => self.forward(x),
        }
    }

    /// As [`Linear::forward`], with a tensor of the result's shape added to it.
    pub(in crate::render) fn forward_onto(&self, x: &Tensor, added: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Packed(weight) if is_fast(&[added]) => self.packed(weight, x, added.dims().to_vec(), Some(added)),
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

    fn packed(&self, weight: &Panels, x: &Tensor, dims: Vec<usize>, added: Option<&Tensor>) -> Result<Tensor> {
        let tokens = x.elem_count() / self.width.max(1);
        if dims.iter().product::<usize>() != tokens * self.out || !is_fast(&[x]) {
            candle_core::bail!(
                "a linear layer of {} to {} values does not make {dims:?} of {x:?}",
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
            let shared = Shared::new(&mut out);
            weight.multiply(
                tokens,
                |first, panel| pack::<COLUMNS>(x.get(first * self.width..).unwrap_or_default(), self.width, panel),
                |row, first, tile| {
                    let bias = bias.get(row..).unwrap_or_default();
                    for (column, token) in (first..tokens).take(COLUMNS).enumerate() {
                        let mut values = [0f32; ROWS];
                        for ((value, line), bias) in values.iter_mut().zip(tile).zip(bias) {
                            *value = line.get(column).copied().unwrap_or_default() + bias;
                        }
                        let values = values.get(..bias.len().min(ROWS)).unwrap_or_default();
                        let start = token * self.out + row;
                        // SAFETY: every tile of the product is put once, and no other one holds these values.
                        unsafe { if added.is_some() { shared.add(start, values) } else { shared.put(start, values) } };
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
    use crate::render::ops::testing::{close, random};

    #[test]
    fn linear_layers_are_candles() {
        for (tokens, width, out) in [(1, 1, 1), (77, 32, 64), (300, 321, 45), (33, 1280, 10)] {
            let weight = (random(&[out, width]) / (width as f64).sqrt()).unwrap();
            let (x, added) = (random(&[1, tokens, width]), random(&[1, tokens, out]));
            for bias in [None, Some(random(&[out]))] {
                let linear = Linear::new(&Engine::Candle, weight.clone(), bias).unwrap();
                let expected = linear.plain(&weight, &x).unwrap().reshape((1, tokens, out)).unwrap();
                let case = format!("{tokens} of {width} to {out}");
                close(&linear.forward(&x).unwrap(), &expected, 2e-6, &case);
                close(&linear.forward_onto(&x, &added).unwrap(), &(expected + &added).unwrap(), 2e-6, &case);
            }
        }
    }
}
