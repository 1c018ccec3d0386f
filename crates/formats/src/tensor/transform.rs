//! Tensors derived from other tensors: cast, reshaped, sliced, transposed and joined.

use crate::error::{Error, OrInternal, Result};
use crate::tensor::cast::{self, Overflow};
use crate::tensor::lazy::Repr;
use crate::tensor::{Dtype, LazyTensor, Shape, View};

impl LazyTensor {
    /// Returns this tensor in another floating-point dtype; unchanged if it has that dtype.
    ///
    /// Fails unless [`cast::is_supported`] holds. With [`Overflow::Refuse`], reading a value that
    /// overflows fails.
    pub fn cast(self, to: Dtype, overflow: Overflow) -> Result<Self> {
        if self.dtype() == to {
            return Ok(self);
        }
        if !cast::is_supported(self.dtype(), to) {
            return Err(Error::unsupported(format!("no conversion from {} to {to}", self.dtype())));
        }
        Ok(Repr::Cast { inner: Box::new(self), to, overflow }.into())
    }

    /// Returns this tensor under another shape. Fails if the number of elements differs.
    pub fn reshape(self, shape: Shape) -> Result<Self> {
        if shape == *self.shape() {
            return Ok(self);
        }
        if shape.elements() != self.shape().elements() {
            return Err(Error::mismatch(format!("shape {} cannot become {shape}", self.shape())));
        }
        match self.repr {
            // A contiguous view of a storage stays one, so that it can be copied verbatim or shared.
            Repr::Stored { storage, dtype, view } if view.is_contiguous() => {
                let available = storage.len() / dtype.size() as u64;
                let strides = shape.contiguous_strides();
                let view = View::new(shape, strides, view.start(), available)?;
                LazyTensor::stored(storage, dtype, view)
            }
            other => Ok(Repr::Reshaped { inner: Box::new(other.into()), shape }.into()),
        }
    }

    /// Returns `count` rows from index `first` on, along the outermost dimension.
    ///
    /// Fails if the tensor does not have these rows.
    pub fn rows(self, first: u64, count: u64) -> Result<Self> {
        let dims = self.shape().dims().to_vec();
        let available =
            dims.split_first().filter(|&(&rows, _)| first.checked_add(count).is_some_and(|end| end <= rows));
        let Some((_, row)) = available else {
            return Err(Error::mismatch(format!("shape {} does not have {count} rows from row {first}", self.shape())));
        };
        let shape = Shape::new([&[count], row].concat())?;
        match self.repr {
            Repr::Stored { storage, dtype, view } => {
                let stride = view.strides().first().copied().or_internal("a view has fewer strides than dimensions")?;
                // Without elements there is nothing to point to. Otherwise the sum is the index of an element of the view.
                let start = if shape.elements() == 0 { view.start() } else { view.start() + first * stride };
                let available = storage.len() / dtype.size() as u64;
                let view = View::new(shape, view.strides().to_vec(), start, available)?;
                LazyTensor::stored(storage, dtype, view)
            }
            Repr::Cast { inner, to, overflow } => inner.rows(first, count)?.cast(to, overflow),
            other => {
                // Cannot overflow: `Shape` bounds both products.
                let first = first * row.iter().product::<u64>();
                Ok(Repr::Sliced { inner: Box::new(other.into()), first, shape }.into())
            }
        }
    }

    /// Returns a matrix with rows and columns exchanged.
    ///
    /// Reads the elements into memory unless the tensor is a view of a storage, possibly cast. Fails if the tensor is not a
    /// matrix.
    pub fn transpose(self) -> Result<Self> {
        let &[rows, columns] = self.shape().dims() else {
            return Err(Error::mismatch(format!("shape {} is not a matrix", self.shape())));
        };
        let shape = Shape::new([columns, rows])?;
        match self.repr {
            Repr::Stored { storage, dtype, view } => {
                let strides = view.strides().iter().rev().copied().collect();
                let available = storage.len() / dtype.size() as u64;
                let view = View::new(shape, strides, view.start(), available)?;
                LazyTensor::stored(storage, dtype, view)
            }
            Repr::Cast { inner, to, overflow } => inner.transpose()?.cast(to, overflow),
            other => {
                let other = LazyTensor::from(other);
                if shape.elements() == 0 {
                    // The loop below would go through every row or column, of which there may be 2^59.
                    return LazyTensor::owned(other.dtype(), shape, []);
                }
                let (dtype, bytes) = (other.dtype(), other.to_bytes()?);
                let size = dtype.size();
                let by_column = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
                let elements = by_column.filter_map(|index| bytes.chunks_exact(size).nth(index as usize));
                // Fails if an element was missing.
                LazyTensor::owned(dtype, shape, elements.flatten().copied().collect::<Vec<u8>>())
            }
        }
    }

