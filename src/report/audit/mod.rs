//! The report of an audit: a row for each file, and the findings.

mod file;
mod finding;
mod html;
mod line;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

pub use file::{AuditedFile, AuditedHashes, VaeState};
pub use finding::{AuditFinding, FindingCode, Remedy};
pub use line::{AuditLine, AuditSummary, LineFile};

use crate::report::colors::{BAD, Colors, DOUBTFUL};
use crate::report::units::{count, size};
use trinart_ckpt_formats::error::printable;

/// Characters of a path and of a kind that the table shows; longer ones lose their beginning or end.
const PATH: usize = 44;
const KIND: usize = 26;

/// The report of an [`Audit`](crate::ops::Audit).
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditReport {
    /// The checkpoints and other model files, sorted by path.
    pub files: Vec<AuditedFile>,
    /// The findings, the worst first.
    pub findings: Vec<AuditFinding>,
    /// The size of all files in bytes.
    pub bytes: u64,
    /// Whether all values were read.
    pub deep: bool,
    /// The number of files whose results were remembered from an earlier run.
    pub remembered: usize,
}

/// Returns the command that applies a remedy to a file. Returns `None` if no command does.
pub type RemedyWords<'a> = &'a dyn Fn(&str, &Remedy) -> Option<String>;

impl AuditReport {
    /// Adds the commands of the remedies.
    #[must_use]
    pub fn with_commands(mut self, words: RemedyWords<'_>) -> Self {
        for finding in &mut self.findings {
            finding.command = finding.remedy.as_ref().and_then(|remedy| words(&finding.file, remedy));
        }
        self
    }

    /// Formats the table, the findings and the numbers. `only_problems` leaves out the rows of files without a finding.
    pub fn to_text_with(&self, only_problems: bool, colors: Colors) -> String {
        let mut of_file: BTreeMap<&str, Vec<&AuditFinding>> = BTreeMap::new();
        for finding in &self.findings {
            of_file.entry(&finding.file).or_default().push(finding);
        }
        let mut out = String::new();
        let mut rows = Vec::new();
        for row in self.files.iter().filter(|row| !only_problems || of_file.contains_key(row.file.as_str())) {
            let found = of_file.get(row.file.as_str()).map_or("", |_| "!");
            let numbers = of_file.get(row.file.as_str()).map_or(0, Vec::len);
            let found = if numbers > 0 { colors.paint(&format!("{found} {numbers}"), DOUBTFUL) } else { String::new() };
            let ema = if row.ema_bytes > 0 { size(row.ema_bytes) } else { "-".to_owned() };
            let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            rows.push([
                tail(&printable(&row.file), PATH),
                head(&or_dash(&row.kind), KIND),
                or_dash(&row.architecture),
                or_dash(&row.dtype),
                size(row.bytes),
                row.vae.text().to_owned(),
                ema,
                or_dash(&row.prediction),
                found,
            ]);
        }
        write_rows(&mut out, rows);
        for (file, findings) in self.by_file() {
            let _ = writeln!(out, "\n{}", printable(file));
            for finding in findings {
                let is_bad = matches!(finding.code, FindingCode::DangerousPickle | FindingCode::Damaged);
                let style = if is_bad { BAD } else { DOUBTFUL };
                let code = colors.paint(&format!("{:<17}", finding.code.name()), style);
                let _ = writeln!(out, "  {code} {}", printable(&finding.text));
                if let Some(command) = &finding.command {
                    let _ = writeln!(out, "  {:<17} > {}", "", printable(command));
                }
            }
        }
        if !self.findings.is_empty() {
            out.push('\n');
        }
        let depth = if self.deep { "all values read" } else { "headers only" };
        let remembered = match self.remembered {
            0 => String::new(),
            some => format!(", {some} remembered"),
        };
        let saves: u64 = self.findings.iter().filter_map(|finding| finding.saves).fold(0, u64::saturating_add);
        let saves = if saves > 0 { format!("; {} can be saved", size(saves)) } else { String::new() };
        let (files, found) = (count(self.files.len(), "file"), count(self.findings.len(), "finding"));
        let _ = writeln!(out, "{files}, {}, {depth}{remembered}: {found}{saves}", size(self.bytes));
        out
    }

