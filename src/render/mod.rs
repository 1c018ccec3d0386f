//! Rendering an image with a checkpoint, to see whether it still draws.
//!
//! [`weights`] is the socket between a state dict and candle: a model asks it for tensors by key and shape and gets
//! them straight from the file they lie in.

pub mod weights;
