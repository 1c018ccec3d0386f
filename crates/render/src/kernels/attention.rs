//! Multi-head attention.

use bytemuck::NoUninit;
use candle_core::{Result, Tensor, bail};

use super::address::{address, address_mut};
use super::convolution::Convolution;
use super::launch::{Kernels, THREADS, int, padded};
use super::pointwise::{arrange, concat_rows, transpose};

/// `Attention` in `source/attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
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
    padding: u32,
}

/// For each kernel: the maximum head width, and the keys per tile in half precision and in F32.
const WIDTHS: [(usize, usize, usize); 5] = [(16, 64, 64), (48, 64, 64), (64, 64, 64), (80, 64, 32), (160, 32, 16)];

/// Queries per block.
const QUERIES: usize = 64;

/// Threads per block.
const BLOCK: usize = 128;

/// Computes `softmax(q * k^T / sqrt(width)) * v` for each head.
///
/// Queries, keys, values and the result are `[batch, tokens, heads * width]`. With `causal`, a token attends only to
/// itself and to earlier tokens.
///
/// Fails if the shapes or dtypes do not match.
pub(crate) fn attention(
    kernels: &Kernels,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    let (batch, queries, all) = q.dims3()?;
    let keys = k.dim(1)?;
    let has_dtype = [q, k, v].iter().all(|tensor| tensor.dtype() == kernels.dtype);
    if k.dims3()? != (batch, keys, all) || v.dims3()? != (batch, keys, all) || !all.is_multiple_of(heads) || !has_dtype
    {
        bail!("invalid attention: {heads} heads, queries {q:?}, keys {k:?}, values {v:?}")
    }
    let width = all / heads;
    let Some((widest, half_tile, f32_tile)) = WIDTHS.iter().find(|(widest, ..)| width <= *widest) else {
        return wide(kernels, q, k, v, heads, causal);
    };
    let element = kernels.dtype.size_in_bytes();
    let tile = if element == 2 { half_tile } else { f32_tile };
    let out = kernels.empty(&[batch, queries, all])?;
    let parameters = Parameters {
        q: address(q)?,
        k: address(k)?,
        v: address(v)?,
        out: address_mut(&out)?,
        batch: int(batch)?,
        heads: int(heads)?,
        queries: int(queries)?,
        keys: int(keys)?,
        width: int(width)?,
        causal: i32::from(causal),
        scale: scale(width),
        padding: 0,
    };
    let shared = (QUERIES + 4 * tile) * (widest * element + 16);
    let grid = [queries.div_ceil(QUERIES), heads, batch];
    // SAFETY: `Parameters` is the kernel's structure, and the shapes and dtypes match, as checked above. `out` is newly
    // allocated.
    unsafe { kernels.launch(&format!("attend_{widest}"), grid, BLOCK, shared, &parameters)? };
    Ok(out)
}

/// Returns the scale of the scores. Includes log2(e), because the kernels compute powers of 2.
fn scale(width: usize) -> f32 {
    std::f32::consts::LOG2_E / (width as f32).sqrt()
}

/// `Softmax` in `source/attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct SoftmaxParameters {
    x: u64,
    out: u64,
    rows: i32,
    columns: i32,
    stride: i32,
    scale: f32,
}

/// Number of queries whose scores are in memory at the same time.
const ROWS: usize = 4096;

/// Computes a single head that is too wide for the kernels, as in the VAE, with two matrix products.
fn wide(kernels: &Kernels, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    if heads != 1 || causal {
        bail!("no kernel supports {heads} heads of {} values and {keys} keys", width / heads)
    }
    let padded_keys = padded(keys);
    let mut images = Vec::new();
    for image in 0..batch {
        let image_of = |tensor: &Tensor| tensor.narrow(0, image, 1)?.squeeze(0);
        let rows = arrange(kernels, &image_of(k)?, [keys, width, 1], width, &[padded_keys, width], kernels.dtype)?;
        let score = Convolution::from_matrix(kernels, &rows)?;
        let gather = Convolution::from_matrix(kernels, &transpose(kernels, &image_of(v)?)?)?;
        for first in (0..queries).step_by(ROWS) {
            let rows = ROWS.min(queries - first);
            let x = score.forward_to_f32(&image_of(q)?.narrow(0, first, rows)?)?;
            let weights = kernels.empty(&[rows, padded_keys])?;
            let parameters = SoftmaxParameters {
                x: address(&x)?,
                out: address_mut(&weights)?,
                rows: int(rows)?,
                columns: int(keys)?,
                stride: int(padded_keys)?,
                scale: scale(width),
            };
            let shared = THREADS / 32 * size_of::<f32>();
            // SAFETY: `SoftmaxParameters` is the kernel's structure, and both tensors have `rows` of `padded_keys`
            // values. `weights` is newly allocated.
            unsafe { kernels.launch("softmax", [rows, 1, 1], THREADS, shared, &parameters)? };
            images.push(gather.forward_tokens(&weights, None)?);
        }
    }
    match images.as_slice() {
        [one] => one.unsqueeze(0),
        _ => concat_rows(kernels, &images)?.reshape((batch, queries, width)),
    }
}
