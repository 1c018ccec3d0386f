//! Tensors whose elements are computed from other tensors when they are read: the weights of quantized layers.

use std::sync::Arc;

use crate::error::{Error, Hint, OrInternal, Result};
use crate::limits;
use crate::tensor::cast::Overflow;
use crate::tensor::lazy::{Compute, Repr};
use crate::tensor::{Dtype, LazyTensor, Shape};

/// Elements computed at a time.
const ELEMENTS: usize = 64 << 10;

/// Which elements of a tensor share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// This many consecutive elements in row-major order, across rows. The last block may be shorter.
    Runs(u64),
    /// Tiles of a matrix, row by row. Those at the edges may be smaller.
    Tiles {
        /// Rows of a tile.
        rows: u64,
        /// Columns of a tile.
        columns: u64,
    },
}

/// How codes lie in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    /// A code of 8 bits in each byte.
    Bytes,
    /// Two codes of 4 bits in each byte, the upper half first.
    Nibbles,
}

/// A tensor of F32 elements that are computed on reading. The constructors check what the comments state.
#[derive(Debug)]
enum Computed {
    /// Each element of `values`, times the scale of its block. Both are F32, and `scales` has one element for each block.
    Scaled { values: LazyTensor, scales: LazyTensor, blocks: Blocks, overflow: Overflow },
    /// Each element of `values`, F32, plus `offset`.
    Shifted { values: LazyTensor, offset: f32 },
    /// The entry of `table` for each code. `bytes` has elements of one byte, enough for `shape`, and `table` has an entry
    /// for every code.
    Decoded { bytes: LazyTensor, codes: Codes, table: Arc<[f32]>, shape: Shape },
}

impl LazyTensor {
    /// Returns this tensor in F32, each element times the scale of its block. The product is rounded once.
    ///
    /// Fails if a tensor is not floating-point, if there is not exactly one scale for each block, or if a row of tiles has
    /// more than [`limits::TILE_COLUMNS`]. With [`Overflow::Refuse`], reading a finite product that overflows fails.
    pub fn scaled(self, scales: LazyTensor, blocks: Blocks, overflow: Overflow) -> Result<Self> {
        let (values, scales) = (self.cast(Dtype::F32, overflow)?, scales.cast(Dtype::F32, overflow)?);
        let elements = values.shape().elements();
        let count = match (blocks, values.shape().dims()) {
            (Blocks::Runs(1..), _) if elements == 0 => 0,
            (Blocks::Runs(run @ 1..), _) => elements.div_ceil(run),
            (Blocks::Tiles { rows: tile_rows @ 1.., columns: tile_columns @ 1.. }, &[rows, columns]) => {
                let across = columns.div_ceil(tile_columns);
                if across > limits::TILE_COLUMNS {
                    let most = limits::TILE_COLUMNS;
                    return Err(Error::limit(format!(
                        "a row of {across} tiles with a scale each, the limit is {most}"
                    )));
                }
                // Cannot overflow: each factor is at most a dimension, and `Shape` bounds their product.
                rows.div_ceil(tile_rows) * across
            }
            _ => return Err(Error::usage(format!("shape {} has no blocks like {blocks:?}", values.shape()))),
        };
        if scales.shape().elements() != count {
            let found = scales.shape();
            return Err(Error::mismatch(format!("{found} scales for shape {}, expected {count}", values.shape())));
        }
        Ok(Computed::Scaled { values, scales, blocks, overflow }.into())
    }

    /// Returns this tensor in F32, with `offset` added to each element.
    ///
    /// Fails if the tensor is not floating-point.
    pub fn shifted(self, offset: f32) -> Result<Self> {
        Ok(Computed::Shifted { values: self.cast(Dtype::F32, Overflow::Refuse)?, offset }.into())
    }

