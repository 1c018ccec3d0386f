//! Multi-head attention.
//!
//! On the CPU with F32, panels of 32 queries attend to a block of keys at a time. The scores of a block stay in the
//! first-level cache, where they become weights and are multiplied with the values by the microkernel. The results of
//! earlier blocks are scaled down when a later one has a greater maximum, as in FlashAttention (Dao et al. 2022).

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::cpu::{is_f32_on_cpu, with_elements, zeros};
use super::disjoint::DisjointWriter;
use super::engine::Engine;
use super::matmul::pack_row;
use super::microkernel::{COLUMNS, ROWS, Tile, ZEROS, multiply};
use super::simd::{exp2, simd};
use crate::kernels;

/// Computes `softmax(q * k^T / sqrt(width)) * v` for each head.
///
/// Queries, keys, values and the result are `[batch, tokens, heads * width]`. With `causal`, a token attends only to
/// itself and to earlier tokens.
///
/// Fails if the shapes do not match.
pub(crate) fn attention(
    engine: &Engine,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    match engine {
        Engine::Kernels(kernels) => kernels::attention(kernels, q, k, v, heads, causal),
        Engine::Candle if is_f32_on_cpu(&[q, k, v]) => fast(q, k, v, heads, causal),
        Engine::Candle => plain(q, k, v, heads, causal),
    }
}

/// Computes attention with candle's operations and the full matrix of scores.
fn plain(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    let split_heads = |x: &Tensor| x.reshape((batch, x.dim(1)?, heads, width / heads))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split_heads(q)?, split_heads(k)?, split_heads(v)?);
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let mut scores = (q * scale)?.matmul(&k.t()?)?;
    if causal {
        let mask = |(row, column)| if column > row { f32::NEG_INFINITY } else { 0.0 };
        let mask = (0..queries).flat_map(|row| (0..keys).map(move |column| (row, column))).map(mask).collect();
        let mask = Tensor::from_vec(mask, (queries, keys), scores.device())?.to_dtype(scores.dtype())?;
        scores = scores.broadcast_add(&mask)?;
    }
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    weights.matmul(&v)?.transpose(1, 2)?.reshape((batch, queries, width))
}

fn fast(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    let fits = k.dims3()? == (batch, keys, width) && v.dims3()? == (batch, keys, width);
    if !fits || keys == 0 || width == 0 || !width.is_multiple_of(heads) {
        candle_core::bail!("invalid attention: {heads} heads, queries {q:?}, keys {k:?}, values {v:?}")
    }
    let shape = Shape { queries, keys, width, head: width / heads, causal };
    let mut out = zeros(batch * queries * width);
    let writer = DisjointWriter::new(&mut out);
    let run = |q: &[f32], k: &[f32], v: &[f32]| {
        let heads: Vec<(usize, usize)> =
            (0..batch).flat_map(|image| (0..heads).map(move |head| (image, head * shape.head))).collect();
        for heads in heads.chunks(HEADS_AT_ONCE) {
            let packed: Vec<_> =
                heads.par_iter().map(|&(image, first)| Head::pack(&shape, k, v, image, first)).collect();
            let work: Vec<(&Head, usize)> =
                packed.iter().flat_map(|head| (0..queries).step_by(COLUMNS).map(move |query| (head, query))).collect();
            work.into_par_iter().for_each_init(Scratch::default, |scratch, (head, query)| {
                head.attend(&shape, q, query, scratch, &writer);
            });
        }
        Ok(())
    };
    with_elements(q, |q| with_elements(k, |k| with_elements(v, |v| run(q, k, v))))?;
    Tensor::from_vec(out, (batch, queries, width), q.device())
}

/// Keys in a block. Their scores are 20 KiB.
const BLOCK: usize = 16 * ROWS;

/// Heads that are packed at a time. The panels are a second copy of their keys and values.
const HEADS_AT_ONCE: usize = 16;

#[derive(Clone, Copy)]
struct Shape {
    queries: usize,
    keys: usize,
    /// The number of values of a token.
    width: usize,
    /// The number of values of a head.
    head: usize,
    causal: bool,
}

/// The keys and values of one head, packed in panels.
struct Head {
    image: usize,
    /// The first value of the head within a token.
    first: usize,
    /// `[head][ROWS]` for every ten keys.
    keys: Vec<f32>,
    /// `[keys][ROWS]` for every ten values of the head.
    values: Vec<f32>,
}

