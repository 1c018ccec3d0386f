//! Attention of several heads.

use candle_core::{Result, Tensor, bail};

use super::pointwise::{arrange, joined, transpose};
use super::{Convolution, Kernels, THREADS, address, int, padded};

/// As `Attention` in `source/attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    batch: i32,
    heads: i32,
    queries: i32,
    keys: i32,
    width: i32,
    causal: i32,
    scale: f32,
}

/// The widths of heads that there are kernels for, the keys of a tile in halves and in f32.
const WIDTHS: [(usize, usize, usize); 5] = [(16, 64, 64), (48, 64, 64), (64, 64, 64), (80, 64, 32), (160, 32, 16)];

/// Queries of a block, and its threads.
const QUERIES: usize = 64;
const BLOCK: usize = 128;

/// What each query gathers from the values, by the likeness of its keys: all `[batch, tokens, heads * width]`. With
/// `causal`, a token sees itself and those before it.
pub(in crate::render) fn attention(
    kernels: &Kernels,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    let (batch, queries, all) = q.dims3()?;
    let keys = k.dim(1)?;
    let is_ours = [q, k, v].iter().all(|tensor| tensor.dtype() == kernels.dtype);
    if k.dims3()? != (batch, keys, all) || v.dims3()? != (batch, keys, all) || !all.is_multiple_of(heads) || !is_ours {
        bail!("{heads} heads cannot attend from {q:?} to {k:?} and {v:?}")
    }
    let width = all / heads;
    let Some((room, of_halves, of_floats)) = WIDTHS.iter().find(|(room, ..)| width <= *room) else {
        return wide(kernels, q, k, v, heads, causal);
    };
    let element = kernels.dtype.size_in_bytes();
    let tile = if element == 2 { of_halves } else { of_floats };
    let out = kernels.empty(&[batch, queries, all])?;
    let parameters = Parameters {
        q: address(q)?,
        k: address(k)?,
        v: address(v)?,
        out: address(&out)?,
        batch: int(batch)?,
        heads: int(heads)?,
        queries: int(queries)?,
        keys: int(keys)?,
        width: int(width)?,
        causal: i32::from(causal),
        scale: scale(width),
    };
    let shared = (QUERIES + 4 * tile) * (room * element + 16);
    let grid = [queries.div_ceil(QUERIES), heads, batch];
    // SAFETY: the tensors have the sizes that the kernel is told, as was compared above.
    unsafe { kernels.launch(&format!("attend_{room}"), grid, BLOCK, shared, &parameters)? };
    Ok(out)
}

/// The kernels take powers of two.
fn scale(width: usize) -> f32 {
    std::f32::consts::LOG2_E / (width as f32).sqrt()
}

/// As `Softmax` in `source/attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SoftmaxParameters {
    x: u64,
    out: u64,
    rows: i32,
    columns: i32,
    stride: i32,
    scale: f32,
}

/// Queries whose likenesses are written out at a time.
const ROWS: usize = 4096;

/// One head that is wider than any kernel takes, as the autoencoder has it: as two products of matrices.
fn wide(kernels: &Kernels, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    if heads != 1 || causal {
        bail!("there is no kernel for {heads} heads of {} values and {keys} keys", width / heads)
    }
    let padded_keys = padded(keys);
    let mut images = Vec::new();
    for image in 0..batch {
        let of_image = |tensor: &Tensor| tensor.narrow(0, image, 1)?.squeeze(0);
        let rows = arrange(kernels, &of_image(k)?, [keys, width, 1], width, &[padded_keys, width], kernels.dtype)?;
        let likeness = Convolution::of_matrix(kernels, &rows)?;
        let gather = Convolution::of_matrix(kernels, &transpose(kernels, &of_image(v)?)?)?;
        for first in (0..queries).step_by(ROWS) {
            let rows = ROWS.min(queries - first);
            let x = likeness.forward_to_f32(&of_image(q)?.narrow(0, first, rows)?)?;
            let shares = kernels.empty(&[rows, padded_keys])?;
            let parameters = SoftmaxParameters {
                x: address(&x)?,
                out: address(&shares)?,
                rows: int(rows)?,
                columns: int(keys)?,
                stride: int(padded_keys)?,
                scale: scale(width),
            };
            let shared = THREADS / 32 * size_of::<f32>();
            // SAFETY: both are `rows` of `padded_keys` values.
            unsafe { kernels.launch("softmax", [rows, 1, 1], THREADS, shared, &parameters)? };
            images.push(gather.forward_tokens(&shares, None)?);
        }
    }
    match images.as_slice() {
        [one] => one.unsqueeze(0),
        _ => joined(kernels, &images)?.reshape((batch, queries, width)),
    }
}