    /// Concatenates tensors along the outermost dimension.
    ///
    /// Fails if there are none, or if their dtypes or their other dimensions differ.
    pub fn join(parts: Vec<LazyTensor>) -> Result<Self> {
        let Some(first) = parts.first() else { return Err(Error::missing("there are no tensors to join")) };
        let dtype = first.dtype();
        let row = first.shape().dims().split_first().map(|(_, row)| row.to_vec());
        let mut rows = 0_u64;
        for part in &parts {
            let fits = part
                .shape()
                .dims()
                .split_first()
                .filter(|(_, other)| Some(*other) == row.as_deref() && part.dtype() == dtype);
            let Some((count, _)) = fits else {
                return Err(Error::mismatch(format!(
                    "{} {} cannot be joined with {dtype} {}",
                    part.dtype(),
                    part.shape(),
                    first.shape()
                )));
            };
            rows = rows.checked_add(*count).ok_or_else(|| Error::limit("the joined tensor has too many rows"))?;
        }
        let row = row.or_internal("joined tensors have no outermost dimension")?;
        let shape = Shape::new([&[rows], row.as_slice()].concat())?;
        Ok(Repr::Joined { parts, dtype, shape }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::io::Source;
    use crate::tensor::{Extent, Storage};

    /// A matrix of the bytes 0, 1, 2, … in a file.
    fn matrix(rows: u64, columns: u64) -> (tempfile::TempDir, LazyTensor) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let len = rows * columns;
        std::fs::write(&path, (0..len).map(|value| value as u8).collect::<Vec<_>>()).unwrap();
        let storage = Storage::new(Source::open(&path).unwrap(), "m", Extent::Raw { offset: 0, len });
        let view = View::contiguous(Shape::new([rows, columns]).unwrap());
        (folder, LazyTensor::stored(Arc::new(storage), Dtype::U8, view).unwrap())
    }

    fn owned(tensor: &LazyTensor) -> LazyTensor {
        LazyTensor::owned(tensor.dtype(), tensor.shape().clone(), tensor.to_bytes().unwrap()).unwrap()
    }

    #[test]
    fn transposes_views_and_tensors_in_memory() {
        let (_folder, stored) = matrix(2, 3);
        for tensor in [owned(&stored), stored] {
            let transposed = tensor.clone().transpose().unwrap();
            assert_eq!(transposed.shape().dims(), [3, 2]);
            assert_eq!(transposed.to_bytes().unwrap(), [0, 3, 1, 4, 2, 5]);
            assert_eq!(transposed.transpose().unwrap().to_bytes().unwrap(), tensor.to_bytes().unwrap());
        }
    }

    #[test]
    fn joining_all_rows_restores_the_tensor() {
        let (_folder, stored) = matrix(6, 2);
        for tensor in [stored.clone().transpose().unwrap().transpose().unwrap(), owned(&stored), stored] {
            let thirds = [0, 2, 4].map(|first| tensor.clone().rows(first, 2).unwrap());
            assert_eq!(thirds[1].to_bytes().unwrap(), [4, 5, 6, 7]);
            let joined = LazyTensor::join(thirds.to_vec()).unwrap();
            assert_eq!(joined.shape().dims(), [6, 2]);
            assert_eq!(joined.to_bytes().unwrap(), tensor.to_bytes().unwrap());
            for (first, count) in [(0, 12), (3, 2), (4, 5), (11, 1)] {
                let mut out = vec![0; count];
                joined.read(first as u64, &mut out, None).unwrap();
                assert_eq!(out, (first..first + count).map(|value| value as u8).collect::<Vec<_>>());
            }
            assert!(joined.read(11, &mut [0; 2], None).is_err());
            assert!(tensor.clone().rows(5, 2).is_err());
            assert!(tensor.clone().rows(u64::MAX, 2).is_err());
            assert_eq!(tensor.clone().rows(6, 0).unwrap().bytes(), 0);
        }
    }

    #[test]
    fn slices_an_empty_view_whatever_its_strides() {
        let (_folder, stored) = matrix(2, 2);
        let storage = Arc::clone(stored.storage().unwrap());
        let view = View::new(Shape::new([6, 0]).unwrap(), vec![u64::MAX, 1], 0, 4).unwrap();
        let empty = LazyTensor::stored(storage, Dtype::U8, view).unwrap();
        assert_eq!(empty.clone().rows(2, 3).unwrap().shape().dims(), [3, 0]);
        assert_eq!(empty.clone().transpose().unwrap().shape().dims(), [0, 6]);
        assert!(empty.to_bytes().unwrap().is_empty());
    }

    #[test]
    fn transforms_return_errors_for_any_numbers() {
        let (_folder, stored) = matrix(3, 2);
        let edges = [0, 1, 2, 3, 4, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
        let joined = LazyTensor::join(vec![owned(&stored), stored.clone()]).unwrap();
        let reshaped = stored.clone().transpose().unwrap().reshape(Shape::new([6, 1]).unwrap()).unwrap();
        for tensor in [owned(&stored), stored, joined, reshaped] {
            for first in edges {
                for count in edges {
                    let in_range = first.checked_add(count).is_some_and(|end| end <= tensor.shape().dims()[0]);
                    assert_eq!(tensor.clone().rows(first, count).is_ok(), in_range, "{first} {count}");
                }
                assert_eq!(tensor.read(first, &mut [0], None).is_ok(), first < tensor.shape().elements(), "{first}");
                if let Ok(shape) = Shape::new([first, 2]) {
                    assert_eq!(
                        tensor.clone().reshape(shape.clone()).is_ok(),
                        shape.elements() == tensor.shape().elements()
                    );
                }
            }
        }
    }

    #[test]
    fn transforms_empty_tensors_with_huge_dimensions() {
        let huge = 1 << 57;
        for dims in [[0, huge], [huge, 0]] {
            let empty = LazyTensor::owned(Dtype::F32, Shape::new(dims).unwrap(), []).unwrap();
            let joined = LazyTensor::join(vec![empty.clone(), empty.clone()]).unwrap();
            for tensor in [empty, joined] {
                let [rows, columns] = *tensor.shape().dims() else { panic!("not a matrix") };
                assert_eq!(tensor.clone().transpose().unwrap().shape().dims(), [columns, rows]);
                assert_eq!(tensor.clone().rows(rows, 0).unwrap().bytes(), 0);
                assert!(tensor.clone().rows(rows, 1).is_err());
                let cast = tensor.cast(Dtype::F16, Overflow::Refuse).unwrap();
                assert!(cast.to_bytes().unwrap().is_empty());
            }
        }
        let wide = LazyTensor::owned(Dtype::F32, Shape::new([1 << 58, 0]).unwrap(), []).unwrap();
        assert!(LazyTensor::join(vec![wide; 3]).is_err());
    }

    #[test]
    fn rejects_storages_that_no_file_can_hold() {
        let (_folder, stored) = matrix(1, 4);
        let source = stored.storage().unwrap().source();
        for (offset, len) in [(u64::MAX - 10, u64::MAX), (0, u64::MAX), (i64::MAX as u64, 8), (u64::MAX, 0)] {
            let raw = Extent::Raw { offset, len };
            let deflated = Extent::Deflated { offset, compressed: len, len };
            for extent in [raw, deflated] {
                let storage = Arc::new(Storage::new(Arc::clone(source), "past", extent));
                let view = View::contiguous(Shape::new([0]).unwrap());
                assert!(LazyTensor::stored(storage, Dtype::F32, view).is_err(), "{extent:?}");
            }
        }
        // Within the largest file, but past this one.
        let extent = Extent::Raw { offset: 0, len: i64::MAX as u64 };
        let storage = Arc::new(Storage::new(Arc::clone(source), "past", extent));
        let view = View::new(Shape::new([2, 2]).unwrap(), vec![1, 1 << 62], 0, 1 << 62).unwrap_err();
        assert!(view.to_string().contains("reach element"), "{view}");
        let view = View::new(Shape::new([2, 2]).unwrap(), vec![1, (1 << 62) - 3], 0, 1 << 62).unwrap();
        assert!(LazyTensor::stored(storage, Dtype::U8, view).unwrap().to_bytes().is_err());
    }

    #[test]
    fn a_tensor_that_does_not_fit_into_memory_is_an_error() {
        let (_folder, stored) = matrix(1, 4);
        let extent = Extent::Raw { offset: 0, len: 1 << 62 };
        let storage = Arc::new(Storage::new(Arc::clone(stored.storage().unwrap().source()), "huge", extent));
        let huge = LazyTensor::stored(storage, Dtype::U8, View::contiguous(Shape::new([1 << 58]).unwrap())).unwrap();
        assert_eq!(huge.to_bytes().unwrap_err().kind(), crate::error::Kind::Limit);
    }

    #[test]
    fn joins_only_tensors_with_the_same_dtype_and_row_shape() {
        let (_a, a) = matrix(2, 2);
        let (_b, b) = matrix(2, 3);
        assert!(LazyTensor::join(vec![a.clone(), b]).is_err());
        assert!(LazyTensor::join(vec![]).is_err());
        let wide = LazyTensor::owned(Dtype::U16, Shape::new([1, 2]).unwrap(), [0; 4]).unwrap();
        assert!(LazyTensor::join(vec![a, wide]).is_err());
    }

    #[test]
    fn reads_through_casts_and_reshapes() {
        let values: Vec<u8> = [1.0_f32, -2.5, 0.5, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let singles = LazyTensor::owned(Dtype::F32, Shape::new([4]).unwrap(), values).unwrap();
        let halves = singles.cast(Dtype::F16, Overflow::Refuse).unwrap().reshape(Shape::new([2, 2]).unwrap()).unwrap();
        assert_eq!(halves.shape().dims(), [2, 2]);
        let expected = [1.0, -2.5, 0.5, 4.0].iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes());
        assert_eq!(halves.to_bytes().unwrap(), expected.collect::<Vec<_>>());
        assert!(halves.reshape(Shape::new([3]).unwrap()).is_err());
    }

    #[test]
    fn reshaping_keeps_a_contiguous_view_verbatim() {
        let (_folder, stored) = matrix(4, 1);
        let reshaped = stored.reshape(Shape::new([4, 1, 1, 1]).unwrap()).unwrap();
        assert!(reshaped.is_verbatim());
    }
}
