//! Attention of several heads.
//!
//! For f32 on the CPU, one panel of queries at a time looks at all keys: their likenesses, `[keys][32]`, stay in the
//! second-level cache, become shares there, and are what the kernel takes to gather values. No matrix of all queries
//! and all keys is ever made.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::Engine;
use super::cpu::{Shared, is_fast, with_elements, zeros};
use super::kernel::{COLUMNS, ROWS, Tile, ZEROS, exp, multiply, vectorized};
use super::product::pack_row;
use crate::render::kernels;

/// What each query gathers from the values, by the likeness of its keys.
///
/// Queries, keys and values are `[batch, tokens, heads * width]`, and so is the result. With `causal`, a token sees
/// itself and those before it.
pub(in crate::render) fn attention(
    engine: &Engine,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    match engine {
        Engine::Kernels(kernels) => kernels::attention(kernels, q, k, v, heads, causal),
        Engine::Candle if is_fast(&[q, k, v]) => fast(q, k, v, heads, causal),
        Engine::Candle => plain(q, k, v, heads, causal),
    }
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

fn fast(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    if k.dims3()? != (batch, keys, width) || v.dims3()? != (batch, keys, width) || !width.is_multiple_of(heads) {
        candle_core::bail!("{heads} heads cannot attend from {q:?} to {k:?} and {v:?}")
    }
    let shape = Shape { queries, keys, width, head: width / heads, causal };
    let mut out = zeros(batch * queries * width);
    let shared = Shared::new(&mut out);
    let run = |q: &[f32], k: &[f32], v: &[f32]| {
        let heads: Vec<(usize, usize)> =
            (0..batch).flat_map(|image| (0..heads).map(move |head| (image, head * shape.head))).collect();
        // A few heads at a time: their panels are a second copy of the keys and values.
        for heads in heads.chunks(AT_ONCE) {
            let packed: Vec<_> =
                heads.par_iter().map(|&(image, first)| Head::pack(&shape, k, v, image, first)).collect();
            let blocks = queries.div_ceil(COLUMNS);
            let work = 0..packed.len() * blocks;
            work.into_par_iter().for_each_init(Scratch::default, |scratch, index| {
                if let Some(head) = packed.get(index / blocks) {
                    head.attend(&shape, q, index % blocks * COLUMNS, scratch, &shared);
                }
            });
        }
        Ok(())
    };
    with_elements(q, |q| with_elements(k, |k| with_elements(v, |v| run(q, k, v))))?;
    Tensor::from_vec(out, (batch, queries, width), q.device())
}

/// Heads that are packed at a time.
const AT_ONCE: usize = 16;

#[derive(Clone, Copy)]
struct Shape {
    queries: usize,
    keys: usize,
    /// Of a token.
    width: usize,
    /// Of a head.
    head: usize,
    causal: bool,
}

/// Keys and values of one head as panels.
struct Head {
    image: usize,
    /// Its first value in a token.
    first: usize,
    /// `[head][ROWS]` for each ten keys.
    keys: Vec<f32>,
    /// `[keys][ROWS]` for each ten values of a head.
    values: Vec<f32>,
}

#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    likeness: Vec<Tile>,
    gathered: Vec<f32>,
}

impl Shape {
    /// The part of a token that belongs to a head.
    fn part<'a>(&self, tokens: &'a [f32], count: usize, image: usize, token: usize, first: usize) -> &'a [f32] {
        let start = (image * count + token) * self.width + first;
        tokens.get(start..start + self.head).unwrap_or_default()
    }
}

