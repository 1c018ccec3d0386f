//! Files as this program uses them: a [`Source`] is read at any offset, a [`Scratch`] or
//! [`ScratchFolder`] becomes the destination or disappears, [`parallel`] spreads work over threads, [`Progress`] watches it.

mod beside;
mod block;
pub mod parallel;
mod progress;
mod scratch;
mod scratch_folder;
mod source;

pub use block::Block;
pub use progress::{Progress, Silent};
pub use scratch::{Overwrite, Scratch};
pub use scratch_folder::ScratchFolder;
pub use source::{Source, SourceReader};
