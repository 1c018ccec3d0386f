//! Scaled fp8: a weight is its fp8 value times a scale, as ComfyUI computes it. The product is an f32, rounded once to the
//! dtype of the output.

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::{Blocks, Dtype, LazyTensor, Overflow};

/// Rows and columns of a tile of `weight_scale_inv`.
const TILE: u64 = 128;

/// Returns the values of a weight in F32.
///
/// Fails unless the shape of the scales leaves no doubt which elements each scale is for: all, a row, an equal part of a row,
/// or, if `tiled`, a tile of 128 x 128.
pub(super) fn values(weight: &LazyTensor, scales: &LazyTensor, tiled: bool, overflow: Overflow) -> Result<LazyTensor> {
    if !matches!(scales.dtype(), Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
        // NVFP4 and MXFP8 keep theirs in an order that suits the tensor cores.
        let found = scales.dtype();
        return Err(Error::unsupported(format!("the scales of the weight are {found}, expected F32, F16 or BF16")));
    }
    let elements = weight.shape().elements();
    let blocks = blocks(weight.shape().dims(), scales.shape().dims(), elements, tiled).ok_or_else(|| {
        let (scales, weight) = (scales.shape(), weight.shape());
        Error::unsupported(format!("scales of shape {scales} for a weight of shape {weight}: unknown blocks"))
    })?;
    if elements == 0 {
        return weight.clone().cast(Dtype::F32, overflow);
    }
    weight.clone().scaled(scales.clone(), blocks, overflow)
}

fn blocks(weight: &[u64], scales: &[u64], elements: u64, tiled: bool) -> Option<Blocks> {
    if scales.iter().all(|&dim| dim == 1) {
        return Some(Blocks::Runs(elements.max(1)));
    }
    let (&rows, _) = weight.split_first()?;
    let row = elements.checked_div(rows).filter(|&row| row > 0)?;
    let significant = scales.iter().rposition(|&dim| dim != 1).and_then(|last| scales.get(..=last))?;
    match (significant, weight) {
        (&[found], _) if found == rows => Some(Blocks::Runs(row)),
        (&[down, across], &[rows, columns]) if tiled => {
            let fits = down == rows.div_ceil(TILE) && across == columns.div_ceil(TILE);
            fits.then_some(Blocks::Tiles { rows: TILE, columns: TILE })
        }
        (&[found, parts], &[rows, columns]) if found == rows && columns.checked_rem(parts) == Some(0) => {
            Some(Blocks::Runs(columns / parts))
        }
        // A column of tiles, whose only column was taken for a trailing dimension of size 1.
        (&[down], &[rows, columns]) if tiled && down == rows.div_ceil(TILE) && columns <= TILE => {
            Some(Blocks::Tiles { rows: TILE, columns: TILE })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_the_scales_decides_what_they_are_for() {
        let blocks = |weight: &[u64], scales: &[u64], tiled| blocks(weight, scales, weight.iter().product(), tiled);
        let all = Some(Blocks::Runs(48));
        for scalar in [&[][..], &[1], &[1, 1]] {
            assert_eq!(blocks(&[6, 8], scalar, false), all);
        }
        for rows in [&[6][..], &[6, 1], &[6, 1, 1]] {
            assert_eq!(blocks(&[6, 8], rows, false), Some(Blocks::Runs(8)));
        }
        assert_eq!(blocks(&[6, 2, 3, 3], &[6, 1, 1, 1], false), Some(Blocks::Runs(18)));
        for parts in [&[6, 4][..], &[6, 4, 1]] {
            assert_eq!(blocks(&[6, 8], parts, false), Some(Blocks::Runs(2)));
        }
        let tiles = Some(Blocks::Tiles { rows: 128, columns: 128 });
        assert_eq!(blocks(&[300, 200], &[3, 2], true), tiles);
        assert_eq!(blocks(&[300, 100], &[3, 1], true), tiles);
        for (weight, scales, tiled) in [
            (&[6, 8][..], &[8][..], false),
            (&[6, 8], &[6, 3], false),
            (&[300, 200], &[3, 2], false),
            (&[6, 8], &[1, 8], false),
        ] {
            assert_eq!(blocks(weight, scales, tiled), None, "{weight:?} {scales:?}");
        }
    }
}
