//! Facts about Stable Diffusion models: families, components, their keys, published files. Tables and rules, no I/O.

pub mod completeness;
pub mod component;
pub mod detection;
pub mod ema;
pub mod family;
pub mod layout;
pub mod pipeline;
pub mod position_ids;
pub mod published;
pub mod vae;
pub mod vocabulary;

pub use component::Component;
