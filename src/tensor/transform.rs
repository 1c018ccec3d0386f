//! Tensors made of tensors, without moving an element before it is asked for.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::cast::{self, Overflow};
use crate::tensor::{Dtype, LazyTensor, Shape, View};

impl LazyTensor {
    /// This tensor in another floating type; itself where it has that type already.
    pub fn cast(self, to: Dtype, overflow: Overflow) -> Result<Self> {
        if self.dtype() == to {
            return Ok(self);
        }
        if !cast::is_supported(self.dtype(), to) {
            return Err(Error::unsupported(format!("no conversion from {} to {to}", self.dtype())));
        }
        Ok(LazyTensor::Cast { inner: Box::new(self), to, overflow })
    }

    /// This tensor under another shape of as many elements; itself where it has that shape already.
    pub fn reshape(self, shape: Shape) -> Result<Self> {
        if shape == *self.shape() {
            return Ok(self);
        }
        if shape.elements() != self.shape().elements() {
            return Err(Error::mismatch(format!("shape {} cannot become {shape}", self.shape())));
        }
        match self {
            // A plain range of a file stays one.
            LazyTensor::Stored { storage, dtype, view } if view.is_contiguous() => {
                let available = storage.len() / dtype.size() as u64;
                let strides = shape.contiguous_strides();
                let view = View::new(shape, strides, view.start(), available)?;
                LazyTensor::stored(storage, dtype, view)
            }
            other => Ok(LazyTensor::Reshaped { inner: Box::new(other), shape }),
        }
    }

    /// The rows `first..first + count` of this tensor: of its outermost dimension.
    pub fn rows(self, first: u64, count: u64) -> Result<Self> {
        let dims = self.shape().dims().to_vec();
        let inside = dims.first().is_some_and(|&rows| first.checked_add(count).is_some_and(|end| end <= rows));
        let Some((_, rest)) = dims.split_first().filter(|_| inside) else {
            return Err(Error::mismatch(format!("shape {} has no rows {first} to {}", self.shape(), first + count)));
        };
        let shape = Shape::new([&[count], rest].concat())?;
        match self {
            LazyTensor::Stored { storage, dtype, view } => {
                let start = view.start() + first * view.strides().first().copied().unwrap_or_default();
                let available = storage.len() / dtype.size() as u64;
                let view = View::new(shape, view.strides().to_vec(), start, available)?;
                LazyTensor::stored(storage, dtype, view)
            }
            LazyTensor::Cast { inner, to, overflow } => inner.rows(first, count)?.cast(to, overflow),
            other => {
                let per_row = rest.iter().product::<u64>();
                let dtype = other.dtype();
                let mut bytes = vec![0; shape.bytes(dtype) as usize];
                other.read(first * per_row, &mut bytes, None)?;
                Ok(LazyTensor::Owned { dtype, shape, bytes: Arc::from(bytes) })
            }
        }
    }

    /// A matrix with rows and columns exchanged. Costs its elements in memory where it is not a view of a file.
    pub fn transpose(self) -> Result<Self> {
        let &[rows, columns] = self.shape().dims() else {
            return Err(Error::mismatch(format!("shape {} is not that of a matrix", self.shape())));
        };
        let shape = Shape::new([columns, rows])?;
        match self {
            LazyTensor::Stored { storage, dtype, view } => {
                let strides = view.strides().iter().rev().copied().collect();
                let available = storage.len() / dtype.size() as u64;
                let view = View::new(shape, strides, view.start(), available)?;
                LazyTensor::stored(storage, dtype, view)
            }
            LazyTensor::Cast { inner, to, overflow } => inner.transpose()?.cast(to, overflow),
            other => {
                let (dtype, bytes) = (other.dtype(), other.to_bytes()?);
                let size = dtype.size();
                let by_column = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
                let elements = by_column.filter_map(|index| bytes.chunks_exact(size).nth(index as usize));
                Ok(LazyTensor::Owned { dtype, shape, bytes: elements.flatten().copied().collect() })
            }
        }
    }

    /// Tensors of one type and row shape, one below the other.
    pub fn join(parts: Vec<LazyTensor>) -> Result<Self> {
        let Some(first) = parts.first() else { return Err(Error::missing("nothing to join")) };
        let (dtype, row) = (first.dtype(), first.shape().dims().get(1..).unwrap_or_default().to_vec());
        let mut rows = 0_u64;
        for part in &parts {
            let fits = part.shape().dims().split_first().filter(|(_, rest)| *rest == row && part.dtype() == dtype);
            let Some((count, _)) = fits else {
                return Err(Error::mismatch(format!(
                    "{} {} cannot be joined with {dtype} {}",
                    part.dtype(),
                    part.shape(),
                    first.shape()
                )));
            };
            rows = rows.saturating_add(*count);
        }
        let shape = Shape::new([&[rows], row.as_slice()].concat())?;
        Ok(LazyTensor::Joined { parts, shape })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Source;
    use crate::tensor::{Extent, Storage};

    /// A matrix of bytes 0, 1, 2, … in a file.
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
        let bytes = Arc::from(tensor.to_bytes().unwrap());
        LazyTensor::Owned { dtype: tensor.dtype(), shape: tensor.shape().clone(), bytes }
    }

    #[test]
    fn transposes_a_view_and_what_is_none() {
        let (_folder, stored) = matrix(2, 3);
        for tensor in [owned(&stored), stored] {
            let transposed = tensor.clone().transpose().unwrap();
            assert_eq!(transposed.shape().dims(), [3, 2]);
            assert_eq!(transposed.to_bytes().unwrap(), [0, 3, 1, 4, 2, 5]);
            assert_eq!(transposed.transpose().unwrap().to_bytes().unwrap(), tensor.to_bytes().unwrap());
        }
    }

    #[test]
    fn rows_taken_apart_and_joined_are_the_whole() {
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
        }
    }

    #[test]
    fn joins_only_what_fits() {
        let (_a, a) = matrix(2, 2);
        let (_b, b) = matrix(2, 3);
        assert!(LazyTensor::join(vec![a.clone(), b]).is_err());
        assert!(LazyTensor::join(vec![]).is_err());
        let wide =
            LazyTensor::Owned { dtype: Dtype::U16, shape: Shape::new([1, 2]).unwrap(), bytes: Arc::from([0; 4]) };
        assert!(LazyTensor::join(vec![a, wide]).is_err());
    }

    #[test]
    fn casts_and_reshapes_read_through() {
        let values: Vec<u8> = [1.0_f32, -2.5, 0.5, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let singles = LazyTensor::Owned { dtype: Dtype::F32, shape: Shape::new([4]).unwrap(), bytes: values.into() };
        let halves = singles.cast(Dtype::F16, Overflow::Refuse).unwrap().reshape(Shape::new([2, 2]).unwrap()).unwrap();
        assert_eq!(halves.shape().dims(), [2, 2]);
        let expected = [1.0, -2.5, 0.5, 4.0].iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes());
        assert_eq!(halves.to_bytes().unwrap(), expected.collect::<Vec<_>>());
        assert!(halves.reshape(Shape::new([3]).unwrap()).is_err());
    }

    #[test]
    fn a_reshaped_range_of_a_file_stays_one() {
        let (_folder, stored) = matrix(4, 1);
        let reshaped = stored.reshape(Shape::new([4, 1, 1, 1]).unwrap()).unwrap();
        assert!(reshaped.is_verbatim());
    }
}
