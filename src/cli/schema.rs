//! The JSON Schemas of what the commands print with `--json`.

#![expect(dead_code, reason = "the types describe what others print")]

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use super::completions::Script;
use super::envelopes::{BatchReport, ErrorReport, FileEntry, FileList, SummaryLine};
use super::man::Pages;
use crate::report::{
    AuditLine, AuditReport, AuditSummary, BatchOutcome, BatchSummary, Difference, FileDifference, FolderDifference,
    FolderDifferenceSummary, Hashes, Inspection, ScanReport, ScanSummary, ScannedFile,
};

/// The name and version of the format.
#[derive(JsonSchema)]
enum Version {
    #[schemars(rename = "trinart-ckpt/1")]
    One,
}

/// One document, or one line of several.
#[derive(JsonSchema)]
struct Printed<T> {
    /// The name and version of the format, which changes when a field changes its meaning or disappears.
    schema: Version,
    #[schemars(flatten)]
    content: T,
}

/// A command with one result.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Single<D> {
    Result(D),
    Error(ErrorReport),
}

/// A command with a result for each file: one document of all, or a line for each.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Listed<R> {
    Document(FileList<R>),
    Line(FileEntry<R>),
    Error(ErrorReport),
}

/// A command with a result for each file, and a summary.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Summed<D, L, S: 'static> {
    Document(D),
    Line(L),
    Summary(SummaryLine<'static, S>),
    Error(ErrorReport),
}

/// The comparison of two files, or of two folders.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Compared {
    Files(Difference),
    Folders(FolderDifference),
}

/// Returns the JSON Schema of the output of each command with `--json`, by the name of the command.
pub fn schemas() -> Vec<(&'static str, Schema)> {
    type Written = Summed<BatchReport<'static>, BatchOutcome, BatchSummary>;
    vec![
        ("merge-vae", of::<Written>("merge-vae")),
        ("convert", of::<Written>("convert")),
        ("audit", of::<Summed<AuditReport, AuditLine<'static>, AuditSummary>>("audit")),
        ("inspect", of::<Listed<Inspection>>("inspect")),
        ("diff", of::<Summed<Compared, FileDifference, FolderDifferenceSummary<'static>>>("diff")),
        ("hash", of::<Listed<Hashes>>("hash")),
        ("scan", of::<Summed<ScanReport, ScannedFile, ScanSummary>>("scan")),
        #[cfg(feature = "render")]
        ("render-check", of::<Listed<crate::report::RenderCheckReport>>("render-check")),
        ("completions", of::<Single<Script>>("completions")),
        ("man", of::<Single<Pages>>("man")),
    ]
}

fn of<T: JsonSchema>(command: &str) -> Schema {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Printed<T>>();
    schema.insert("title".to_owned(), format!("trinart-ckpt {command} --json: one document or line").into());
    without_links(&mut schema);
    schema
}

/// Removes the links of rustdoc from descriptions: `[`Name`](path)` becomes `Name` in backquotes.
fn without_links(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        while let Some((before, rest)) = text.split_once("[`") {
            let (name, after) = rest.split_once("`]").unwrap_or((rest, ""));
            let target = after.strip_prefix('(').and_then(|link| link.split_once(')'));
            *text = format!("{before}`{name}`{}", target.map_or(after, |(_, after)| after));
        }
    }
    transform_subschemas(&mut without_links, schema);
}
