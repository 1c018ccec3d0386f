//! Files and threads: [`Source`] reads a file at any offset, [`AtomicFile`] and [`AtomicFolder`] replace their
//! destination in one step or leave it unchanged, [`parallel`] spreads work over threads, [`Progress`] observes it.

mod aligned_buffer;
mod atomic_file;
mod atomic_folder;
mod fetched;
mod image;
mod overwrite;
pub mod parallel;
mod places;
mod progress;
pub mod remote;
mod source;
mod spill;
mod staging;
mod sys;

pub(crate) use aligned_buffer::AlignedBuffer;
pub use atomic_file::AtomicFile;
pub use atomic_folder::AtomicFolder;
pub(crate) use atomic_folder::check_inner_path;
pub(crate) use fetched::Parts;
pub(crate) use image::Image;
pub use overwrite::Overwrite;
pub(crate) use places::names;
pub use places::{file_bytes, is_dir, is_file, read_small};
pub use progress::{NoProgress, Progress};
pub use source::Source;
pub(crate) use source::SourceReader;
pub(crate) use spill::Spill;
pub(crate) use sys::{Identity, identity};

/// Returns a text that identifies a file or folder on its file system, whatever path leads to it.
pub fn identity_text(path: &std::path::Path) -> std::io::Result<String> {
    identity(path).map(|identity| format!("{identity:?}"))
}
