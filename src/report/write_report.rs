use std::fmt::Write;

use serde::Serialize;

use crate::report::components::ComponentSummary;
use crate::report::tip::{NO_TIPS, Tip, TipWords, ending};
use crate::report::units::{count, size};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::containers::{OpaqueValue, Target, UnreadableTensor};
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::tensor::NonFiniteTensor;
use trinart_ckpt_models::Notice;
use trinart_ckpt_models::ledger::{Change, Disposition, Ledger, Origin};
use trinart_ckpt_models::plan::repair::Repair;
use trinart_ckpt_models::published::PublishedFile;

/// A value or tensor that is not in the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LeftOut {
    /// The path in the file.
    pub path: String,
    /// What it is, or why it is left out.
    pub what: String,
}

impl LeftOut {
    /// Lists the opaque values of a file.
    pub(crate) fn opaque(checkpoint: &StoredCheckpoint) -> Vec<Self> {
        let line = |value: &OpaqueValue| LeftOut { path: value.path.clone(), what: value.what.clone() };
        checkpoint.opaque().iter().map(line).collect()
    }

    /// Lists the tensors of a file that cannot be read.
    pub(crate) fn unreadable(checkpoint: &StoredCheckpoint) -> Vec<Self> {
        let line = |tensor: &UnreadableTensor| LeftOut { path: tensor.key.clone(), what: tensor.reason.clone() };
        checkpoint.unreadable().iter().map(line).collect()
    }

    /// `callbacks (dict, pytorch_lightning.….ModelCheckpoint)`.
    pub fn to_text(&self) -> String {
        format!("{} ({})", printable(&self.path), printable(&self.what))
    }
}

/// The result of writing a checkpoint, or of planning to.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct WriteReport {
    /// The input path.
    pub input: String,
    /// The output path.
    pub output: String,
    /// The output format.
    pub format: Target,
    /// The number of tensors in the output.
    pub tensors: usize,
    /// The size of the output in bytes.
    pub bytes: u64,
    /// Whether this was a dry run: nothing was written.
    pub dry_run: bool,
    /// Whether the output was read back and compared with the plan.
    pub verified: bool,
    /// The sha256 of the output, computed when it was read back; `None` for folders, and without verification.
    pub sha256: Option<String>,
    /// The paths of other files that were written: the `.yaml` beside a checkpoint that WebUI needs.
    pub also_wrote: Vec<String>,
    /// The merge of a VAE, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<VaeReport>,
    /// The components that come from other files, if there are some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<PartReport>,
    /// The repairs, if they were requested; empty for a file without defects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repairs: Option<Vec<Repair>>,
    /// Values that are not in the output.
    pub left_out: Vec<LeftOut>,
    /// The tensors of the output with NaN or infinite values. Empty for a dry run, which reads none.
    pub non_finite: Vec<NonFiniteTensor>,
    /// Further facts the user should know.
    pub notices: Vec<Notice>,
    /// The disposition of each key of each input.
    pub ledger: Ledger,
}

/// A component that comes from another file than the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PartReport {
    /// The component, as the ledger names it.
    pub component: Origin,
    /// The file or folder.
    pub file: String,
    /// The sha256 of each file that holds the component.
    pub sha256: Vec<String>,
}

impl PartReport {
    fn write_text(&self, out: &mut String) {
        let short = |hash: &String| hash.chars().take(10).collect::<String>();
        let hashes: Vec<String> = self.sha256.iter().map(short).collect();
        let _ =
            writeln!(out, "  {:<12} {} (sha256 {})", self.component.text(), printable(&self.file), hashes.join(", "));
    }
}

/// The VAE before and after a merge.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct VaeReport {
    /// The VAE file.
    pub file: String,
    /// The sha256 of the VAE file; of shards, that of all their bytes in their order.
    pub sha256: String,
    /// The published file with this hash.
    pub published: Option<&'static PublishedFile>,
    /// Whether the file is a sidecar that was found beside the checkpoint.
    pub sidecar: bool,
    /// The checkpoint's own VAE, if it had one.
    pub before: Option<VaeSummary>,
    /// The VAE of the output.
    pub after: VaeSummary,
    /// Whether the merge changed the VAE.
    pub merged: Merged,
}

/// The effect of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum Merged {
    /// The VAE changed.
    Changed,
    /// The checkpoint already had this VAE.
    Same,
}

/// The figures of a VAE.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct VaeSummary {
    /// Tensors, parameters, bytes, dtypes.
    #[serde(flatten)]
    pub summary: ComponentSummary,
    /// The content hash, which does not depend on the container.
    pub content_hash: String,
}

impl VaeSummary {
    fn to_text(&self) -> String {
        let hash: String = self.content_hash.chars().take(16).collect();
        format!("{}, content {hash}", self.summary.to_text())
    }
}

impl WriteReport {
    /// Formats a few lines.
    pub fn to_text(&self) -> String {
        self.to_text_with(NO_TIPS)
    }

