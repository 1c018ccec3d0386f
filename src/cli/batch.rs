//! The commands that write an output for each of many inputs.

use std::path::{Path, PathBuf};

use super::args::{OutputFileOrFolder, Writing};
use super::envelopes::BatchReport;
use super::exit::Exit;
use super::hints;
use super::progress::Queue;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use crate::ops::{Batch, Destination, Existing, Input, Inputs, resolve_output, version_of};
use crate::report::{BatchOutcome, WriteReport};
use trinart_ckpt_formats::Target;
use trinart_ckpt_formats::error::{Error, Kind, Result};
use trinart_ckpt_models::Checkpoint;

/// What a command writes where.
pub(super) struct Outputs<'a> {
    pub inputs: &'a [PathBuf],
    pub output: &'a OutputFileOrFolder,
    pub writing: &'a Writing,
    /// What decides the content of the outputs, beside the inputs.
    pub recipe: String,
    /// Whether VAEs are merged into the inputs, and whether they are those beside them.
    pub merges_vae: bool,
    pub reads_vae: bool,
}

/// The versions of files that decide what the outputs contain, beside the inputs. Empty without `--update`, which compares
/// them. What cannot be read is an error when it is opened.
pub(super) fn versions<'a>(output: &OutputFileOrFolder, files: impl IntoIterator<Item = &'a PathBuf>) -> String {
    let files = files.into_iter().filter(|_| output.update);
    files.map(|file| version_of(file).unwrap_or_default()).collect::<Vec<_>>().join(" ")
}

impl Outputs<'_> {
    /// Runs `work` on each input with the destination of its output, and prints the results.
    pub(super) fn run(
        &self,
        terminal: &Terminal,
        work: impl Fn(Option<&Input>, &Destination<'_>) -> Result<BatchOutcome>,
    ) -> Exit {
        match &self.output.out_dir {
            Some(folder) => self.many(folder, terminal, work),
            None => self.one(terminal, work),
        }
    }

    fn one(
        &self,
        terminal: &Terminal,
        work: impl Fn(Option<&Input>, &Destination<'_>) -> Result<BatchOutcome>,
    ) -> Exit {
        let result = self.single().and_then(|(input, output)| match input {
            Some(input) => {
                let (folder, inputs) = (output.parent().unwrap_or(Path::new("")), Inputs::default());
                self.batch(&inputs, folder).run_one(&input, &output, |input, to| work(Some(input), to))
            }
            None if self.output.update || self.output.skip_existing => {
                Err(Error::usage("--update and --skip-existing need an input that the output is made of"))
            }
            None => work(None, &Destination::new(&output, self.writing.force)),
        });
        let text = |outcome: &BatchOutcome| match outcome {
            BatchOutcome::Written(report) => self.text(report),
            other => other.to_text(&hints::tip),
        };
        terminal.finish(result, text, |_| Exit::Success)
    }

    /// The only input, and its output.
    fn single(&self) -> Result<(Option<Input>, PathBuf)> {
        let output = self.output.output.as_ref().ok_or_else(|| Error::usage("no output is given"))?;
        let Some(only) = self.inputs.first() else { return Ok((None, output.clone())) };
        if self.inputs.len() > 1 {
            return Err(Error::usage("--output takes one input; use --out-dir for several"));
        }
        let mut inputs = Inputs::list([only]);
        match (inputs.errors.pop(), inputs.files.as_slice()) {
            (Some(error), _) => Err(error),
            (None, [input]) if !input.is_found => {
                let format = self.writing.to.map(Into::into);
                let output = resolve_output(output, Some(&input.path), format)?;
                Ok((Some(input.clone()), output))
            }
            (None, files) => {
                // The folder of a component that no Stable Diffusion has.
                if only.join("config.json").is_file() {
                    Checkpoint::open(only)?;
                }
                let there = match files.len() {
                    1 => "there is 1 checkpoint".to_owned(),
                    count => format!("there are {count} checkpoints"),
                };
                let found = format!(
                    "a folder without model_index.json or config.json, in which {there}; --output takes one, use --out-dir"
                );
                Err(Error::usage(found).in_file(only))
            }
        }
    }

    fn text(&self, report: &WriteReport) -> String {
        let ledger = if self.writing.verbose { report.ledger_to_text() } else { String::new() };
        report.to_text_with(&hints::tip) + &ledger
    }

    /// What becomes of outputs in a folder.
    fn batch<'i>(&self, inputs: &'i Inputs, folder: &Path) -> Batch<'i> {
        let existing = match (self.writing.force, self.output.skip_existing, self.output.update) {
            (true, ..) => Existing::Replace,
            (_, true, _) => Existing::Skip,
            (_, _, true) => Existing::Update,
            _ => Existing::Refuse,
        };
        let format: Option<Target> = self.writing.to.map(Into::into);
        Batch::new(inputs, folder)
            .set_if_some(format, Batch::format)
            .existing(existing)
            .recipe(&self.recipe)
            .carry_sidecars(self.output.sidecars.is_some())
            .merges_vae(self.merges_vae)
            .reads_vae(self.reads_vae)
            .dry_run(self.writing.dry_run)
    }

    fn many(
        &self,
        folder: &Path,
        terminal: &Terminal,
        work: impl Fn(Option<&Input>, &Destination<'_>) -> Result<BatchOutcome>,
    ) -> Exit {
        let inputs = Inputs::list(self.inputs).without_below(folder);
        terminal.expect_several(inputs.are_several());
        let batch = self.batch(&inputs, folder);
        let mut queue = Queue::new(&inputs, terminal);
        let (mut exit, mut results) = (Exit::Success, Vec::new());
        let summary = batch.run(
            |input, to| {
                queue.next(&input.path);
                work(Some(input), to)
            },
            |outcome| {
                if let BatchOutcome::Failed { error, .. } = outcome {
                    exit = exit.max(if error.kind == Kind::Unverified { Exit::Negative } else { Exit::Error });
                    terminal.failed(error);
                }
                match outcome {
                    _ if terminal.is_lines() => terminal.line(outcome),
                    _ if terminal.is_json() => results.push(outcome.clone()),
                    BatchOutcome::Written(report) if self.writing.verbose => terminal.text(|| self.text(report)),
                    _ => terminal.text(|| outcome.to_text(&hints::tip)),
                }
            },
        );
        terminal.text(|| summary.to_text());
        match terminal.is_lines() {
            true => terminal.summary(&summary),
            false => terminal.document(&BatchReport { results, summary: &summary }),
        }
        exit
    }
}
