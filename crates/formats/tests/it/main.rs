//! The integration tests of the crate, in one binary so that `support` compiles once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod limits;
mod numbers;
mod reading;
mod unpickler;