    /// `model.ckpt -> model.safetensors: safetensors, 1145 tensors, 1.01 MB, verified`, on a line.
    fn first_line(&self) -> String {
        let state = match (self.dry_run, self.verified) {
            (true, _) => "dry run, nothing written",
            (false, true) => "verified",
            (false, false) => "not verified",
        };
        let (input, output) = (printable(&self.input), printable(&self.output));
        let tensors = count(self.tensors, "tensor");
        format!("{input} -> {output}: {}, {tensors}, {}, {state}\n", self.format.name(), size(self.bytes))
    }

    /// Formats the first line and the notices, for one output of many.
    pub(crate) fn summary_with(&self, words: TipWords<'_>) -> String {
        let mut out = self.first_line();
        self.write_notices(&mut out, words);
        out
    }

    fn write_notices(&self, out: &mut String, words: TipWords<'_>) {
        for notice in &self.notices {
            let ending = ending(Tip::Notice(notice.code), words);
            let _ = writeln!(out, "  note         {}{ending}", printable(&notice.text));
        }
    }

    /// Formats the report as [`Self::to_text`], with these words for tips.
    pub fn to_text_with(&self, words: TipWords<'_>) -> String {
        let mut out = self.first_line();
        if let Some(sha256) = &self.sha256 {
            let _ = writeln!(out, "  sha256       {sha256}");
        }
        match self.repairs.as_deref() {
            Some([]) => out.push_str("  repaired     nothing: the file has no defect that a repair removes\n"),
            Some(repairs) => {
                for repair in repairs {
                    let _ = writeln!(out, "  repaired     {}", printable(&repair.to_text()));
                }
            }
            None => {}
        }
        for part in self.replaced.iter().filter(|part| part.component != Origin::Vae) {
            part.write_text(&mut out);
        }
        if let Some(vae) = &self.vae {
            vae.write_text(&mut out);
        }
        for (origin, disposition, count) in self.ledger.summary() {
            let _ = writeln!(out, "  {:<12} {count:>5} {disposition}", origin.text());
        }
        for path in &self.also_wrote {
            let _ = writeln!(out, "  also wrote   {}", printable(path));
        }
        for left_out in &self.left_out {
            let _ = writeln!(out, "  left out     {}", left_out.to_text());
        }
        self.write_notices(&mut out, words);
        out
    }

    /// Formats what becomes of each tensor of each input, one per line.
    pub fn ledger_to_text(&self) -> String {
        let mut out = String::new();
        for line in self.ledger.lines() {
            let from = line.from.text();
            let disposition = match &line.disposition {
                Disposition::Written { key, changes } if changes.is_empty() && *key == line.input => "kept".to_owned(),
                Disposition::Written { key, changes } => {
                    let words: Vec<String> = changes.iter().map(Change::text).collect();
                    format!("-> {} ({})", printable(key), words.join(", "))
                }
                Disposition::Split { keys, changes } => {
                    let words: Vec<String> = changes.iter().map(Change::text).collect();
                    format!("-> {} ({})", printable(&keys.join(", ")), words.join(", "))
                }
                Disposition::Replaced => "replaced".to_owned(),
                Disposition::Dropped { reason } => format!("left out: {}", reason.text()),
            };
            let _ = writeln!(out, "    {from} {}: {disposition}", printable(&line.input));
        }
        out
    }
}

impl VaeReport {
    fn write_text(&self, out: &mut String) {
        let sidecar = if self.sidecar { ", sidecar of the checkpoint" } else { "" };
        let hash: String = self.sha256.chars().take(10).collect();
        let _ = writeln!(out, "  VAE          {} (sha256 {hash}{sidecar})", printable(&self.file));
        if let Some(published) = &self.published {
            let label = if published.withdrawn.is_some() { "published" } else { "confirmed" };
            let _ = writeln!(out, "  {label}    {}", published.to_text());
        }
        let before = self.before.as_ref().map_or_else(|| "none".to_owned(), VaeSummary::to_text);
        let _ = writeln!(out, "  before       {before}");
        let _ = writeln!(out, "  after        {}", self.after.to_text());
        if self.merged == Merged::Same {
            let _ = writeln!(out, "  note         the checkpoint already had this VAE");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_models::{Component, published};

    #[test]
    fn confirms_no_withdrawn_vae() {
        let text = |sha256: &str| {
            let summary = ComponentSummary::new(Component::Vae, std::iter::empty());
            let report = VaeReport {
                file: "vae.ckpt".to_owned(),
                sha256: sha256.to_owned(),
                published: published::identify(404_661_793, sha256),
                sidecar: false,
                before: None,
                after: VaeSummary { summary, content_hash: String::new() },
                merged: Merged::Changed,
            };
            let mut out = String::new();
            report.write_text(&mut out);
            out
        };
        let right = text("2453b80bc1716bc3f94496d4e56be891e267051dc43c5144f384b66a73ac8295");
        assert!(right.contains("  confirmed    autoencoder_fix_kl-f8"), "{right}");
        let wrong = text("d2dd1c82220e31a72bd9958dda249ed7f94faf875d5123ae3aab7a1950a82a8f");
        assert!(wrong.contains("  published    autoencoder_kl-f8") && wrong.contains("WITHDRAWN"), "{wrong}");
        assert!(!wrong.contains("confirmed"), "{wrong}");
    }
}
