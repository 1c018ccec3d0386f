//! The output, read again as a stranger would read it, held against the plan.

use crate::error::{Error, Result};
use crate::format::frame::{Place, Record};
use crate::format::{open, payload};
use crate::io::{Progress, Scratch};
use crate::metadata::{Metadata, Plain};
use crate::state_dict::StateDict;
use crate::tensor::{Extent, LazyTensor};

/// What the output was meant to be.
pub(super) struct Plan<'a> {
    pub state_dict: &'a StateDict,
    pub metadata: &'a Metadata,
    pub records: &'a [Record],
    pub places: &'a [Place],
    /// The CRC-32 of each record's bytes as they were written.
    pub sums: &'a [u32],
    pub bytes: u64,
}

/// Opens what was written and compares keys, order, dtypes, shapes, places and metadata with the plan, then reads
/// every record once and compares its bytes, by checksum, with those that were written.
pub(super) fn verify(scratch: &Scratch, plan: &Plan<'_>, jobs: usize, progress: &dyn Progress) -> Result<()> {
    // Whatever goes wrong here is a fault of the output, which is about to be removed: it is not named by its path.
    let fail = |message: String| Error::unverified(format!("the written file is not what was planned: {message}"));
    let found = open(scratch.path()).map_err(|error| fail(error.to_string()))?;
    let source = found.sources.first().ok_or_else(|| fail("it cannot be read".into()))?;
    if source.len() != plan.bytes {
        return Err(fail(format!("it has {} bytes instead of {}", source.len(), plan.bytes)));
    }
    if !found.state_dict.keys().eq(plan.state_dict.keys()) {
        return Err(fail("its keys or their order differ".into()));
    }
    for (((key, tensor), place), planned) in found.state_dict.iter().zip(plan.places).zip(plan.state_dict.iter()) {
        let placed = plan.records.get(place.record).is_some_and(|record| is_at(tensor, place, record.offset));
        if !placed || tensor.shape() != planned.1.shape() || tensor.dtype() != planned.1.dtype() {
            return Err(fail("it has another place, dtype or shape".into()).in_tensor(key));
        }
    }
    if !same_metadata(&found.metadata, plan.metadata) {
        return Err(fail("its metadata differ".into()));
    }
    let sums = payload::checksums(scratch, plan.bytes, plan.records, jobs, progress)?;
    for (record, (found, written)) in plan.records.iter().zip(sums.iter().zip(plan.sums)) {
        if found != written {
            return Err(fail("its bytes differ from those that were written".into()).in_tensor(record.key.as_str()));
        }
    }
    Ok(())
}

fn is_at(tensor: &LazyTensor, place: &Place, record: u64) -> bool {
    let LazyTensor::Stored { storage, dtype, view } = tensor else { return false };
    matches!(storage.extent(), Extent::Raw { offset, .. } if offset == record)
        && *dtype == place.dtype
        && *view == place.view
}

/// Equal as text: what a safetensors file can hold of them, and a NaN equals itself.
fn same_metadata(found: &Metadata, planned: &Metadata) -> bool {
    let text = |(name, value): (&String, &Plain)| (name.clone(), value.to_text());
    found.iter().map(text).eq(planned.iter().map(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::error::Kind;
    use crate::format::frame::Frame;
    use crate::format::{safetensors, torch};
    use crate::io::{Overwrite, Silent};
    use crate::tensor::{Dtype, Shape};

    fn state_dict() -> StateDict {
        let mut state_dict = StateDict::new();
        for (key, value) in [("a.weight", 1_u8), ("b.weight", 2)] {
            let shape = Shape::new([3, 2]).unwrap();
            let tensor = LazyTensor::Owned { dtype: Dtype::F32, shape, bytes: Arc::from([value; 24]) };
            state_dict.insert(key, tensor).unwrap();
        }
        state_dict
    }

    /// Writes a file, lets `harm` loose on it, and verifies it.
    fn verified(make: fn(&StateDict, &Metadata) -> Result<Frame>, harm: impl Fn(&Scratch, &Frame)) -> Result<()> {
        let (state_dict, metadata) = (state_dict(), Metadata::from([("epoch".to_owned(), Plain::Int(3))]));
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(&folder.path().join("out"), Overwrite::Refuse).unwrap();
        let mut frame = make(&state_dict, &metadata).unwrap();
        scratch.reserve(frame.bytes).unwrap();
        let sums = payload::fill(&scratch, frame.bytes, &frame.records, 2, &Silent).unwrap();
        let surround = std::mem::replace(&mut frame.surround, Box::new(|_| Vec::new()));
        for (offset, bytes) in surround(&sums) {
            scratch.write_at(offset, &bytes).unwrap();
        }
        harm(&scratch, &frame);
        let Frame { records, places, bytes, .. } = &frame;
        let plan = Plan { state_dict: &state_dict, metadata: &metadata, records, places, sums: &sums, bytes: *bytes };
        verify(&scratch, &plan, 2, &Silent)
    }

    #[test]
    fn a_file_as_planned_passes_and_every_kind_of_damage_does_not() {
        for make in [safetensors::frame as fn(&StateDict, &Metadata) -> Result<Frame>, torch::frame] {
            verified(make, |_, _| {}).unwrap();
            let element = |scratch: &Scratch, frame: &Frame| {
                scratch.write_at(frame.records[1].offset + 23, &[9]).unwrap();
            };
            let error = verified(make, element).unwrap_err();
            assert_eq!((error.kind(), error.tensor()), (Kind::Unverified, Some("b.weight")));
            let header = |scratch: &Scratch, _: &Frame| scratch.write_at(0, b"nonsense").unwrap();
            assert_eq!(verified(make, header).unwrap_err().kind(), Kind::Unverified);
            let longer = |scratch: &Scratch, frame: &Frame| scratch.write_at(frame.bytes, b"tail").unwrap();
            assert_eq!(verified(make, longer).unwrap_err().kind(), Kind::Unverified);
        }
    }
}
