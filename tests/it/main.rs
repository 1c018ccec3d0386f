//! The integration tests, in one binary so that `support` compiles once: `cargo test --test it scan::` runs one module.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[macro_use]
mod support;

mod architecture;
mod assemble;
mod audit;
mod bad_input;
mod batches;
#[cfg(unix)]
mod bounds;
mod colors;
mod components;
mod controlnets;
mod convert;
mod diffusers_folder;
mod diffusers_write;
mod docs;
mod extract;
#[cfg(all(unix, feature = "remote"))]
mod fleet;
mod folder_kinds;
mod folder_parts;
mod fuzz;
mod hash_and_diff;
mod help;
#[cfg(feature = "render")]
mod infotexts;
mod inspection;
mod layouts;
mod library;
mod loaders;
mod lone_components;
mod lora_fits;
mod lora_summary;
mod loras;
mod marks;
mod marks_in_folders;
mod measures;
mod merge_vae;
mod merge_vae_checks;
mod metadata;
mod non_finite;
mod patterns;
mod peers;
mod pipelines;
mod quantized;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "remote")]
mod remote_faults;
#[cfg(feature = "render")]
mod render_check;
#[cfg(feature = "render")]
mod render_many;
mod repair;
mod roots;
#[cfg(feature = "remote")]
mod s3;
#[cfg(feature = "remote")]
mod s3_faults;
mod scan;
mod scan_peers;
mod schema;
mod security;
mod shells;
#[cfg(feature = "render")]
mod small_model;
mod tree;
mod unrecorded;
mod uses;
mod verdict;
mod video;
#[cfg(unix)]
mod write_faults;
