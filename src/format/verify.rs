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
