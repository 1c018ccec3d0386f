use trinart_ckpt_formats::error::{Error, Kind};

/// The exit code of a run, as in `diff`: 0 yes, 1 no, 2 trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    /// The command succeeded: the output was written, the checkpoints are equal, no file is dangerous, all checks passed.
    Success = 0,
    /// The command ran, and its answer is negative: the checkpoints differ, a file is dangerous, a check failed, or the
    /// output does not match what was written.
    Negative = 1,
    /// The command could not do its work: wrong usage, unreadable or unsupported files, an interrupt.
    Error = 2,
}

impl Exit {
    /// The exit code of a command that ended with this error.
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::Unverified => Exit::Negative,
            _ => Exit::Error,
        }
    }
}
