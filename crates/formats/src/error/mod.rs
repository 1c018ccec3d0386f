//! The library's error type: a kind, a location, a message and an optional hint.
//!
//! An error is created where the fault is found, and callers add the location as it propagates:
//! `Error::malformed("…").at(offset).in_tensor(key).in_file(path)`. A location that is already set is kept, because the
//! innermost caller has the most precise one.

mod change;
mod or_internal;
mod printable;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use or_internal::OrInternal;
pub use printable::{printable, printable_json};

/// `Result` with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`], by who can resolve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// An operating system call failed: permissions, a full disk, a missing file.
    Io,
    /// The file violates its own format: it is damaged, truncated or forged.
    Malformed,
    /// The file is well formed but uses a feature that is not supported.
    Unsupported,
    /// The file exceeds a limit of [`crate::limits`].
    Limit,
    /// Something required is missing.
    Missing,
    /// Two values that must agree differ.
    Mismatch,
    /// The request conflicts with what exists: an output that already exists, a duplicate name.
    Conflict,
    /// The request itself is invalid.
    Usage,
    /// The written output differs from the plan.
    Unverified,
    /// The user interrupted the operation.
    Interrupted,
    /// A state that the code rules out: a bug, whatever the input.
    Internal,
}

/// What the caller can do about an [`Error`].
///
/// A program puts the hint into its own words: a command line names an option, a graphical program offers a button.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// Replace what exists at the destination.
    Overwrite,
    /// Clamp values that overflow the new dtype to its largest value.
    Saturate,
    /// Take only the tensors of a file that has a dangerous pickle.
    Sanitize,
    /// Keep the checkpoint's own tensors where the VAE lacks them.
    Partial,
    /// Accept a VAE that its authors have withdrawn.
    AllowWithdrawn,
    /// Leave out what the output has no place for.
    AllowLoss,
    /// Accept a VAE of another family than the checkpoint.
    AllowFamilyMismatch,
    /// Give the two inputs in the other order.
    SwapInputs,
    /// Name the VAE file.
    NameVae,
    /// Name a file for each component.
    NameComponents,
    /// Repair the file.
    Repair,
    /// Name the output format.
    NameFormat,
    /// Write into a folder instead of a single file.
    OutputFolder,
    /// Take one component instead of the whole checkpoint.
    Component,
    /// Render on the CPU.
    Cpu,
    /// Render a smaller picture, or on the CPU.
    SmallerOrCpu,
    /// Name the folder with LoRAs.
    LoraFolder,
}

impl Hint {
    /// The hint as a stable word for machine-readable output.
    pub fn name(self) -> &'static str {
        match self {
            Hint::Overwrite => "overwrite",
            Hint::Saturate => "saturate",
            Hint::Sanitize => "sanitize",
            Hint::Partial => "partial",
            Hint::AllowWithdrawn => "allow-withdrawn",
            Hint::AllowLoss => "allow-loss",
            Hint::AllowFamilyMismatch => "allow-family-mismatch",
            Hint::SwapInputs => "swap-inputs",
            Hint::NameVae => "name-vae",
            Hint::NameComponents => "name-components",
            Hint::Repair => "repair",
            Hint::NameFormat => "name-format",
            Hint::OutputFolder => "output-folder",
            Hint::Component => "component",
            Hint::Cpu => "cpu",
            Hint::SmallerOrCpu => "smaller-or-cpu",
            Hint::LoraFolder => "lora-folder",
        }
    }
}

impl Kind {
    /// The kind as a stable word for machine-readable output.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Io => "io",
            Kind::Malformed => "malformed",
            Kind::Unsupported => "unsupported",
            Kind::Limit => "limit",
            Kind::Missing => "missing",
            Kind::Mismatch => "mismatch",
            Kind::Conflict => "conflict",
            Kind::Usage => "usage",
            Kind::Unverified => "unverified",
            Kind::Interrupted => "interrupted",
            Kind::Internal => "internal",
        }
    }
}

/// A failure and its location. Displays as one line: `FILE: tensor KEY: byte N: what was found and what was expected`.
///
/// `Debug` adds the kind and the hint to that line, because it is what a `main` that returns an error prints.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    file: Option<PathBuf>,
    record: Option<String>,
    tensor: Option<String>,
    offset: Option<u64>,
    message: String,
    source: Option<io::Error>,
    hint: Option<Hint>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self { Self::new(Kind::$kind, message) })*
    };
}

