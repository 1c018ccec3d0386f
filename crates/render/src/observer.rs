//! Observers of a running model. An observer receives the output of each layer, with the layer's name.
//!
//! The checks use one to find the first layer with NaN or infinite values. [`RenderJob::dump`](crate::job::RenderJob::dump)
//! uses one to keep the tensors for a comparison with another implementation.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::ops::{Engine, Image};

/// Receives the tensors between the layers of a model.
pub trait Observer: Send + Sync {
    /// Called after each layer. `name` is the layer's prefix in an LDM checkpoint
    /// (`model.diffusion_model.input_blocks.1.0`), `tensor` its output.
    fn seen(&self, name: &str, tensor: &Tensor);
}

/// An optional [`Observer`]. Without one, tracing costs nothing.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<dyn Observer>>);

impl Trace {
    /// Returns a trace that calls `observer`.
    pub fn to(observer: Arc<dyn Observer>) -> Self {
        Trace(Some(observer))
    }

    /// Like [`Trace::seen`], for an image.
    pub(super) fn image(&self, name: &str, image: &Image) -> Result<()> {
        if let Some(observer) = &self.0 {
            observer.seen(name, &image.to_planes()?);
        }
        Ok(())
    }

    /// Like [`Trace::seen`], for tokens on an engine's device.
    pub(super) fn tokens(&self, name: &str, engine: &Engine, tokens: &Tensor) -> Result<()> {
        if let Some(observer) = &self.0 {
            observer.seen(name, &engine.to_host(tokens)?);
        }
        Ok(())
    }

    /// Whether there is an observer.
    pub(super) fn is_watched(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn seen(&self, name: &str, tensor: &Tensor) {
        if let Some(observer) = &self.0 {
            observer.seen(name, tensor);
        }
    }
}
