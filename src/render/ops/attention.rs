//! Attention of several heads.

use candle_core::{D, Result, Tensor};

/// What each query gathers from the values, by the likeness of its keys.
///
/// Queries, keys and values are `[batch, tokens, heads * width]`, and so is the result. With `causal`, a token sees
/// itself and those before it.
pub(in crate::render) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    plain(q, k, v, heads, causal)
}

/// The same in candle's operations, with the whole matrix of likenesses.
fn plain(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    let of_heads = |x: &Tensor| x.reshape((batch, x.dim(1)?, heads, width / heads))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (of_heads(q)?, of_heads(k)?, of_heads(v)?);
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let mut likeness = (q * scale)?.matmul(&k.t()?)?;
    if causal {
        let seen = |(row, column)| if column > row { f32::NEG_INFINITY } else { 0.0 };
        let mask = (0..queries).flat_map(|row| (0..keys).map(move |column| (row, column))).map(seen).collect();
        let mask = Tensor::from_vec(mask, (queries, keys), likeness.device())?.to_dtype(likeness.dtype())?;
        likeness = likeness.broadcast_add(&mask)?;
    }
    let shares = candle_nn::ops::softmax(&likeness, D::Minus1)?;
    shares.matmul(&v)?.transpose(1, 2)?.reshape((batch, queries, width))
}
