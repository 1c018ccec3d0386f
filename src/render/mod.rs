//! Rendering an image with a checkpoint, to see whether it still draws.
//!
//! [`weights`] is the socket between a state dict and candle: a model asks it for tensors by key and shape and gets
//! them straight from the file they lie in. [`clip`], [`unet`] and [`autoencoder`] are the models of SD v1 on it, in LDM
//! names; an [`observer`] is shown what is between their layers. An [`Engine`] computes the layers: this crate's own code
//! for the CPU, candle's operations, or [`kernels`] for graphics cards.

pub mod checks;
pub mod clip;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dump;
mod guidance;
pub mod infotext;
pub mod kernels;
mod nonfinite;
pub mod observer;
mod ops;
pub mod picture;
pub mod pipeline;
pub mod prompt;
mod reader;
pub mod rng;
pub mod sampler;
pub mod schedule;
mod target;
pub mod unet;
pub mod vae;
pub mod weight_flaws;
pub mod weights;

pub use ops::Engine;
