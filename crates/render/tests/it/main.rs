//! The integration tests of the crate, in one binary: `cargo test -p trinart-ckpt-render --test it samplers::` runs one
//! module.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod families;
mod files;
mod folders;
mod kernels;
mod models;
mod networks;
mod pictures;
mod prompts;
mod samplers;
mod tiny;
mod tokens;
mod weights;
