use crate::tensor::{Dtype, LazyTensor, View};

/// A whole output before its first byte: where each record of tensor data goes, what goes around them, and where
/// each key's tensor will be found.
pub(super) struct Frame {
    /// The records, in the order of the file.
    pub records: Vec<Record>,
    /// For each key of the state dict, in its order: its record, its dtype and the view of the record that it is.
    pub places: Vec<Place>,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes around the records, which may need the records' checksums.
    pub surround: Surround,
}

/// A run of bytes in the output that is one tensor's elements.
pub(super) struct Record {
    /// First byte in the file.
    pub offset: u64,
    /// The elements.
    pub tensor: LazyTensor,
    /// The key to blame if its elements cannot be had.
    pub key: String,
}

/// Where a key's tensor is in the output.
pub(super) struct Place {
    /// Position in [`Frame::records`].
    pub record: usize,
    /// The element type.
    pub dtype: Dtype,
    /// Which of the record's elements.
    pub view: View,
}

/// Makes the bytes around the records, with their offsets, once the records' CRC-32 are known.
pub(super) type Surround = Box<dyn FnOnce(&[u32]) -> Vec<(u64, Vec<u8>)>>;