    /// Returns a tensor of this shape in F32: the entry of `table` for each code in the bytes of this tensor, which must
    /// have elements of one byte.
    ///
    /// Fails if the bytes do not hold exactly one code for each element, padded to whole bytes, or if `table` does not have
    /// 256 entries, or 16 for nibbles.
    pub fn decoded(self, codes: Codes, table: impl Into<Arc<[f32]>>, shape: Shape) -> Result<Self> {
        let table = table.into();
        let (bytes, entries) = match codes {
            Codes::Bytes => (shape.elements(), 256),
            Codes::Nibbles => (shape.elements().div_ceil(2), 16),
        };
        if self.dtype().size() != 1 || self.shape().elements() != bytes {
            let (dtype, found) = (self.dtype(), self.shape());
            return Err(Error::mismatch(format!("{dtype} {found}, expected {bytes} bytes for the codes of {shape}")));
        }
        if table.len() != entries {
            return Err(Error::mismatch(format!("a table of {} entries, expected {entries}", table.len())));
        }
        Ok(Computed::Decoded { bytes: self, codes, table, shape }.into())
    }
}

impl From<Computed> for LazyTensor {
    fn from(computed: Computed) -> Self {
        Repr::Computed(Arc::new(computed)).into()
    }
}

impl Compute for Computed {
    fn shape(&self) -> &Shape {
        match self {
            Computed::Scaled { values, .. } | Computed::Shifted { values, .. } => values.shape(),
            Computed::Decoded { shape, .. } => shape,
        }
    }

    fn inputs(&self) -> Vec<&LazyTensor> {
        match self {
            Computed::Scaled { values, scales, .. } => vec![values, scales],
            Computed::Shifted { values, .. } => vec![values],
            Computed::Decoded { bytes, .. } => vec![bytes],
        }
    }

    fn read(&self, first: u64, out: &mut [u8]) -> Result<()> {
        // No reader of a computed tensor can compare the checksums of the storages it is computed from.
        self.inputs().into_iter().try_for_each(LazyTensor::check_storage)?;
        let mut first = first;
        for out in out.chunks_mut(ELEMENTS * Dtype::F32.size()) {
            self.read_piece(first, out)?;
            first += (out.len() / Dtype::F32.size()) as u64;
        }
        Ok(())
    }
}

impl Computed {
    fn read_piece(&self, first: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Computed::Scaled { values, scales, blocks, overflow } => {
                values.read(first, out, None)?;
                scale(values.shape(), scales, *blocks, *overflow, first, out)
            }
            Computed::Shifted { values, offset } => {
                values.read(first, out, None)?;
                for element in out.as_chunks_mut().0 {
                    *element = (f32::from_le_bytes(*element) + offset).to_le_bytes();
                }
                Ok(())
            }
            Computed::Decoded { bytes, codes, table, .. } => decode(bytes, *codes, table, first, out),
        }
    }
}

/// Multiplies the elements in `out`, which begin at index `first`, by their scales.
fn scale(
    shape: &Shape,
    scales: &LazyTensor,
    blocks: Blocks,
    overflow: Overflow,
    first: u64,
    out: &mut [u8],
) -> Result<()> {
    let (elements, _) = out.as_chunks_mut::<4>();
    let Some(last) = (elements.len() as u64).checked_sub(1).map(|more| first + more) else { return Ok(()) };
    // The index of an element's block, and the number of elements from it to the end of its run in that block.
    let columns = shape.dims().last().copied().filter(|&columns| columns > 0);
    let block_of = |index: u64| match blocks {
        Blocks::Runs(run) => Some((index.checked_div(run)?, run - index.checked_rem(run)?)),
        Blocks::Tiles { rows, columns: tile } => {
            let columns = columns?;
            let (row, column) = (index / columns, index % columns);
            let across = columns.div_ceil(tile);
            Some((row.checked_div(rows)? * across + column / tile, (tile - column % tile).min(columns - column)))
        }
    };
    const EMPTY: &str = "an element of a scaled tensor has no block";
    // The blocks of a range are consecutive, but the first tile of a later row can come before the first block.
    let (begin, end) = match blocks {
        Blocks::Runs(_) => (block_of(first).or_internal(EMPTY)?.0, block_of(last).or_internal(EMPTY)?.0),
        Blocks::Tiles { rows, columns: tile } => {
            let columns = columns.or_internal(EMPTY)?;
            let across = columns.div_ceil(tile);
            let row = |index: u64| (index / columns).checked_div(rows);
            (row(first).or_internal(EMPTY)? * across, (row(last).or_internal(EMPTY)? + 1) * across - 1)
        }
    };
    // Few: at most one for each element of the piece, and two rows of tiles.
    let mut bytes = vec![0; (end - begin + 1) as usize * Dtype::F32.size()];
    scales.read(begin, &mut bytes, None)?;
    let (scales, _) = bytes.as_chunks::<4>();
    let (mut index, mut rest) = (first, elements);
    while !rest.is_empty() {
        let (block, left) = block_of(index).or_internal(EMPTY)?;
        let scale = scales.get((block - begin) as usize).or_internal("a block of a scaled tensor has no scale")?;
        let scale = f32::from_le_bytes(*scale);
        let count = left.min(rest.len() as u64) as usize;
        let (run, tail) = rest.split_at_mut_checked(count).or_internal("a block is longer than the read")?;
        multiply(run, scale, overflow, index)?;
        index += count as u64;
        rest = tail;
    }
    Ok(())
}

