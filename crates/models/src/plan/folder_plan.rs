use crate::plan::Resolved;

/// A planned folder: the tensors, with keys such as `unet/conv_in.weight`, and the other files.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FolderPlan {
    /// The tensors, the metadata and the ledger.
    pub resolved: Resolved,
    /// The other files, as pairs of path in the folder and content.
    pub files: Vec<(String, Vec<u8>)>,
}
