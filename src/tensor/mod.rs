//! Tensors that stay in their file until somebody asks for their elements.
//!
//! A [`LazyTensor`] knows dtype and shape; its elements come by [`LazyTensor::read`], any range of them, in row-major
//! order and little-endian, whatever strides, byte order or compression the file has. Memory is what the caller's
//! buffer has, and for a compressed storage that storage.

pub mod cast;
mod dtype;
mod gather;
mod lazy;
mod shape;
mod storage;
mod transform;

pub use cast::Overflow;
pub use dtype::Dtype;
pub use lazy::{Held, LazyTensor};
pub use shape::{Shape, View};
pub use storage::{Extent, Storage};
