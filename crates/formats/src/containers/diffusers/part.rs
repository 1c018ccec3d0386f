use std::sync::Arc;

use crate::io::Source;

/// A part of a pipeline that is copied as it is: it has no tensors that this program renames or casts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Part {
    /// The name of the subfolder.
    pub name: String,
    /// The paths of its files within the folder of the pipeline, and the files.
    pub files: Vec<(String, Arc<Source>)>,
    /// Whether one of the files holds weights.
    pub has_weights: bool,
}
