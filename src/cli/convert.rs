use std::path::{Path, PathBuf};

use super::Exit;
use super::args::Convert;
use super::each::{Names, each};
use super::output::conclude;
use super::terminal::Terminal;
use crate::formats::error::{Error, Result};
use crate::formats::containers::Target;
use crate::models::plan::convert::{self, Options};
use crate::models::plan::{Cast, Origin, translate};
use crate::report::WriteReport;

/// Converts each input; a failing one does not stop the others.
pub(super) fn run(command: &Convert, terminal: &Terminal) -> Exit {
    if let Err(error) = check_usage(command) {
        terminal.failure(&error);
        return Exit::Failed;
    }
    if let (Some(output), [input]) = (&command.output.output, command.inputs.as_slice()) {
        return conclude(convert(command, input, output, terminal), terminal);
    }
    let names = Names { list: "results", file: "input", between: "" };
    let work = |input: &Path| convert(command, input, &output_in_folder(command, input)?, terminal);
    each(&command.inputs, &names, terminal, work, WriteReport::to_text)
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
    if target != Some(Target::Diffusers) {
        name.push(".");
        name.push(target.map_or("safetensors", Target::name));
    }
    Ok(folder.join(name))
}

fn convert(command: &Convert, input: &Path, output: &Path, terminal: &Terminal) -> Result<WriteReport> {
    let writing = &command.writing;
    let target = writing.target(output)?;
    let (checkpoint, translation) = translate::to_ldm(writing.open(input)?)?;
    writing.check_destination(output)?;
    let cast = writing.dtype.map(|to| Cast { to: to.into(), overflow: writing.overflow() });
    let options = Options {
        cast,
        ema: command.ema.map(Into::into),
        prune: command.prune,
        component: command.component.map(Into::into),
        fix_position_ids: command.fix_position_ids,
    };
    let mut resolved = convert::plan(&checkpoint, &options)?;
    translation.trace_back(Origin::Checkpoint, &mut resolved.ledger);
    resolved.notices.extend(translation.notices);
    if target != Target::Diffusers {
        resolved.notices.extend(translation.single_file_notices);
    }
    writing.write(&checkpoint, output, resolved, terminal)
}