impl Error {
    /// Creates an error of `kind` without a location.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            file: None,
            record: None,
            tensor: None,
            offset: None,
            message: message.into(),
            source: None,
            hint: None,
        }))
    }

    constructors! {
        /// Creates a [`Kind::Malformed`] error.
        malformed => Malformed;
        /// Creates a [`Kind::Unsupported`] error.
        unsupported => Unsupported;
        /// Creates a [`Kind::Limit`] error.
        limit => Limit;
        /// Creates a [`Kind::Missing`] error.
        missing => Missing;
        /// Creates a [`Kind::Mismatch`] error.
        mismatch => Mismatch;
        /// Creates a [`Kind::Conflict`] error.
        conflict => Conflict;
        /// Creates a [`Kind::Usage`] error.
        usage => Usage;
        /// Creates a [`Kind::Unverified`] error.
        unverified => Unverified;
    }

    /// Creates the error for an operation that the user interrupted. It has no location: where the work stopped is chance.
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// The part of the error that a location may be added to; `None` for an interruption.
    fn place(&mut self) -> Option<&mut Inner> {
        Some(&mut *self.0).filter(|inner| inner.kind != Kind::Interrupted)
    }

    /// Creates the error for a state that the code rules out. `what` names the broken assumption.
    ///
    /// Use it where a default value would hide a bug: an index that was checked before, a lookup of a key that was just
    /// inserted, a length that cannot overflow.
    pub fn internal(what: impl Into<String>) -> Self {
        let what = what.into();
        Self::new(Kind::Internal, format!("internal error: {what}; this is a bug in trinart-ckpt, please report it"))
    }

    /// Creates the error for a failed system call. `action` describes the attempt ("cannot open").
    pub fn io(action: &str, source: io::Error) -> Self {
        let mut error = Self::new(Kind::Io, format!("{action}: {source}"));
        error.0.source = Some(source);
        error
    }

    /// Sets the hint, unless it is already set.
    #[must_use]
    pub fn with_hint(mut self, hint: Hint) -> Self {
        self.0.hint.get_or_insert(hint);
        self
    }

    /// What the caller can do about this error, where the library has a suggestion.
    pub fn hint(&self) -> Option<Hint> {
        self.0.hint
    }

    /// Sets the file, unless it is already set or the user interrupted the operation.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        if let Some(place) = self.place() {
            place.file.get_or_insert_with(|| path.as_ref().to_owned());
        }
        self
    }

    /// Replaces a file path below `from` by the same path below `to`.
    #[must_use]
    pub fn relocated(mut self, from: &Path, to: &Path) -> Self {
        if let Some(rest) = self.0.file.as_deref().and_then(|file| file.strip_prefix(from).ok()) {
            self.0.file = Some(to.join(rest));
        }
        self
    }

    /// Sets the zip record that the offset is relative to, unless it is already set or the user interrupted the operation.
    #[must_use]
    pub fn in_record(mut self, record: impl Into<String>) -> Self {
        if let Some(place) = self.place() {
            place.record.get_or_insert_with(|| record.into());
        }
        self
    }

    /// Sets the tensor's key, unless it is already set or the user interrupted the operation.
    #[must_use]
    pub fn in_tensor(mut self, key: impl Into<String>) -> Self {
        if let Some(place) = self.place() {
            place.tensor.get_or_insert_with(|| key.into());
        }
        self
    }

    /// Sets the byte offset, unless it is already set or the user interrupted the operation. It is relative to the record if
    /// there is one, else to the file.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        if let Some(place) = self.place() {
            place.offset.get_or_insert(offset);
        }
        self
    }

    /// Replaces the byte offset, to convert an offset within a part of a file to one within the file.
    #[must_use]
    pub(crate) fn move_to(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The file the failure is in.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The key of the tensor the failure is in.
    pub fn tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// The message, without the location. It may quote text from the file: pass it through [`printable`] before printing
    /// it to a terminal.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The zip record or pickle within the file that the failure is in.
    pub fn record(&self) -> Option<&str> {
        self.0.record.as_deref()
    }

    /// The byte offset of the failure. It is relative to [`Error::record`] if there is one, else to the file.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "{}: ", printable(&file.to_string_lossy()))?;
        }
        if let Some(record) = &self.0.record {
            write!(f, "record {}: ", printable(record))?;
        }
        if let Some(tensor) = &self.0.tensor {
            write!(f, "tensor {}: ", printable(tensor))?;
        }
        if let Some(offset) = self.0.offset {
            write!(f, "byte {offset}: ")?;
        }
        f.write_str(&printable(&self.0.message))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?}", self.kind())?;
        if let Some(hint) = self.hint() {
            write!(f, ", hint: {hint:?}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_the_location_before_the_message() {
        let error = Error::mismatch("shape [4], the checkpoint has [5]").at(12).in_tensor("a.weight").in_file("vae.pt");
        assert_eq!(error.to_string(), "vae.pt: tensor a.weight: byte 12: shape [4], the checkpoint has [5]");
    }

    #[test]
    fn debug_adds_the_kind_and_the_hint() {
        let error = Error::unsupported("calls os.system").with_hint(Hint::Sanitize).at(242).in_record("data.pkl");
        let error = error.in_file("x.ckpt");
        assert_eq!((error.record(), error.offset()), (Some("data.pkl"), Some(242)));
        let line = "x.ckpt: record data.pkl: byte 242: calls os.system (Unsupported, hint: Sanitize)";
        assert_eq!(format!("{error:?}"), line);
        assert_eq!(format!("{:#?}", Error::missing("x")), "x (Missing)");
    }

    #[test]
    fn an_interruption_has_no_location() {
        let error = Error::interrupted().in_file("a").in_tensor("b").in_record("c").at(7);
        assert_eq!((error.to_string().as_str(), error.kind()), ("interrupted", Kind::Interrupted));
        assert_eq!((error.file(), error.tensor(), error.record(), error.offset()), (None, None, None, None));
    }

    #[test]
    fn an_internal_error_asks_for_a_report() {
        let error = None::<u8>.or_internal("storage 3 has no record").unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.to_string().starts_with("internal error: storage 3 has no record; this is a bug"), "{error}");
    }

    #[test]
    fn keeps_the_innermost_location() {
        let error = Error::missing("x").in_file("inner").in_file("outer");
        assert_eq!(error.file(), Some(Path::new("inner")));
    }
}
