//! Operations on checkpoint files, each a type with builder methods, a dry run `plan` and a `run`.

#[cfg(feature = "render")]
pub mod render_check;
