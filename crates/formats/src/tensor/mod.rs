//! Tensors whose elements stay in their file until they are read.
//!
//! A [`LazyTensor`] has a dtype and a shape. [`LazyTensor::read`] reads any range of its elements, row-major and
//! little-endian, whatever the strides, byte order or compression in the file. It uses no memory beyond the caller's
//! buffer, except for compressed storages, which are inflated whole.

pub mod cast;
mod dtype;
mod gather;
mod lazy;
pub mod non_finite;
mod read;
mod shape;
mod storage;
mod transform;

pub use cast::Overflow;
pub use dtype::Dtype;
pub(crate) use lazy::StoredView;
pub use lazy::{InflatedGuard, LazyTensor};
pub use non_finite::{NonFinite, NonFiniteTensor};
pub use shape::{Shape, View};
pub use storage::{Extent, Storage};
