//! Renders a picture with a checkpoint of SD v1, to check that it still works.
//!
//! [`job::RenderJob`] renders an open checkpoint and judges the result; [`pipeline::render`] renders alone. A
//! [`weights::WeightLoader`] loads tensors of a state dict straight from their file into the models [`clip`], [`unet`] and
//! [`vae`], and an [`observer`] sees the tensors between their layers. An [`Engine`] runs the layers: this crate's own code
//! for the CPU, candle's operations, or the GPU [`kernels`].

pub mod against;
pub mod checks;
pub mod clip;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod dump;
mod guidance;
pub mod infotext;
pub mod input;
pub mod job;
pub mod kernels;
mod nonfinite;
pub mod observer;
mod ops;
pub mod picture;
pub mod pipeline;
pub mod prompt;
mod reader;
pub mod reference;
pub mod rng;
pub mod sampler;
pub mod schedule;
pub mod settings;
mod target;
pub mod unet;
pub mod vae;
pub mod weight_flaws;
pub mod weights;

pub use ops::Engine;
