//! Renders a picture with a checkpoint of SD v1, to check that it still works.
//!
//! The crate reproduces txt2img of AUTOMATIC1111's WebUI: its prompt syntax, noise, samplers, schedules and `parameters`
//! text. It runs on the CPU or, experimentally, on NVIDIA GPUs with the feature `cuda`. Other architectures than SD v1 are
//! an error.

pub mod checks;
#[cfg(feature = "cuda")]
pub mod cuda;
mod errors;
pub mod job;
pub mod kernels;
pub mod networks;
pub mod observer;
mod ops;
pub mod picture;
pub mod pipeline;
pub mod prompt;
pub mod sampling;
pub mod settings;
pub mod weight_flaws;
pub mod weights;

pub use job::{RenderInput, RenderJob, RenderPlan, RenderReport};
pub use ops::Engine;
pub use settings::{RenderOptions, Settings};
