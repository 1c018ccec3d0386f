//! Files of `torch.save`: reads the zip of PyTorch 1.6 and newer and the older legacy format, and writes zips that every
//! PyTorch since 1.6 and every WebUI loads.

mod aligned;
mod archive;
mod contents;
mod describe;
mod dtype;
mod legacy;
mod metadata;
mod numpy;
mod python;
mod read;
mod rebuild;
mod root;
mod storages;
mod write;
mod zip_layout;

pub(super) use legacy::read as read_legacy;
pub(super) use read::read as read_zip;
pub(crate) use storages::{StorageSize, storage_sizes};
pub(super) use write::layout;
