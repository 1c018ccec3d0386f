//! Reads the output back and compares it with the plan.

use crate::containers::file_layout::{Record, TensorLocation};
use crate::containers::{payload, read};
use crate::error::{Error, OrInternal, Result};
use crate::io::{AtomicFile, Progress};
use crate::metadata::{Metadata, PyValue};
use crate::state_dict::StateDict;
use crate::tensor::{Extent, LazyTensor};

/// The intended output.
pub(super) struct Plan<'a> {
    pub state_dict: &'a StateDict,
    pub metadata: &'a Metadata,
    pub records: &'a [Record],
    pub locations: &'a [TensorLocation],
    /// The CRC-32 of each record's bytes when they were written.
    pub sums: &'a [u32],
    pub bytes: u64,
}

/// Opens the output and compares keys, order, dtypes, shapes, offsets and metadata with the plan. Then reads every record
/// and compares its checksum with that of the written bytes. Returns the sha256 of the file, computed from the same reads.
///
/// Fails with [`Kind::Unverified`](crate::error::Kind::Unverified) at the first difference.
pub(super) fn verify(file: &AtomicFile, plan: &Plan<'_>, jobs: usize, progress: &dyn Progress) -> Result<String> {
    if plan.locations.len() != plan.state_dict.len() || plan.sums.len() != plan.records.len() {
        return Err(Error::internal("the plan of an output has no location or checksum for a tensor"));
    }
    // These errors do not name the output's path: it is a temporary one, and the file is about to be removed.
    let fail = |message: String| Error::unverified(format!("the written file differs from the plan: {message}"));
    let found = read(file.path()).map_err(|error| fail(error.to_string()))?;
    let source = found.sources.first().ok_or_else(|| fail("it has no readable source".into()))?;
    if source.len() != plan.bytes {
        return Err(fail(format!("it has {} bytes instead of {}", source.len(), plan.bytes)));
    }
    if !found.state_dict.keys().eq(plan.state_dict.keys()) {
        return Err(fail("its keys or their order differ".into()));
    }
    for (((key, tensor), location), planned) in found.state_dict.iter().zip(plan.locations).zip(plan.state_dict.iter())
    {
        let record = plan.records.get(location.record).or_internal("a tensor has no record")?;
        if !is_at(tensor, location, record.offset)
            || tensor.shape() != planned.1.shape()
            || tensor.dtype() != planned.1.dtype()
        {
            return Err(fail("its offset, dtype or shape differs".into()).in_tensor(key));
        }
    }
    if !same_metadata(&found.metadata, plan.metadata) {
        return Err(fail("its metadata differ".into()));
    }
    let found = payload::checksums(file, plan.bytes, plan.records, jobs, progress)?;
    for (record, (found, written)) in plan.records.iter().zip(found.sums.iter().zip(plan.sums)) {
        if found != written {
            return Err(fail("its bytes differ from those that were written".into()).in_tensor(record.key.as_str()));
        }
    }
    Ok(found.sha256)
}

/// Returns whether a tensor of the output lies where it was planned. `record` is the offset of its record.
fn is_at(tensor: &LazyTensor, location: &TensorLocation, record: u64) -> bool {
    tensor.as_stored().is_some_and(|stored| {
        matches!(stored.storage.extent(), Extent::Raw { offset, .. } if offset == record)
            && stored.cast.is_none()
            && stored.dtype == location.dtype
            && *stored.view == location.view
    })
}

/// Compares as text, because a safetensors file stores metadata as text, and because NaN then equals itself.
fn same_metadata(found: &Metadata, planned: &Metadata) -> bool {
    let text = |(name, value): (&String, &PyValue)| (name.clone(), value.to_text());
    found.iter().map(text).eq(planned.iter().map(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    use sha2::{Digest, Sha256};

    use crate::containers::file_layout::FileLayout;
    use crate::containers::{Structure, safetensors, torch};
    use crate::error::Kind;
    use crate::io::{NoProgress, Overwrite};
    use crate::tensor::{Dtype, Shape};

    fn state_dict() -> StateDict {
        let mut state_dict = StateDict::new();
        for (key, value) in [("a.weight", 1_u8), ("b.weight", 2)] {
            let shape = Shape::new([3, 2]).unwrap();
            let tensor = LazyTensor::owned(Dtype::F32, shape, [value; 24]).unwrap();
            state_dict.insert(key, tensor).unwrap();
        }
        state_dict
    }

    /// Writes a file, damages it with `damage`, and verifies it.
    fn verified(
        make: fn(&StateDict, &Metadata) -> Result<FileLayout>,
        damage: impl Fn(&AtomicFile, &FileLayout),
    ) -> Result<(String, Vec<u8>)> {
        let (state_dict, metadata) = (state_dict(), Metadata::from([("epoch".to_owned(), PyValue::Int(3))]));
        let folder = tempfile::tempdir().unwrap();
        let file = AtomicFile::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
        let mut layout = make(&state_dict, &metadata).unwrap();
        file.reserve(layout.bytes).unwrap();
        let sums = payload::fill(&file, layout.bytes, &layout.records, 2, &NoProgress).unwrap().sums;
        let headers = std::mem::replace(&mut layout.headers, Box::new(|_| Ok(Vec::new())));
        for (offset, bytes) in headers(&sums).unwrap() {
            file.write_at(offset, &bytes).unwrap();
        }
        damage(&file, &layout);
        let FileLayout { records, locations, bytes, .. } = &layout;
        let plan =
            Plan { state_dict: &state_dict, metadata: &metadata, records, locations, sums: &sums, bytes: *bytes };
        Ok((verify(&file, &plan, 2, &NoProgress)?, std::fs::read(file.path()).unwrap()))
    }

    #[test]
    fn accepts_the_planned_file_and_detects_damage() {
        for make in [safetensors::layout as fn(&StateDict, &Metadata) -> Result<FileLayout>, |state_dict, metadata| {
            torch::layout(state_dict, metadata, &Structure::StateDict)
        }] {
            let (sha256, bytes) = verified(make, |_, _| {}).unwrap();
            let expected: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(sha256, expected);
            let element = |file: &AtomicFile, layout: &FileLayout| {
                file.write_at(layout.records[1].offset + 23, &[9]).unwrap();
            };
            let error = verified(make, element).unwrap_err();
            assert_eq!((error.kind(), error.tensor()), (Kind::Unverified, Some("b.weight")));
            let header = |file: &AtomicFile, _: &FileLayout| file.write_at(0, b"nonsense").unwrap();
            assert_eq!(verified(make, header).unwrap_err().kind(), Kind::Unverified);
            let longer = |file: &AtomicFile, layout: &FileLayout| file.write_at(layout.bytes, b"tail").unwrap();
            assert_eq!(verified(make, longer).unwrap_err().kind(), Kind::Unverified);
        }
    }
}
