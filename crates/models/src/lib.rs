//! What is inside a Stable Diffusion checkpoint, and plans that change it.

pub mod checkpoint;
pub mod compare;
pub mod completeness;
pub mod component;
pub mod detection;
pub mod ema;
pub mod family;
pub mod hash;
pub mod layout;
pub mod ledger;
mod notice;
pub mod pipeline;
pub mod plan;
pub mod position_ids;
pub mod published;
pub mod sidecar;
pub mod vae;
pub mod vocabulary;

pub use checkpoint::Checkpoint;
pub use component::Component;
pub use notice::{Notice, NoticeCode};
