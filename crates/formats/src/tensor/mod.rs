//! Tensors whose elements stay in their file until they are read.
//!
//! A [`LazyTensor`] has a dtype and a shape. [`LazyTensor::read`] reads any range of its elements, row-major and
//! little-endian, whatever the strides, byte order or compression in the file. It uses a few megabytes of memory beyond the
//! caller's buffer. Storages that are inflated and tensors that are transposed go through a temporary file if they are
//! large.

mod blocks;
pub mod cast;
mod computed;
mod derived;
mod dtype;
mod gather;
mod held;
mod lazy;
mod memory;
pub mod non_finite;
mod permute;
mod read;
mod resident;
mod shape;
mod small_float;
mod storage;
mod transform;

pub use cast::Overflow;
pub use computed::{Blocks, Codes};
pub use derived::Derive;
pub use dtype::Dtype;
pub(crate) use lazy::StoredView;
pub use lazy::{InflatedGuard, LazyTensor};
pub use non_finite::{NonFinite, NonFiniteTensor};
pub use shape::{Shape, View};
pub use storage::{Extent, Storage};
