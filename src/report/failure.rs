use serde::Serialize;

use trinart_ckpt_formats::error::{Error, Hint, Kind};

/// An error as JSON.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Failure {
    /// The kind of error.
    pub kind: Kind,
    /// The whole message, on one line.
    pub message: String,
    /// The file that the error is in.
    pub file: Option<String>,
    /// The zip record or pickle within the file that the error is in.
    pub record: Option<String>,
    /// The tensor that the error is in.
    pub tensor: Option<String>,
    /// The offset of the error in bytes, relative to `record` if there is one, otherwise to the file.
    pub offset: Option<u64>,
    /// What the caller can do about it.
    pub hint: Option<Hint>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Failure {
            kind: error.kind(),
            message: error.to_string(),
            file: error.file().map(|file| file.to_string_lossy().into_owned()),
            record: error.record().map(str::to_owned),
            tensor: error.tensor().map(str::to_owned),
            offset: error.offset(),
            hint: error.hint(),
        }
    }
}
