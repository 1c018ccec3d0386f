use std::fmt;

use super::{Error, Result};

/// Turns the absence of a value that must exist into a [`Kind::Internal`](super::Kind::Internal) error, instead of a default value.
pub trait OrInternal<T> {
    /// Returns the value, or an internal error that names the broken assumption `what`.
    fn or_internal(self, what: &str) -> Result<T>;
}

impl<T> OrInternal<T> for Option<T> {
    fn or_internal(self, what: &str) -> Result<T> {
        self.ok_or_else(|| Error::internal(what))
    }
}

impl<T, E: fmt::Display> OrInternal<T> for Result<T, E> {
    fn or_internal(self, what: &str) -> Result<T> {
        self.map_err(|error| Error::internal(format!("{what}: {error}")))
    }
}
