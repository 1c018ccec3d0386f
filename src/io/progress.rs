use crate::error::{Error, Result};

/// Watches long work: is told of the bytes that went by, and may ask it to stop.
pub trait Progress: Sync {
    /// A phase of `bytes` begins; `what` names it in a word or two ("writing").
    fn begin(&self, what: &'static str, bytes: u64);

    /// A phase of so many steps begins.
    fn begin_steps(&self, what: &'static str, steps: u64) {
        self.begin(what, steps);
    }

    /// `bytes`, or steps, more are done.
    fn advance(&self, bytes: u64);

    /// Whether the user asked to stop; polled every few megabytes.
    fn interrupted(&self) -> bool {
        false
    }

    /// An [`Error`] of kind `Interrupted` where the user asked to stop.
    fn check(&self) -> Result<()> {
        if self.interrupted() { Err(Error::interrupted()) } else { Ok(()) }
    }
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
}