    /// The findings of each file, in the order of the worst of each.
    fn by_file(&self) -> Vec<(&str, Vec<&AuditFinding>)> {
        let mut groups: Vec<(&str, Vec<&AuditFinding>)> = Vec::new();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &self.findings {
            let place = *places.entry(&finding.file).or_insert_with(|| {
                groups.push((&finding.file, Vec::new()));
                groups.len() - 1
            });
            if let Some((_, group)) = groups.get_mut(place) {
                group.push(finding);
            }
        }
        groups
    }
}

/// The header of each column, and the least width. A wider text widens its column, but for the last one.
const COLUMNS: [(&str, usize); 9] = [
    ("file", PATH),
    ("kind", 18),
    ("architecture", 14),
    ("dtype", 8),
    ("size", 8),
    ("VAE", 6),
    ("EMA", 8),
    ("prediction", 12),
    ("findings", 0),
];

/// Writes the header and the rows of the table; nothing without rows.
fn write_rows(out: &mut String, rows: Vec<[String; 9]>) {
    if rows.is_empty() {
        return;
    }
    let mut widths = COLUMNS.map(|(_, least)| least);
    for row in &rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    let header = COLUMNS.map(|(name, _)| name.to_owned());
    for [file, kind, architecture, dtype, size, vae, ema, prediction, found] in std::iter::once(header).chain(rows) {
        let [path, of_kind, of_architecture, of_dtype, of_size, of_vae, of_ema, of_prediction, _] = widths;
        let line = format!(
            "{file:<path$}  {kind:<of_kind$}  {architecture:<of_architecture$}  {dtype:<of_dtype$}  {size:>of_size$}  \
             {vae:<of_vae$}  {ema:>of_ema$}  {prediction:<of_prediction$}  {found}"
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// The end of a text, if it is too long.
fn tail(text: &str, most: usize) -> String {
    let long = text.chars().count().checked_sub(most).filter(|more| *more > 0);
    long.map_or_else(|| text.to_owned(), |more| format!("…{}", text.chars().skip(more + 1).collect::<String>()))
}

/// The beginning of a text, if it is too long.
fn head(text: &str, most: usize) -> String {
    let is_long = text.chars().count() > most;
    if is_long { text.chars().take(most - 1).chain(['…']).collect() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_models::family::Architecture;
    use trinart_ckpt_models::file_kind::Model;

    /// Each column begins where its header does, whatever the names of architectures and models in the rows.
    #[test]
    fn columns_fit_every_name_that_stands_in_them() {
        let row = |architecture: &str| {
            ["a.safetensors", "checkpoint", architecture, "F16", "2.13 GB", "own", "-", "epsilon", "! 1"]
                .map(str::to_owned)
        };
        let names = Architecture::ALL.iter().map(|it| it.text()).chain(Model::ALL.iter().map(|it| it.text()));
        let mut out = String::new();
        write_rows(&mut out, names.map(row).collect());
        let at = |line: &str, text: &str| line.find(text).map(|at| line[..at].chars().count());
        let header = out.lines().next().unwrap();
        for line in out.lines().skip(1) {
            for (column, text) in [("dtype", "F16  "), ("VAE", "own "), ("prediction", "epsilon"), ("findings", "! 1")]
            {
                assert_eq!(at(line, text), at(header, column), "{column}: {line}");
            }
        }
        // A table of short names stays narrow.
        let mut short = String::new();
        write_rows(&mut short, vec![row("SD v1")]);
        assert!(short.lines().next().unwrap().chars().count() < header.chars().count(), "{short}");
    }
}