/// The buffers of a thread.
struct Scratch {
    /// `[head][COLUMNS]`
    queries: Vec<f32>,
    /// The scores of a block, and then its weights.
    scores: [Tile; BLOCK / ROWS],
    /// The sums of weighted values, `[head][COLUMNS]` in tiles.
    sums: Vec<Tile>,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch { queries: Vec::new(), scores: [ZEROS; BLOCK / ROWS], sums: Vec::new() }
    }
}

/// The state of the softmax of a panel of queries, after some of the keys.
struct Softmax {
    /// The greatest scores.
    maxima: [f32; COLUMNS],
    /// The sums of the weights.
    totals: [f32; COLUMNS],
}

impl Shape {
    /// Returns the values of one head in one token. Each image has `count` tokens.
    fn part<'a>(&self, tokens: &'a [f32], count: usize, image: usize, token: usize, first: usize) -> &'a [f32] {
        let start = (image * count + token) * self.width + first;
        tokens.split_at(start).1.split_at(self.head).0
    }
}

impl Head {
    fn pack(shape: &Shape, k: &[f32], v: &[f32], image: usize, first: usize) -> Self {
        let part = |tokens, token| shape.part(tokens, shape.keys, image, token, first);
        let panel = ROWS * shape.head;
        let mut keys = zeros(shape.keys.div_ceil(ROWS) * panel);
        for (index, panel) in keys.chunks_exact_mut(panel).enumerate() {
            for (row, token) in (index * ROWS..shape.keys).take(ROWS).enumerate() {
                pack_row::<ROWS, f32>(part(k, token), row, panel);
            }
        }
        let panel = ROWS * shape.keys;
        let mut values = zeros(shape.head.div_ceil(ROWS) * panel);
        for (index, panel) in values.chunks_exact_mut(panel).enumerate() {
            for (token, line) in panel.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                let values = part(v, token).split_at(index * ROWS).1;
                line.iter_mut().zip(values).for_each(|(place, value)| *place = *value);
            }
        }
        Head { image, first, keys, values }
    }

    /// Computes the result for at most `COLUMNS` queries, starting at `query`.
    fn attend(&self, shape: &Shape, q: &[f32], query: usize, scratch: &mut Scratch, writer: &DisjointWriter) {
        let Scratch { queries, scores, sums } = scratch;
        queries.clear();
        queries.resize(shape.head * COLUMNS, 0.0);
        let tokens = query..shape.queries.min(query + COLUMNS);
        for (column, token) in tokens.clone().enumerate() {
            pack_row::<COLUMNS, f32>(shape.part(q, shape.queries, self.image, token, self.first), column, queries);
        }
        // The weights are powers of 2.
        let scale = std::f32::consts::LOG2_E / (shape.head as f32).sqrt();
        queries.iter_mut().for_each(|value| *value *= scale);

        sums.clear();
        sums.resize(shape.head.div_ceil(ROWS), ZEROS);
        let mut softmax = Softmax { maxima: [f32::MIN; COLUMNS], totals: [0.0; COLUMNS] };
        // No query of this panel attends to later keys.
        let keys = if shape.causal { shape.keys.min(tokens.end) } else { shape.keys };
        for first in (0..keys).step_by(BLOCK) {
            let count = BLOCK.min(shape.keys - first);
            scores.fill(ZEROS);
            let panels = self.keys.split_at(first * shape.head).1.chunks_exact(ROWS * shape.head);
            for (keys, tile) in panels.zip(scores.iter_mut()) {
                multiply(keys, queries, tile);
            }
            // Consecutive tiles form a panel `[keys][COLUMNS]`, without the padding of the last tile.
            let scores = scores.as_flattened_mut().split_at_mut(count).0;
            if shape.causal {
                for (key, line) in (first..).zip(scores.iter_mut()) {
                    // Queries before this key do not attend to it.
                    line.iter_mut().take(key.saturating_sub(query)).for_each(|score| *score = f32::NEG_INFINITY);
                }
            }
            weigh(&mut softmax, scores, sums);
            for (values, sums) in self.values.chunks_exact(ROWS * shape.keys).zip(sums.iter_mut()) {
                let values = values.split_at(first * ROWS).1.split_at(count * ROWS).0;
                multiply(values, scores.as_flattened(), sums);
            }
        }
        let totals = softmax.totals();
        for ((column, token), total) in tokens.enumerate().zip(totals) {
            let start = (self.image * shape.queries + token) * shape.width + self.first;
            // SAFETY: each pair of a head and a panel of queries is one unit of work, and no two units share a value of
            // a token.
            let place = unsafe { writer.claim(start..start + shape.head) };
            for (value, line) in place.iter_mut().zip(sums.as_flattened()) {
                #[expect(clippy::indexing_slicing, reason = "`column` is less than the columns of a tile")]
                {
                    *value = line[column] / total;
                }
            }
        }
    }
}

