use std::fmt::Write;

use serde::Serialize;

use crate::error::{Error, Hint, printable};
use crate::format::Contents;
use crate::plan::{Change, Ledger, Outcome as Fate};
use crate::report::{ComponentSummary, count, size};

/// A value or tensor that is not in the output, and what it is.
#[derive(Debug, Clone, Serialize)]
pub struct LeftOut {
    /// Its path in the file.
    pub path: String,
    /// What it is, or why it is left out.
    pub what: String,
}

impl LeftOut {
    /// The opaque values of a file.
    pub fn opaque(contents: &Contents) -> Vec<Self> {
        let line =
            |opaque: &crate::format::OpaqueValue| LeftOut { path: opaque.path.clone(), what: opaque.what.clone() };
        contents.opaque.iter().map(line).collect()
    }

    /// The tensors of a file that no output can hold.
    pub fn unreadable(contents: &Contents) -> Vec<Self> {
        let line = |tensor: &crate::format::UnreadableTensor| LeftOut {
            path: tensor.key.clone(),
            what: tensor.reason.clone(),
        };
        contents.unreadable.iter().map(line).collect()
    }

    /// `callbacks (dict, pytorch_lightning.….ModelCheckpoint)`.
    pub fn to_text(&self) -> String {
        format!("{} ({})", printable(&self.path), printable(&self.what))
    }
}

/// What a command that writes a checkpoint did.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The file it came from.
    pub input: String,
    /// The file that was written.
    pub output: String,
    /// Its container.
    pub format: &'static str,
    /// Tensors in it.
    pub tensors: usize,
    /// Its bytes.
    pub bytes: u64,
    /// Nothing was written; this is what would have been.
    pub dry_run: bool,
    /// It was read again and found as planned.
    pub verified: bool,
    /// The merged autoencoder, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoencoder: Option<AutoencoderReport>,
    /// Values beside the tensors that are not in the output.
    pub left_out: Vec<LeftOut>,
    /// What else the user should know.
    pub notices: Vec<String>,
    /// Every key of every input, and what became of it.
    pub ledger: Ledger,
}

/// The autoencoder before and after a merge.
#[derive(Debug, Serialize)]
pub struct AutoencoderReport {
    /// The file it came from.
    pub file: String,
    /// That file's sha256.
    pub sha256: String,
    /// The published file it is, if it is one.
    pub published: Option<String>,
    /// Whether the sidecar beside the checkpoint was taken, none being named.
    pub sidecar: bool,
    /// The checkpoint's own, if it had one.
    pub before: Option<Side>,
    /// The output's.
    pub after: Side,
    /// Whether the merge changed anything.
    pub merged: Merged,
}

/// What a merge came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Merged {
    /// The autoencoder is another one now.
    Changed,
    /// It was the same before.
    Same,
}

/// An autoencoder in figures.
#[derive(Debug, Serialize)]
pub struct Side {
    /// Tensors, parameters, bytes, dtypes.
    #[serde(flatten)]
    pub summary: ComponentSummary,
    /// The hash of its tensors, the same in every container.
    pub content_hash: String,
}

impl Side {
    fn to_text(&self) -> String {
        let hash: String = self.content_hash.chars().take(16).collect();
        format!("{}, content {hash}", self.summary.to_text())
    }
}

impl Outcome {
    /// A few lines for people; a dry run lists every key.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let state = match (self.dry_run, self.verified) {
            (true, _) => "dry run, nothing was written",
            (false, true) => "verified",
            (false, false) => "not verified",
        };
        let (input, output) = (printable(&self.input), printable(&self.output));
        let tensors = count(self.tensors, "tensor");
        let _ = writeln!(out, "{input} -> {output}: {}, {tensors}, {}, {state}", self.format, size(self.bytes));
        if let Some(autoencoder) = &self.autoencoder {
            autoencoder.write_text(&mut out);
        }
        for (origin, fate, count) in self.ledger.summary() {
            let _ = writeln!(out, "  {:<12} {count:>5} {fate}", origin.name());
        }
        for left_out in &self.left_out {
            let _ = writeln!(out, "  left out     {}", left_out.to_text());
        }
        for notice in &self.notices {
            let _ = writeln!(out, "  note         {}", printable(notice));
        }
        if self.dry_run {
            self.write_ledger(&mut out);
        }
        out
    }

    fn write_ledger(&self, out: &mut String) {
        for line in self.ledger.lines() {
            let from = line.from.name();
            let fate = match &line.outcome {
                Fate::Written { key, changes } if changes.is_empty() && *key == line.input => "kept".to_owned(),
                Fate::Written { key, changes } => {
                    let words: Vec<String> = changes.iter().map(Change::word).collect();
                    format!("-> {} ({})", printable(key), words.join(", "))
                }
                Fate::Split { keys, changes } => {
                    let words: Vec<String> = changes.iter().map(Change::word).collect();
                    format!("-> {} ({})", printable(&keys.join(", ")), words.join(", "))
                }
                Fate::Replaced => "replaced".to_owned(),
                Fate::Dropped { reason } => format!("left out: {reason}"),
            };
            let _ = writeln!(out, "    {from} {}: {fate}", printable(&line.input));
        }
    }
}

impl AutoencoderReport {
    fn write_text(&self, out: &mut String) {
        let sidecar = if self.sidecar { ", the sidecar beside the checkpoint" } else { "" };
        let hash: String = self.sha256.chars().take(10).collect();
        let _ = writeln!(out, "  autoencoder  {} (sha256 {hash}{sidecar})", printable(&self.file));
        if let Some(published) = &self.published {
            let _ = writeln!(out, "  confirmed    {published}");
        }
        let before = self.before.as_ref().map_or_else(|| "none".to_owned(), Side::to_text);
        let _ = writeln!(out, "  before       {before}");
        let _ = writeln!(out, "  after        {}", self.after.to_text());
        if self.merged == Merged::Same {
            let _ = writeln!(out, "  note         the checkpoint had exactly this autoencoder already");
        }
    }
}

/// A failure as JSON.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Who must act.
    kind: &'static str,
    /// The whole line.
    message: String,
    file: Option<String>,
    tensor: Option<String>,
    offset: Option<u64>,
    /// What the caller can do about it.
    hint: Option<&'static str>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Failure {
            kind: error.kind().name(),
            message: error.to_string(),
            file: error.file().map(|file| file.to_string_lossy().into_owned()),
            tensor: error.tensor().map(str::to_owned),
            offset: error.offset(),
            hint: error.hint().map(Hint::name),
        }
    }
}
