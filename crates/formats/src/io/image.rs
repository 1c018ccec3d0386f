use memmap2::Mmap;

use super::spill::Spill;
use super::sys;

/// What was fetched of a file behind an address, as a slice: its bytes, or some of them with zeros between.
#[derive(Debug)]
pub(crate) struct Image {
    pub(super) map: Mmap,
    /// The file that is mapped. Without one, only parts of the bytes were fetched.
    pub(super) spill: Option<Spill>,
}

impl Image {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Removes the pages of a temporary file from this process's memory. They are read again when needed.
    pub(super) fn release_pages(&self) {
        // Those of fetched parts are nowhere else.
        if self.spill.is_some() {
            sys::release_pages(&self.map);
        }
    }
}
