//! The keys of each kind of file, as tables.

pub(super) mod adapters;
pub(super) mod autoencoders;
pub(super) mod diffusion;
pub(super) mod others;
pub(super) mod upscalers;
