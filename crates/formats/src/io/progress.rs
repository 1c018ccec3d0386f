use crate::error::{Error, Result};

/// Observes long-running work, and can stop it.
pub trait Progress: Sync {
    /// Starts a phase of `bytes` bytes. `what` names it in a word or two ("writing").
    fn begin(&self, what: &'static str, bytes: u64);

    /// Starts a phase of `steps` steps.
    fn begin_steps(&self, what: &'static str, steps: u64) {
        self.begin(what, steps);
    }

    /// Reports that `count` more bytes, or steps, are done.
    fn advance(&self, count: u64);

    /// Returns whether the user asked to stop. Polled every few megabytes.
    fn interrupted(&self) -> bool {
        false
    }

    /// Fails with [`Kind::Interrupted`](crate::error::Kind::Interrupted) if the user asked to stop.
    fn check(&self) -> Result<()> {
        if self.interrupted() { Err(Error::interrupted()) } else { Ok(()) }
    }
}

/// A [`Progress`] that does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
}
