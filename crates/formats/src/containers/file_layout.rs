use crate::error::Result;
use crate::tensor::{Dtype, LazyTensor, View};

/// The complete layout of an output file, before its first byte is written.
pub(super) struct FileLayout {
    /// The records of tensor data, in the order of the file.
    pub records: Vec<Record>,
    /// Where each tensor of the state dict lies, in the state dict's order.
    pub locations: Vec<TensorLocation>,
    /// The length of the file in bytes.
    pub bytes: u64,
    /// Makes the bytes around the records.
    pub headers: MakeHeaders,
}

/// A run of bytes in the output that holds the elements of one tensor.
pub(super) struct Record {
    /// The offset of the first byte in the file.
    pub offset: u64,
    /// The tensor.
    pub tensor: LazyTensor,
    /// The key to name in an error about this record.
    pub key: String,
}

/// Where a tensor of the state dict lies in the output.
pub(super) struct TensorLocation {
    /// The index in [`FileLayout::records`].
    pub record: usize,
    /// The dtype.
    pub dtype: Dtype,
    /// The elements of the record that belong to the tensor.
    pub view: View,
}

/// Returns the bytes around the records with their offsets, given the CRC-32 of each record, in order.
pub(super) type MakeHeaders = Box<dyn FnOnce(&[u32]) -> Result<Vec<(u64, Vec<u8>)>>>;
