//! The product of two panels, which takes most of the time of a render.

/// Rows of a tile. Ten rows of 32 columns leave AVX-512 registers for the operands, and ten divides the widths of SD v1.
pub(super) const ROWS: usize = 10;

/// Columns of a tile: two AVX-512 vectors.
pub(super) const COLUMNS: usize = 32;

/// A block of a product.
pub(super) type Tile = [[f32; COLUMNS]; ROWS];

/// A tile of zeros.
pub(super) const ZEROS: Tile = [[0.0; COLUMNS]; ROWS];

/// Adds the product of a panel `[depth][ROWS]` and a panel `[depth][COLUMNS]` to a tile.
#[inline]
pub(super) fn multiply(left: &[f32], right: &[f32], tile: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor supports AVX-512F, as detected above.
            return unsafe { x86::wide(left, right, tile) };
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor supports AVX2 and FMA, as detected above.
            return unsafe { x86::narrow(left, right, tile) };
        }
    }
    portable(left, right, tile);
}

/// A portable version of [`multiply`], without intrinsics.
fn portable(left: &[f32], right: &[f32], tile: &mut Tile) {
    for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
        for (row, left) in tile.iter_mut().zip(left) {
            for (sum, right) in row.iter_mut().zip(right) {
                *sum += left * right;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{COLUMNS, ROWS, Tile};

    #[target_feature(enable = "avx512f")]
    pub(super) fn wide(left: &[f32], right: &[f32], tile: &mut Tile) {
        let load = |row: &[f32; COLUMNS]| -> [__m512; 2] {
            let (low, high) = row.split_at(COLUMNS / 2);
            // SAFETY: both halves have 16 elements, which is one vector.
            unsafe { [_mm512_loadu_ps(low.as_ptr()), _mm512_loadu_ps(high.as_ptr())] }
        };
        // A loop, because `map` of arrays is not inlined into functions with target features.
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (sum, row) in sums.iter_mut().zip(&*tile) {
            *sum = load(row);
        }
        for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
            let [low, high] = load(right);
            for (sum, left) in sums.iter_mut().zip(left) {
                let left = _mm512_set1_ps(*left);
                let [sum_low, sum_high] = *sum;
                *sum = [_mm512_fmadd_ps(left, low, sum_low), _mm512_fmadd_ps(left, high, sum_high)];
            }
        }
        for (row, [low, high]) in tile.iter_mut().zip(sums) {
            let (to_low, to_high) = row.split_at_mut(COLUMNS / 2);
            // SAFETY: both halves have 16 elements, which is one vector.
            unsafe {
                _mm512_storeu_ps(to_low.as_mut_ptr(), low);
                _mm512_storeu_ps(to_high.as_mut_ptr(), high);
            }
        }
    }

    /// Computes the tile in quarters of 5 rows and 16 columns, because AVX2 has 16 registers instead of 32.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn narrow(left: &[f32], right: &[f32], tile: &mut Tile) {
        quarter::<0, 0>(left, right, tile);
        quarter::<0, 16>(left, right, tile);
        quarter::<5, 0>(left, right, tile);
        quarter::<5, 16>(left, right, tile);
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn quarter<const ROW: usize, const COLUMN: usize>(left: &[f32], right: &[f32], tile: &mut Tile) {
        let load = |row: &[f32; COLUMNS]| -> [__m256; 2] {
            let (low, high) = row.split_at(COLUMN).1.split_at(8);
            // SAFETY: `COLUMN` is 0 or 16, so both parts have at least 8 elements, which is one vector.
            unsafe { [_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())] }
        };
        #[expect(clippy::expect_used, reason = "`ROW` is 0 or 5, and a tile has ten rows")]
        let rows = tile.split_at_mut(ROW).1.first_chunk_mut::<5>().expect("five rows");
        let mut sums = [[_mm256_setzero_ps(); 2]; 5];
        for (sum, row) in sums.iter_mut().zip(&*rows) {
            *sum = load(row);
        }
        for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
            let [low, high] = load(right);
            for (sum, left) in sums.iter_mut().zip(left.split_at(ROW).1) {
                let left = _mm256_set1_ps(*left);
                let [sum_low, sum_high] = *sum;
                *sum = [_mm256_fmadd_ps(left, low, sum_low), _mm256_fmadd_ps(left, high, sum_high)];
            }
        }
        for (row, [low, high]) in rows.iter_mut().zip(sums) {
            let (to_low, to_high) = row.split_at_mut(COLUMN).1.split_at_mut(8);
            // SAFETY: as for the loads, both parts have at least 8 elements.
            unsafe {
                _mm256_storeu_ps(to_low.as_mut_ptr(), low);
                _mm256_storeu_ps(to_high.as_mut_ptr(), high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn all_instruction_sets_compute_the_same_product() {
        for depth in [0, 1, 7, 300] {
            let (left, right) = (values(depth * ROWS, 1), values(depth * COLUMNS, 2));
            let start: Tile = std::array::from_fn(|row| [row as f32; COLUMNS]);
            let mut expected = start;
            portable(&left, &right, &mut expected);
            let check = |found: Tile, name: &str| {
                for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                    assert!((found - expected).abs() < 1e-4, "{name}, depth {depth}: {found} {expected}");
                }
            };
            let mut found = start;
            multiply(&left, &right, &mut found);
            check(found, "detected");
            #[cfg(target_arch = "x86_64")]
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                let mut found = start;
                // SAFETY: the processor supports AVX2 and FMA, as detected above.
                unsafe { x86::narrow(&left, &right, &mut found) };
                check(found, "AVX2");
            }
        }
    }
}
