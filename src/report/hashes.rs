use std::fmt::Write;
use std::path::Path;

use indexmap::IndexMap;
use serde::Serialize;

use crate::formats::error::printable;
use crate::models::Component;
use crate::models::hash::FileHashes;
use crate::models::published::Published;
use crate::report::published_file::PublishedFile;
use crate::report::write_report::LeftOut;

/// The hashes of one file.
#[derive(Debug, Serialize)]
pub struct Hashes {
    file: String,
    /// The sha256 of the file. Folders have none.
    sha256: Option<String>,
    autov2: Option<String>,
    autov3: Option<String>,
    legacy: Option<String>,
    /// The published file that has this hash.
    published: Option<PublishedFile>,
    /// The content hash of each component.
    components: IndexMap<Component, String>,
    /// Tensors that cannot be read, so that no hash covers them.
    unreadable: Vec<LeftOut>,
}

impl Hashes {
    /// Combines the hashes of a file and of its components.
    pub fn new(
        path: &Path,
        file: Option<FileHashes>,
        published: Option<&'static Published>,
        components: Vec<(Component, String)>,
        unreadable: Vec<LeftOut>,
    ) -> Self {
        Hashes {
            file: path.to_string_lossy().into_owned(),
            autov2: file.as_ref().map(|file| file.autov2().to_owned()),
            sha256: file.as_ref().map(|file| file.sha256.clone()),
            autov3: file.as_ref().and_then(|file| file.autov3.clone()),
            legacy: file.map(|file| file.legacy),
            published: published.map(PublishedFile::from),
            components: components.into_iter().collect(),
            unreadable,
        }
    }

    /// Formats the hashes, one per line.
    pub fn to_text(&self) -> String {
        let mut out = format!("{}\n", printable(&self.file));
        let mut line = |label: &str, text: &str| {
            let _ = writeln!(out, "  {label:<17} {text}");
        };
        let of_file = [
            ("sha256", &self.sha256),
            ("AutoV2", &self.autov2),
            ("AutoV3", &self.autov3),
            ("legacy hash", &self.legacy),
        ];
        for (name, hash) in of_file {
            if let Some(hash) = hash {
                line(name, hash);
            }
        }
        if let Some(published) = &self.published {
            line("published as", &published.to_text());
        }
        for (component, hash) in &self.components {
            line(component.text(), hash);
        }
        for tensor in &self.unreadable {
            line("not hashed", &tensor.to_text());
        }
        out
    }
}
