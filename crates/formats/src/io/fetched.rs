//! Fetches a file behind an address, or parts of it.

use std::ops::Range;

use memmap2::{MmapMut, MmapOptions};

use super::image::Image;
use super::progress::Progress;
use super::source::Source;
use super::spill::Spill;
use crate::error::{Error, OrInternal, Result};

/// Bytes that are fetched at a time.
const PIECE: u64 = 2 << 20;

impl Image {
    /// Fetches all bytes of a file into a temporary file. Fails if there is no space for it.
    pub(crate) fn whole(source: &Source, progress: &dyn Progress) -> Result<Self> {
        let spill = Spill::new(source.len())?;
        let mut buffer = vec![0; source.len().min(PIECE) as usize];
        let mut offset = 0;
        progress.begin("fetching", source.len());
        while offset < source.len() {
            progress.check()?;
            buffer.truncate((source.len() - offset).min(PIECE) as usize);
            source.read_at(offset, &mut buffer)?;
            spill.write_at(offset, &buffer)?;
            offset += buffer.len() as u64;
            progress.advance(buffer.len() as u64);
        }
        Ok(Image { map: spill.map()?, spill: Some(spill) })
    }
}

/// Parts of a file at their places, with zeros between. Ranges that are not fetched take no memory.
pub(crate) struct Parts<'a> {
    source: &'a Source,
    map: MmapMut,
    /// Bytes that were fetched.
    pub(crate) fetched: u64,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(source: &'a Source) -> Result<Self> {
        let len =
            usize::try_from(source.len()).map_err(|_| Error::limit("a file that does not fit the address space"))?;
        let map = MmapOptions::new().len(len).no_reserve_swap().map_anon();
        let map = map.map_err(|error| Error::io("cannot reserve memory for the parts of the file", error))?;
        Ok(Parts { source, map, fetched: 0 })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Fetches a range, as far as it lies within the file.
    pub(crate) fn fetch(&mut self, range: Range<u64>) -> Result<()> {
        let (start, end) = (range.start.min(self.source.len()), range.end.min(self.source.len()));
        if start >= end {
            return Ok(());
        }
        let place = self.map.get_mut(start as usize..end as usize).or_internal("a range lies outside its file")?;
        self.source.read_at(start, place)?;
        self.fetched += end - start;
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Image> {
        let map = self.map.make_read_only().map_err(|error| Error::io("cannot protect memory", error))?;
        Ok(Image { map, spill: None })
    }
}