impl Head {
    fn pack(shape: &Shape, k: &[f32], v: &[f32], image: usize, first: usize) -> Self {
        let part = |tokens, token| shape.part(tokens, shape.keys, image, token, first);
        let panel = (ROWS * shape.head).max(1);
        let mut keys = zeros(shape.keys.div_ceil(ROWS) * panel);
        for (index, panel) in keys.chunks_mut(panel).enumerate() {
            for (row, token) in (index * ROWS..shape.keys).take(ROWS).enumerate() {
                pack_row::<ROWS>(part(k, token), row, panel);
            }
        }
        let panel = (ROWS * shape.keys).max(1);
        let mut values = zeros(shape.head.div_ceil(ROWS) * panel);
        for (index, panel) in values.chunks_mut(panel).enumerate() {
            for (token, line) in panel.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                let values = part(v, token).chunks(ROWS).nth(index).unwrap_or_default();
                line.iter_mut().zip(values).for_each(|(place, value)| *place = *value);
            }
        }
        Head { image, first, keys, values }
    }

    /// What the queries from `query` on gather, at most a panel of them.
    fn attend(&self, shape: &Shape, q: &[f32], query: usize, scratch: &mut Scratch, out: &Shared) {
        let Scratch { queries, likeness, gathered } = scratch;
        queries.clear();
        queries.resize(shape.head * COLUMNS, 0.0);
        let tokens = query..shape.queries.min(query + COLUMNS);
        for (column, token) in tokens.clone().enumerate() {
            pack_row::<COLUMNS>(shape.part(q, shape.queries, self.image, token, self.first), column, queries);
        }
        let scale = 1.0 / (shape.head as f32).sqrt();
        queries.iter_mut().for_each(|value| *value *= scale);

        likeness.clear();
        likeness.resize(shape.keys.div_ceil(ROWS), ZEROS);
        for (keys, tile) in self.keys.chunks(ROWS * shape.head).zip(likeness.iter_mut()) {
            multiply(keys, queries, tile);
        }
        // A tile is ten lines of the next panel.
        let likeness = likeness.as_flattened_mut();
        let likeness = likeness.split_at_mut(shape.keys.min(likeness.len())).0;
        if shape.causal {
            for (key, line) in likeness.iter_mut().enumerate() {
                // Queries before this key do not see it.
                line.iter_mut().take(key.saturating_sub(query)).for_each(|likeness| *likeness = f32::NEG_INFINITY);
            }
        }
        let sums = vectorized(|| softmax(likeness));

        gathered.clear();
        gathered.resize(shape.head.div_ceil(ROWS) * ROWS * COLUMNS, 0.0);
        let width = shape.head.div_ceil(ROWS) * ROWS;
        for (index, values) in self.values.chunks((ROWS * shape.keys).max(1)).enumerate() {
            let mut tile = ZEROS;
            multiply(values, likeness.as_flattened(), &mut tile);
            for (row, line) in (index * ROWS..).zip(&tile) {
                for ((token, value), sum) in gathered.chunks_mut(width).zip(line).zip(&sums) {
                    if let Some(place) = token.get_mut(row) {
                        *place = value / sum;
                    }
                }
            }
        }
        for (token, values) in tokens.zip(gathered.chunks(width)) {
            let start = (self.image * shape.queries + token) * shape.width + self.first;
            let values = values.get(..shape.head).unwrap_or_default();
            // SAFETY: no other piece of work has this head of these queries.
            unsafe { out.put(start, values) };
        }
    }
}

/// Down each column, `e^(x - greatest)`; gives the sums.
#[inline(always)]
fn softmax(likeness: &mut [[f32; COLUMNS]]) -> [f32; COLUMNS] {
    let mut greatest = [f32::NEG_INFINITY; COLUMNS];
    for line in likeness.iter() {
        for (greatest, x) in greatest.iter_mut().zip(line) {
            *greatest = if *x > *greatest { *x } else { *greatest };
        }
    }
    let mut sums = [0f32; COLUMNS];
    for line in likeness {
        for ((x, greatest), sum) in line.iter_mut().zip(&greatest).zip(&mut sums) {
            *x = exp(*x - greatest);
            *sum += *x;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::ops::testing::{close, random};

    #[test]
    fn attention_is_candles() {
        for (batch, queries, keys, heads, head) in
            [(1, 1, 1, 1, 1), (2, 77, 77, 4, 8), (2, 100, 77, 8, 40), (1, 64, 1000, 1, 33), (3, 33, 10, 2, 10)]
        {
            let q = (random(&[batch, queries, heads * head]) * 2.0).unwrap();
            let (k, v) = (random(&[batch, keys, heads * head]), random(&[batch, keys, heads * head]));
            let case = format!("{batch} x {queries} to {keys}, {heads} of {head}");
            let found = fast(&q, &k, &v, heads, false).unwrap();
            close(&found, &plain(&q, &k, &v, heads, false).unwrap(), 2e-6, &case);
            if queries == keys {
                let found = fast(&q, &k, &v, heads, true).unwrap();
                close(&found, &plain(&q, &k, &v, heads, true).unwrap(), 2e-6, &format!("{case}, causal"));
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_seen() {
        let (q, k) = (random(&[1, 3, 4]), random(&[1, 5, 4]));
        let broken = (&k * f64::NAN).unwrap();
        for found in [fast(&q, &broken, &k, 1, false), fast(&q, &k, &broken, 1, false)] {
            let found = found.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(found.iter().all(|x| x.is_nan()), "{found:?}");
        }
    }
}