fn multiply(run: &mut [[u8; 4]], scale: f32, overflow: Overflow, first: u64) -> Result<()> {
    for (index, element) in run.iter_mut().enumerate() {
        let value = f32::from_le_bytes(*element);
        let mut product = value * scale;
        if product.is_infinite() && value.is_finite() && scale.is_finite() {
            match overflow {
                Overflow::Saturate => product = f32::MAX.copysign(product),
                Overflow::Refuse => {
                    let index = first + index as u64;
                    let found = format!("element {index} is {value:e} times the scale {scale:e}, too large for F32");
                    return Err(Error::mismatch(found).with_hint(Hint::Saturate));
                }
            }
        }
        *element = product.to_le_bytes();
    }
    Ok(())
}

/// Looks up the codes of the elements from index `first` on.
fn decode(bytes: &LazyTensor, codes: Codes, table: &[f32], first: u64, out: &mut [u8]) -> Result<()> {
    let (elements, _) = out.as_chunks_mut::<4>();
    let entry = |code: u8| table.get(usize::from(code)).copied().or_internal("a table lacks a code");
    let count = elements.len() as u64;
    match codes {
        Codes::Bytes => {
            let mut read = vec![0; elements.len()];
            bytes.read(first, &mut read, None)?;
            for (element, &code) in elements.iter_mut().zip(&read) {
                *element = entry(code)?.to_le_bytes();
            }
        }
        Codes::Nibbles => {
            let begin = first / 2;
            let mut read = vec![0; ((first + count).div_ceil(2) - begin) as usize];
            bytes.read(begin, &mut read, None)?;
            let nibbles = read.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            for (element, code) in elements.iter_mut().zip(nibbles.skip((first % 2) as usize)) {
                *element = entry(code)?.to_le_bytes();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn singles(dims: &[u64], values: &[f32]) -> LazyTensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        LazyTensor::owned(Dtype::F32, Shape::new(dims).unwrap(), bytes).unwrap()
    }

    fn numbers(tensor: &LazyTensor) -> Vec<f32> {
        assert_eq!(tensor.dtype(), Dtype::F32);
        let bytes = tensor.to_bytes().unwrap();
        // Any range is a part of the whole.
        let elements = tensor.shape().elements();
        let middle = elements / 2;
        for (first, count) in [(0, 1), (middle, (elements - middle).min(2) as usize), (elements - 1, 1)] {
            let mut piece = vec![0; count * 4];
            tensor.read(first, &mut piece, None).unwrap();
            assert_eq!(piece, bytes[first as usize * 4..][..count * 4], "{first}");
        }
        bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn scales_runs_and_tiles() {
        let values = singles(&[3, 5], &[1.0; 15]);
        let scaled = |scales: &[f32], blocks| {
            let scales = singles(&[scales.len() as u64], scales);
            numbers(&values.clone().scaled(scales, blocks, Overflow::Refuse).unwrap())
        };
        assert_eq!(scaled(&[2.0], Blocks::Runs(15)), [2.0; 15]);
        assert_eq!(scaled(&[1.0, 2.0, 3.0], Blocks::Runs(5))[4..6], [1.0, 2.0]);
        assert_eq!(scaled(&[1.0, 2.0], Blocks::Runs(8))[7..9], [1.0, 2.0]);
        let tiles = scaled(&[1.0, 2.0, 3.0, 4.0], Blocks::Tiles { rows: 2, columns: 3 });
        assert_eq!(tiles, [1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0]);
    }

    #[test]
    fn scales_pieces_larger_than_a_block_of_work() {
        let count = 3 * ELEMENTS as u64 / 2;
        let values: Vec<f32> = (0..count).map(|index| (index % 7) as f32).collect();
        let scales: Vec<f32> = (0..count.div_ceil(64)).map(|index| index as f32).collect();
        let scaled = singles(&[count], &values).scaled(
            singles(&[scales.len() as u64], &scales),
            Blocks::Runs(64),
            Overflow::Refuse,
        );
        let expected = values.iter().enumerate().map(|(index, value)| value * scales[index / 64]);
        assert_eq!(numbers(&scaled.unwrap()), expected.collect::<Vec<_>>());
    }

    #[test]
    fn decodes_bytes_and_nibbles() {
        let bytes = |values: &[u8]| LazyTensor::owned(Dtype::U8, Shape::new([values.len() as u64, 1]).unwrap(), values);
        let table: Vec<f32> = (0..16).map(|code| code as f32 / 2.0).collect();
        let shape = Shape::new([5]).unwrap();
        let nibbles =
            bytes(&[0x12, 0x3f, 0x40]).unwrap().decoded(Codes::Nibbles, table.clone(), shape.clone()).unwrap();
        assert_eq!(numbers(&nibbles), [0.5, 1.0, 1.5, 7.5, 2.0]);
        assert!(bytes(&[0; 2]).unwrap().decoded(Codes::Nibbles, table.clone(), shape.clone()).is_err());
        assert!(bytes(&[0; 5]).unwrap().decoded(Codes::Bytes, table, shape.clone()).is_err());
        let table: Vec<f32> = (0..256).map(|code| code as f32).collect();
        let decoded = bytes(&[0, 9, 255, 7, 1]).unwrap().decoded(Codes::Bytes, table, shape).unwrap();
        assert_eq!(numbers(&decoded.shifted(0.25).unwrap()), [0.25, 9.25, 255.25, 7.25, 1.25]);
    }

    #[test]
    fn names_the_element_whose_product_overflows_or_saturates_it() {
        let scaled = |overflow| {
            let values = singles(&[2], &[1.0, -1e30]);
            values.scaled(singles(&[], &[1e30]), Blocks::Runs(2), overflow).unwrap()
        };
        let error = scaled(Overflow::Refuse).to_bytes().unwrap_err().to_string();
        assert!(error.contains("element 1 is -1e30 times the scale"), "{error}");
        assert_eq!(numbers(&scaled(Overflow::Saturate).rows(1, 1).unwrap()), [f32::MIN]);
    }

    #[test]
    fn rejects_blocks_without_exactly_one_scale_each() {
        let scaled = |count: u64, blocks| {
            let scales = singles(&[count], &vec![1.0; count as usize]);
            singles(&[3, 5], &[1.0; 15]).scaled(scales, blocks, Overflow::Refuse).is_ok()
        };
        assert!(scaled(2, Blocks::Runs(8)) && !scaled(3, Blocks::Runs(8)) && !scaled(1, Blocks::Runs(0)));
        assert!(!scaled(4, Blocks::Tiles { rows: 0, columns: 3 }) && !scaled(3, Blocks::Tiles { rows: 2, columns: 3 }));
        let wide = |columns: u64| {
            let empty = LazyTensor::owned(Dtype::F32, Shape::new([0, columns]).unwrap(), []).unwrap();
            let scales = LazyTensor::owned(Dtype::F32, Shape::new([0]).unwrap(), []).unwrap();
            empty.scaled(scales, Blocks::Tiles { rows: 1, columns: 1 }, Overflow::Refuse).is_ok()
        };
        assert!(wide(limits::TILE_COLUMNS) && !wide(limits::TILE_COLUMNS + 1));
    }
}
