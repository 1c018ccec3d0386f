//! Files of `torch.save`: the zip of PyTorch 1.6 and newer, the legacy file before it, and a writer of zips that
//! every PyTorch and every WebUI loads.

mod archive;
mod contents;
mod dtype;
mod legacy;
mod numpy;
mod plain;
mod read;
mod rebuild;
mod storages;
mod words;
mod write;
mod zip_frame;

pub use legacy::read as read_legacy;
pub use read::read as read_zip;
pub(super) use write::{bare_frame, frame};