impl Softmax {
    /// Returns the sums of the weights: NaN for a query without a score above negative infinity.
    fn totals(&self) -> [f32; COLUMNS] {
        let mut totals = self.totals;
        for (total, maximum) in totals.iter_mut().zip(&self.maxima) {
            if *maximum == f32::MIN {
                *total = f32::NAN;
            }
        }
        totals
    }
}

simd! {
    /// Replaces the scores of a block, which are logarithms to base 2, with weights relative to the greatest score so far.
    /// Scales down the earlier `sums` where this block has a greater score.
    fn weigh(softmax: &mut Softmax, scores: &mut [[f32; COLUMNS]], sums: &mut [Tile]) {
        let mut maxima = softmax.maxima;
        for line in scores.iter() {
            for (maximum, x) in maxima.iter_mut().zip(line) {
                *maximum = if *x > *maximum { *x } else { *maximum };
            }
        }
        let mut totals = [0f32; COLUMNS];
        for line in scores {
            for ((x, maximum), total) in line.iter_mut().zip(&maxima).zip(&mut totals) {
                *x = exp2::<FMA>(*x - maximum);
                *total += *x;
            }
        }
        let mut factors = [0f32; COLUMNS];
        for ((factor, old), new) in factors.iter_mut().zip(&softmax.maxima).zip(&maxima) {
            *factor = exp2::<FMA>(*old - new);
        }
        for ((sum, factor), total) in softmax.totals.iter_mut().zip(&factors).zip(&totals) {
            *sum = *sum * factor + total;
        }
        if maxima != softmax.maxima {
            for line in sums.as_flattened_mut() {
                for (sum, factor) in line.iter_mut().zip(&factors) {
                    *sum *= factor;
                }
            }
        }
        softmax.maxima = maxima;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, random};

    #[test]
    fn attention_matches_candle() {
        for (batch, queries, keys, heads, head) in [
            (1, 1, 1, 1, 1),
            (2, 77, 77, 4, 8),
            (2, 100, 77, 8, 40),
            (1, 64, 1000, 1, 33),
            (3, 33, 10, 2, 10),
            (1, 400, 400, 1, 21),
        ] {
            let q = (random(&[batch, queries, heads * head]) * 2.0).unwrap();
            let (k, v) = (random(&[batch, keys, heads * head]), random(&[batch, keys, heads * head]));
            let case = format!("{batch} x {queries} to {keys}, {heads} of {head}");
            let found = fast(&q, &k, &v, heads, false).unwrap();
            assert_close(&found, &plain(&q, &k, &v, heads, false).unwrap(), 2e-6, &case);
            if queries == keys {
                let found = fast(&q, &k, &v, heads, true).unwrap();
                assert_close(&found, &plain(&q, &k, &v, heads, true).unwrap(), 2e-6, &format!("{case}, causal"));
            }
        }
    }

    #[test]
    fn later_keys_with_greater_scores_outweigh_earlier_blocks() {
        let keys = 3 * BLOCK + 7;
        let growing: Vec<f32> = (0..keys).map(|key| key as f32 / 50.0).collect();
        let k = Tensor::from_vec(growing, (1, keys, 1), &candle_core::Device::Cpu).unwrap();
        let (q, v) = ((random(&[1, 40, 1]) * 3.0).unwrap(), random(&[1, keys, 1]));
        let found = fast(&q, &k, &v, 1, false).unwrap();
        assert_close(&found, &plain(&q, &k, &v, 1, false).unwrap(), 2e-6, "growing keys");
    }

    #[test]
    fn attention_propagates_nan() {
        let (q, k) = (random(&[1, 3, 4]), random(&[1, 5, 4]));
        let broken = (&k * f64::NAN).unwrap();
        for found in [fast(&q, &broken, &k, 1, false), fast(&q, &k, &broken, 1, false)] {
            let found = found.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(found.iter().all(|x| x.is_nan()), "{found:?}");
        }
    }
}
