use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Exit;
use super::args::Convert;
use super::terminal::Terminal;
use crate::error::{Error, Kind, Result};
use crate::format::Target;
use crate::plan::convert::{self, Cast};
use crate::report::{Failure, Outcome};

/// Converts each input; a failing one does not stop the others.
pub(super) fn run(command: &Convert, terminal: &Terminal) -> Exit {
    if let Err(error) = check_usage(command) {
        terminal.failure(&error);
        return Exit::Failed;
    }
    if let (Some(output), [input]) = (&command.output.output, command.inputs.as_slice()) {
        return match convert(command, input, output, terminal) {
            Ok(outcome) => {
                terminal.result(|| outcome.to_text(), &outcome);
                Exit::Yes
            }
            Err(error) => {
                terminal.failure(&error);
                Exit::from(&error)
            }
        };
    }
    let mut exit = Exit::Yes;
    let mut results = Vec::new();
    for input in &command.inputs {
        let result = output_in_folder(command, input).and_then(|output| convert(command, input, &output, terminal));
        let entry = match result {
            Ok(outcome) => Entry::Done(Box::new(outcome)),
            Err(error) => {
                exit = exit.max(Exit::from(&error));
                terminal.error(&error);
                let was_interrupted = error.kind() == Kind::Interrupted;
                results.push(Entry::failed(input, &error));
                if was_interrupted {
                    break;
                }
                continue;
            }
        };
        results.push(entry);
    }
    let document = Document { results };
    terminal.result(|| document.to_text(), &document);
    exit
}

fn check_usage(command: &Convert) -> Result<()> {
    if command.output.output.is_some() && command.inputs.len() > 1 {
        return Err(Error::usage("several inputs need --out-dir rather than --output"));
    }
    // Two inputs of one name would end in one file.
    let mut outputs: Vec<PathBuf> = Vec::new();
    if command.output.out_dir.is_some() {
        for input in &command.inputs {
            let output = output_in_folder(command, input)?;
            if outputs.contains(&output) {
                return Err(Error::conflict("two inputs would be written to it").in_file(output));
            }
            outputs.push(output);
        }
    }
    Ok(())
}

fn output_in_folder(command: &Convert, input: &Path) -> Result<PathBuf> {
    let stem = input.file_stem().ok_or_else(|| Error::usage("not the name of a file").in_file(input))?;
    let target: Option<Target> = command.writing.to.map(Into::into);
    let folder = command.output.out_dir.clone().unwrap_or_default();
    let mut name = stem.to_owned();
    name.push(".");
    name.push(target.map_or("safetensors", Target::name));
    Ok(folder.join(name))
}

fn convert(command: &Convert, input: &Path, output: &Path, terminal: &Terminal) -> Result<Outcome> {
    let writing = &command.writing;
    writing.target(output)?;
    let checkpoint = writing.open(input)?;
    writing.check_destination(output)?;
    let cast = writing.dtype.map(|to| Cast { to: to.into(), overflow: writing.overflow() });
    let resolved = convert::plan(&checkpoint, cast)?;
    writing.write(&checkpoint, output, &resolved, terminal)
}

/// The result of several inputs.
#[derive(Serialize)]
struct Document {
    results: Vec<Entry>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Done(Box<Outcome>),
    Failed { input: String, error: Failure },
}

impl Entry {
    fn failed(input: &Path, error: &Error) -> Self {
        Entry::Failed { input: input.to_string_lossy().into_owned(), error: error.into() }
    }
}

impl Document {
    fn to_text(&self) -> String {
        let done = |entry: &Entry| match entry {
            Entry::Done(outcome) => outcome.to_text(),
            Entry::Failed { .. } => String::new(),
        };
        self.results.iter().map(done).collect()
    }
}
