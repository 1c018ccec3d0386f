use serde::Serialize;

use crate::models::published::Published;

/// A published file that an input is identical to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PublishedFile {
    /// The file name in the model repository.
    pub name: &'static str,
    /// Why the file was withdrawn, and what replaces it; `None` for files in use.
    pub withdrawn: Option<&'static str>,
}

impl PublishedFile {
    /// The name, and a warning if the file was withdrawn.
    pub fn to_text(self) -> String {
        match self.withdrawn {
            Some(reason) => format!("{} (WITHDRAWN: {reason})", self.name),
            None => self.name.to_owned(),
        }
    }
}

impl From<&Published> for PublishedFile {
    fn from(published: &Published) -> Self {
        PublishedFile { name: published.name, withdrawn: published.withdrawn }
    }
}
