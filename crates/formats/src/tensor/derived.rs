//! Tensors that are derived as a whole from others, such as weights with low-rank changes.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{Error, OrInternal, Result};
use crate::tensor::lazy::{Compute, Repr};
use crate::tensor::{Dtype, LazyTensor, Shape};

/// Derives the F32 elements of a tensor from other tensors.
pub trait Derive: Debug + Send + Sync {
    /// The shape of the result.
    fn shape(&self) -> &Shape;

    /// The tensors that the result is derived from.
    fn inputs(&self) -> Vec<&LazyTensor>;

    /// Returns all elements, row-major.
    ///
    /// Fails if an input cannot be read or does not fit.
    fn derive(&self) -> Result<Vec<f32>>;
}

/// A derived tensor. Its elements stay in memory while a guard of [`LazyTensor::hold`] lives.
#[derive(Debug)]
struct Derived {
    recipe: Arc<dyn Derive>,
    kept: Mutex<Weak<Vec<f32>>>,
}

impl LazyTensor {
    /// Returns a tensor in F32 that is derived when it is read, as a whole. Reading it in pieces derives it once if
    /// [`LazyTensor::hold`] was called.
    pub fn derived(recipe: Arc<dyn Derive>) -> Self {
        Repr::Computed(Arc::new(Derived { recipe, kept: Mutex::default() })).into()
    }
}

impl Compute for Derived {
    fn shape(&self) -> &Shape {
        self.recipe.shape()
    }

    fn inputs(&self) -> Vec<&LazyTensor> {
        self.recipe.inputs()
    }

    fn read(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let elements = self.elements()?;
        let begin = usize::try_from(first).ok();
        let count = out.len() / Dtype::F32.size();
        let found = begin.and_then(|begin| elements.get(begin..begin.checked_add(count)?));
        let found = found.or_internal("a checked range lies outside a derived tensor")?;
        for (element, value) in out.as_chunks_mut().0.iter_mut().zip(found) {
            *element = value.to_le_bytes();
        }
        Ok(())
    }

    fn hold(&self) -> Result<Option<Arc<Vec<f32>>>> {
        self.elements().map(Some)
    }
}

impl Derived {
    fn elements(&self) -> Result<Arc<Vec<f32>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(elements) = kept.upgrade() {
            return Ok(elements);
        }
        // No reader of a derived tensor can compare the checksums of the storages it is derived from.
        self.recipe.inputs().into_iter().try_for_each(LazyTensor::check_storage)?;
        let elements = Arc::new(self.recipe.derive()?);
        if elements.len() as u64 != self.recipe.shape().elements() {
            let (count, shape) = (elements.len(), self.recipe.shape());
            return Err(Error::internal(format!("{count} elements were derived for shape {shape}")));
        }
        *kept = Arc::downgrade(&elements);
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Doubled(LazyTensor, AtomicUsize);

    impl Derive for Doubled {
        fn shape(&self) -> &Shape {
            self.0.shape()
        }

        fn inputs(&self) -> Vec<&LazyTensor> {
            vec![&self.0]
        }

        fn derive(&self) -> Result<Vec<f32>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let bytes = self.0.to_bytes()?;
            Ok(bytes.as_chunks().0.iter().map(|bytes| 2.0 * f32::from_le_bytes(*bytes)).collect())
        }
    }

    #[test]
    fn a_held_tensor_is_derived_once() {
        let bytes: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let inner = LazyTensor::owned(Dtype::F32, Shape::new([3]).unwrap(), bytes).unwrap();
        let recipe = Arc::new(Doubled(inner, AtomicUsize::new(0)));
        let tensor = LazyTensor::derived(Arc::clone(&recipe) as _);
        let mut piece = [0; 4];
        let guard = tensor.hold().unwrap();
        for (index, expected) in [2.0_f32, 4.0, 6.0].into_iter().enumerate() {
            tensor.read(index as u64, &mut piece, None).unwrap();
            assert_eq!(f32::from_le_bytes(piece), expected);
        }
        assert_eq!(recipe.1.load(Ordering::Relaxed), 1);
        drop(guard);
        tensor.read(2, &mut piece, None).unwrap();
        assert_eq!(recipe.1.load(Ordering::Relaxed), 2);
        assert!(tensor.read(3, &mut piece, None).is_err());
    }
}
