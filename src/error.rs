//! The one error of the library: what kind it is, where it happened, what was found and what was expected.
//!
//! An error is built where the fact is known and gains its place on the way out:
//! `Error::malformed("…").at(offset).in_tensor(key).in_file(path)`. A place that is already set is kept, so the
//! innermost caller, who knows best, wins.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// `Result` with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors sorted by who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The operating system refused: permissions, a full disk, a vanished file.
    Io,
    /// The file contradicts its own format: it is damaged, cut short or forged.
    Malformed,
    /// The file is well formed but holds something this program does not take.
    Unsupported,
    /// A named limit of [`crate::limits`] was passed.
    Limit,
    /// Something that has to be there is not.
    Missing,
    /// Two things that have to agree do not.
    Mismatch,
    /// The request contradicts what is there: an output that exists, a name that occurs twice.
    Conflict,
    /// The command line asks for something that makes no sense.
    Usage,
    /// What was written is not what was planned.
    Unverified,
    /// The user interrupted the work.
    Interrupted,
    /// A state that cannot happen, happened: a bug of this program, whatever the input.
    Internal,
}

/// What a caller could ask for to get past an error. The library names the remedy; the command line words it as an
/// option, another program as a button or a builder method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// Replace what exists at the destination.
    Overwrite,
    /// Clamp values that overflow the new dtype to its largest value.
    Saturate,
    /// Take only the tensors of a file with a dangerous pickle.
    Sanitize,
    /// Keep the checkpoint's own tensors where the VAE lacks them.
    Partial,
    /// Accept a VAE that its authors have withdrawn.
    AllowWithdrawn,
    /// Name the VAE file.
    NameVae,
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
}

impl Kind {
    /// The word `--json` prints for this kind.
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

/// A failure with its place. Displays as one line: `FILE: tensor KEY: byte N: what was found and what was expected`.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
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
    /// An error of `kind` without a place.
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
        /// A [`Kind::Malformed`] error.
        malformed => Malformed;
        /// A [`Kind::Unsupported`] error.
        unsupported => Unsupported;
        /// A [`Kind::Limit`] error.
        limit => Limit;
        /// A [`Kind::Missing`] error.
        missing => Missing;
        /// A [`Kind::Mismatch`] error.
        mismatch => Mismatch;
        /// A [`Kind::Conflict`] error.
        conflict => Conflict;
        /// A [`Kind::Usage`] error.
        usage => Usage;
        /// A [`Kind::Unverified`] error.
        unverified => Unverified;
    }

    /// The work was stopped by the user.
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted; nothing was written")
    }

    /// A state that the code rules out. `what` names the broken assumption, for the person who reads the report.
    ///
    /// Use it where a default value would hide the fault: an index that was checked before, a lookup of a key that
    /// was just inserted, a length that cannot overflow.
    pub fn internal(what: impl Into<String>) -> Self {
        let what = what.into();
        Self::new(Kind::Internal, format!("internal error: {what}; this is a bug in trinart-ckpt, please report it"))
    }

    /// A failed call to the operating system; `action` says what was attempted ("cannot open").
    pub fn io(action: &str, source: io::Error) -> Self {
        let mut error = Self::new(Kind::Io, format!("{action}: {source}"));
        error.0.source = Some(source);
        error
    }

    /// Adds what the caller could ask for to get past this error, unless an inner caller already did.
    #[must_use]
    pub fn with_hint(mut self, hint: Hint) -> Self {
        self.0.hint.get_or_insert(hint);
        self
    }

    /// What the caller could ask for to get past this error.
    pub fn hint(&self) -> Option<Hint> {
        self.0.hint
    }

    /// Names the file, unless an inner caller already did.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        self.0.file.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// Names the place that a file will have, where it was named by the one below `from` that it has for now.
    #[must_use]
    pub fn moved(mut self, from: &Path, to: &Path) -> Self {
        if let Some(rest) = self.0.file.as_deref().and_then(|file| file.strip_prefix(from).ok()) {
            self.0.file = Some(to.join(rest));
        }
        self
    }

    /// Names the record of a zip in which the offset counts, unless an inner caller already did.
    #[must_use]
    pub fn in_record(mut self, record: impl Into<String>) -> Self {
        self.0.record.get_or_insert_with(|| record.into());
        self
    }

    /// Names the tensor, unless an inner caller already did.
    #[must_use]
    pub fn in_tensor(mut self, key: impl Into<String>) -> Self {
        self.0.tensor.get_or_insert_with(|| key.into());
        self
    }

    /// Gives the byte offset: within the record, where one is named, else within the file.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Moves the byte offset: a part of a file knows its own offsets only.
    #[must_use]
    pub fn move_to(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Who must act.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The file it happened in.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The tensor it happened in.
    pub fn tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// What happened, without the place. Text of the file may be in it: not for a terminal as it is.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The byte it happened at.
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

/// Turns a value that must be there into a [`Kind::Internal`] error where it is not, rather than into a default.
pub trait OrInternal<T> {
    /// The value, or an internal error that names the broken assumption `what`.
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

/// Text from a file, made safe for a terminal and for one line: control characters (escape sequences, line breaks,
/// direction overrides) come out as `\u{…}`, everything else as it is. Cut after 300 characters.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut shown = String::with_capacity(text.len().min(LONGEST));
    for (count, character) in text.chars().enumerate() {
        if count == LONGEST {
            shown.push('…');
            break;
        }
        if is_unsafe_to_print(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// JSON made safe for a terminal: what [`printable`] escapes can only stand within its strings, and is escaped there.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unsafe_to_print(character) && character != '\n' {
            // None of them lies beyond the Basic Multilingual Plane, so one escape is enough.
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

fn is_unsafe_to_print(character: char) -> bool {
    // Besides the controls: the characters that reorder or hide text, which make a name look like another one.
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_place_before_message() {
        let error = Error::mismatch("shape [4], the checkpoint has [5]").at(12).in_tensor("a.weight").in_file("vae.pt");
        assert_eq!(error.to_string(), "vae.pt: tensor a.weight: byte 12: shape [4], the checkpoint has [5]");
    }

    #[test]
    fn an_internal_error_asks_for_a_report() {
        let error = None::<u8>.or_internal("storage 3 has no record").unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.to_string().starts_with("internal error: storage 3 has no record; this is a bug"), "{error}");
    }

    #[test]
    fn the_innermost_place_wins() {
        let error = Error::missing("x").in_file("inner").in_file("outer");
        assert_eq!(error.file(), Some(Path::new("inner")));
    }

    #[test]
    fn json_stays_json() {
        let text = "a\u{9b}31m\u{202e}\u{7f}é\n";
        let json = format!("{{\n  \"a\": {}\n}}\n", serde_json::Value::from(text));
        let shown = printable_json(&json);
        assert!(!shown.chars().any(|character| is_unsafe_to_print(character) && character != '\n'), "{shown:?}");
        let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read["a"], text);
    }

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let error = Error::malformed("found \x1b]0;owned\x07\nsecond line").in_tensor("a\u{202e}b");
        let line = error.to_string();
        assert!(!line.chars().any(is_unsafe_to_print), "{line:?}");
    }
}
