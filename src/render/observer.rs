//! Watching a model work: the tensors between its layers, by name, as they are made.
//!
//! The checks look for the first tensor that is not finite, a debug switch writes them down to be compared with those
//! of another implementation.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::render::ops::{Engine, Image};

/// Somebody who is shown the tensors between the layers.
pub trait Observer: Send + Sync {
    /// A tensor was made. The name is that of the layer it comes from, as in the keys of a checkpoint
    /// (`model.diffusion_model.input_blocks.1.0`).
    fn seen(&self, name: &str, tensor: &Tensor);
}

/// An observer, or nobody, which costs nothing.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<dyn Observer>>);

impl Trace {
    /// Shows the tensors to this observer.
    pub fn to(observer: Arc<dyn Observer>) -> Self {
        Trace(Some(observer))
    }

    /// As [`Trace::seen`], of an image between layers.
    pub(super) fn image(&self, name: &str, image: &Image) -> Result<()> {
        if let Some(observer) = &self.0 {
            observer.seen(name, &image.to_planes()?);
        }
        Ok(())
    }

    /// As [`Trace::seen`], of the tokens of an engine.
    pub(super) fn tokens(&self, name: &str, engine: &Engine, tokens: &Tensor) -> Result<()> {
        if let Some(observer) = &self.0 {
            observer.seen(name, &engine.to_host(tokens)?);
        }
        Ok(())
    }

    /// Whether there is anybody.
    pub(super) fn is_watched(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn seen(&self, name: &str, tensor: &Tensor) {
        if let Some(observer) = &self.0 {
            observer.seen(name, tensor);
        }
    }
}
