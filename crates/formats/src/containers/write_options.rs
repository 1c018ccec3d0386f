use crate::containers::structure::Structure;
use crate::io::{NoProgress, Overwrite, Progress, parallel};
use crate::tensor::NonFiniteTensor;

/// Options for [`write()`](super::write()) and [`write_folder`](super::write_folder). The default refuses to overwrite, verifies, and reports no progress.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct WriteOptions<'a> {
    /// How to treat an existing destination.
    pub overwrite: Overwrite,
    /// Whether to read the output back and compare it with the plan.
    pub verify: bool,
    /// The number of threads. 0 means one.
    pub jobs: usize,
    /// Receives the progress, and can stop the operation.
    pub progress: &'a dyn Progress,
    /// Where a torch file has its tensors.
    pub structure: &'a Structure,
    /// Whether NaN and infinite values are an error.
    pub strict: bool,
}

/// The structure of a torch file by default.
const STATE_DICT: &Structure = &Structure::StateDict;

impl Default for WriteOptions<'_> {
    fn default() -> Self {
        WriteOptions {
            overwrite: Overwrite::Refuse,
            verify: true,
            jobs: parallel::default_jobs(),
            progress: &NoProgress,
            structure: STATE_DICT,
            strict: false,
        }
    }
}

impl<'a> WriteOptions<'a> {
    /// Sets where a torch file has its tensors. By default they are under `state_dict`.
    #[must_use]
    pub fn structure(mut self, structure: &'a Structure) -> Self {
        self.structure = structure;
        self
    }

    /// Sets whether NaN and infinite values are an error. By default [`Written`] lists them.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Sets how to treat an existing destination.
    #[must_use]
    pub fn overwrite(mut self, overwrite: Overwrite) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets whether to read the output back and compare it with the plan.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Sets the number of threads. 0 means one.
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs;
        self
    }

    /// Sets the receiver of the progress.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = progress;
        self
    }
}

/// The result of [`write()`](super::write()) and [`write_folder`](super::write_folder).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Bytes of the file, or of all files of the folder.
    pub bytes: u64,
    /// Whether the output was read back and compared with the plan.
    pub verified: bool,
    /// The sha256 of the file that was read back, lower-case hexadecimal. `None` for folders, and without verification.
    pub sha256: Option<String>,
    /// The tensors with NaN or infinite values, in the order of the file. Tensors that share their data are listed once.
    pub non_finite: Vec<NonFiniteTensor>,
}

impl Written {
    /// What a write would produce, from its size alone.
    pub fn planned(bytes: u64) -> Self {
        Written { bytes, verified: false, sha256: None, non_finite: Vec::new() }
    }
}
