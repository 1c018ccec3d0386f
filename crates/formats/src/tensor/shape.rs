use std::fmt;

use crate::error::{Error, Result};
use crate::limits;
use crate::tensor::Dtype;

/// The dimensions of a tensor, outermost first.
///
/// The number of elements, and of their bytes in any dtype, is at most [`limits::FILE_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: Vec<u64>,
    elements: u64,
}

impl Shape {
    /// Creates a shape. No dimensions at all mean a scalar of one element.
    ///
    /// Fails if there are more than [`limits::RANK`] dimensions, or more elements than a file can hold.
    pub fn new(dims: impl Into<Vec<u64>>) -> Result<Self> {
        let dims = dims.into();
        if dims.len() > limits::RANK {
            return Err(Error::limit(format!("{} dimensions, the limit is {}", dims.len(), limits::RANK)));
        }
        // A dimension of 0 makes the tensor empty, but the others must still be plausible.
        let product = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim.max(1)));
        let product = product.filter(|&product| product <= limits::FILE_BYTES / 16);
        let Some(product) = product else {
            return Err(Error::malformed(format!("shape {dims:?} has more elements than any file can hold")));
        };
        let elements = if dims.contains(&0) { 0 } else { product };
        Ok(Shape { dims, elements })
    }

    /// The dimensions.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// The number of elements: the product of the dimensions.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Bytes of a tensor with this shape and `dtype`, at most [`limits::FILE_BYTES`].
    pub fn bytes(&self, dtype: Dtype) -> u64 {
        // Cannot overflow: `new` bounds the elements, and no dtype has more than 16 bytes.
        self.elements * dtype.size() as u64
    }

    /// The strides, in elements, of a contiguous tensor of this shape, as PyTorch computes them.
    pub(crate) fn contiguous_strides(&self) -> Vec<u64> {
        let mut strides = Vec::with_capacity(self.dims.len());
        let mut stride = 1;
        for &dim in self.dims.iter().rev() {
            strides.push(stride);
            // Cannot overflow: `new` bounds this product, dimensions of 0 counted as 1.
            stride *= dim.max(1);
        }
        strides.reverse();
        strides
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims)
    }
}

/// The elements of a storage that make up a tensor: a start and a stride per dimension, in elements.
///
/// The strides of an empty view are those of a contiguous tensor: no element depends on them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct View {
    shape: Shape,
    strides: Vec<u64>,
    start: u64,
}

impl View {
    /// Creates a view of a storage of `available` elements. Replaces the strides of an empty view by contiguous ones.
    ///
    /// Fails if the view reaches past the storage, if a stride or `available` exceeds [`limits::FILE_BYTES`], or if the view
    /// does not have one stride per dimension.
    pub fn new(shape: Shape, strides: Vec<u64>, start: u64, available: u64) -> Result<Self> {
        if strides.len() != shape.dims().len() {
            return Err(Error::malformed(format!("shape {shape} has {} strides", strides.len())));
        }
        // No element depends on the strides of an empty view, so nothing else would bound them.
        let is_empty = shape.elements() == 0;
        let strides = if is_empty { shape.contiguous_strides() } else { strides };
        if available > limits::FILE_BYTES || strides.iter().any(|&stride| stride > limits::FILE_BYTES) {
            return Err(Error::malformed(format!(
                "strides {strides:?} in a storage of {available} elements are more than any file can hold"
            )));
        }
        let mut needed = u128::from(start);
        if !is_empty {
            // Cannot overflow: a shape has at most 64 dimensions, and their product and each stride are below 2^63.
            let steps =
                shape.dims().iter().zip(&strides).map(|(&dim, &stride)| u128::from(dim - 1) * u128::from(stride));
            needed += steps.sum::<u128>() + 1;
        }
        if needed > u128::from(available) {
            return Err(Error::malformed(format!(
                "shape {shape}, strides {strides:?} and offset {start} reach element {needed}, the storage has {available}"
            )));
        }
        Ok(View { shape, strides, start })
    }

    /// Creates a row-major view of `shape` that starts at the first element.
    pub fn contiguous(shape: Shape) -> Self {
        let strides = shape.contiguous_strides();
        View { shape, strides, start: 0 }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The stride of each dimension, in elements.
    pub fn strides(&self) -> &[u64] {
        &self.strides
    }

    /// The index of the first element in the storage.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns whether the elements lie in row-major order without gaps. Strides of dimensions of size 1 do not matter.
    pub fn is_contiguous(&self) -> bool {
        let expected = self.shape.contiguous_strides();
        self.shape.elements() <= 1
            || self
                .shape
                .dims()
                .iter()
                .zip(&self.strides)
                .zip(&expected)
                .all(|((&dim, stride), expected)| dim == 1 || stride == expected)
    }

    /// One past the index of the last element in the storage; [`View::start`] if the view is empty.
    pub fn end(&self) -> u64 {
        if self.shape.elements() == 0 {
            return self.start;
        }
        // Cannot overflow: `new` checks that the end lies within a storage.
        let steps = self.shape.dims().iter().zip(&self.strides).map(|(dim, stride)| (dim - 1) * stride);
        self.start + steps.sum::<u64>() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims).unwrap()
    }

    #[test]
    fn counts_the_elements_of_scalars_and_empty_tensors() {
        assert_eq!(shape(&[]).elements(), 1);
        assert_eq!(shape(&[3, 0, 2]).elements(), 0);
        assert_eq!(shape(&[2, 3, 4]).contiguous_strides(), [12, 4, 1]);
    }

    #[test]
    fn rejects_products_that_overflow_even_beside_a_zero() {
        assert!(Shape::new(vec![1 << 40, 1 << 40]).is_err());
        assert!(Shape::new(vec![0, 1 << 40, 1 << 40]).is_err());
        assert!(Shape::new(vec![1; 64]).is_ok());
        assert!(Shape::new(vec![1; 65]).is_err());
    }

    #[test]
    fn rejects_views_past_their_storage() {
        assert!(View::new(shape(&[2, 3]), vec![3, 1], 0, 6).is_ok());
        assert!(View::new(shape(&[2, 3]), vec![3, 1], 1, 6).is_err());
        assert!(View::new(shape(&[0]), vec![1], 6, 6).is_ok());
        assert!(View::new(shape(&[0]), vec![1], 7, 6).is_err());
        assert!(View::new(shape(&[2]), vec![u64::MAX], u64::MAX, 6).is_err());
        assert!(View::new(shape(&[]), vec![], u64::MAX - 1, u64::MAX).is_err());
        assert!(View::new(shape(&[1]), vec![u64::MAX], 0, 6).is_err());
        assert!(View::new(shape(&[2]), vec![limits::FILE_BYTES], 0, limits::FILE_BYTES).is_err());
        let longest = View::new(shape(&[2]), vec![limits::FILE_BYTES - 1], 0, limits::FILE_BYTES).unwrap();
        assert_eq!(longest.end(), limits::FILE_BYTES);
    }

    #[test]
    fn an_empty_view_has_contiguous_strides() {
        let view = View::new(shape(&[3000, 0]), vec![1 << 62, 1], 0, 4096).unwrap();
        assert_eq!(view.strides(), shape(&[3000, 0]).contiguous_strides());
        assert_eq!((view.start(), view.end()), (0, 0));
    }

    #[test]
    fn ignores_the_strides_of_dimensions_of_size_1() {
        assert!(View::new(shape(&[1, 3]), vec![99, 1], 0, 3).unwrap().is_contiguous());
        assert!(!View::new(shape(&[3, 2]), vec![1, 3], 0, 6).unwrap().is_contiguous());
    }
}
