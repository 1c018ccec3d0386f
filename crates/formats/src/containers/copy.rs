//! Copies a file as it is.

use std::path::Path;
use std::sync::Arc;

use crate::containers::file_layout::Record;
use crate::containers::payload;
use crate::containers::write_options::WriteOptions;
use crate::error::{Error, Result};
use crate::io::{AtomicFile, Source};
use crate::tensor::{Dtype, Extent, LazyTensor, Shape, Storage, View};

/// Copies `source` to `path`. Returns the number of bytes.
///
/// Fails if the file changes meanwhile, or if the copy differs when it is read back.
pub(super) fn copy(path: &Path, source: &Arc<Source>, options: &WriteOptions<'_>) -> Result<u64> {
    let bytes = source.len();
    let file = AtomicFile::create(path, options.overwrite)?;
    file.reserve(bytes)?;
    options.progress.begin("writing", bytes);
    let storage = Storage::new(Arc::clone(source), "file", Extent::Raw { offset: 0, len: bytes });
    let tensor = LazyTensor::stored(Arc::new(storage), Dtype::U8, View::contiguous(Shape::new([bytes])?))?;
    let records = [Record { offset: 0, tensor, key: String::new() }];
    let written = payload::fill(&file, bytes, &records, options.jobs, options.progress)?.sums;
    source.check_unchanged()?;
    file.sync()?;
    if options.verify {
        options.progress.begin("verifying", bytes);
        if payload::checksums(&file, bytes, &records, options.jobs, options.progress)?.sums != written {
            return Err(Error::unverified("the copy differs from the file when it is read back").in_file(source.path()));
        }
    }
    options.progress.check()?;
    file.persist()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_files_of_any_length() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 1, 4096, 3 << 20] {
            let (from, to) = (folder.path().join(format!("{len}")), folder.path().join(format!("{len}-copy")));
            let bytes: Vec<u8> = (0..len).map(|index: u32| (index % 251) as u8).collect();
            std::fs::write(&from, &bytes).unwrap();
            let copied = copy(&to, &Source::open(&from).unwrap(), &WriteOptions::default().jobs(2)).unwrap();
            assert_eq!(copied, u64::from(len));
            assert_eq!(std::fs::read(&to).unwrap(), bytes);
        }
    }
}
