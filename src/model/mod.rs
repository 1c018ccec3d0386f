//! What is known of Stable Diffusion models: components, their keys, the published files. Tables and rules, no I/O.

pub mod architecture;
pub mod autoencoder;
pub mod completeness;
pub mod component;
pub mod ema;
pub mod layout;
pub mod pipeline;
pub mod position_ids;
pub mod published;
pub mod vocabulary;

pub use component::Component;
