//! The command `convert`.

use std::path::{Path, PathBuf};

use super::args::Convert as Command;
use super::each::{Names, each};
use super::exit::Exit;
use super::hints;
use super::output::set_writing_options;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use crate::ops::Convert;
use crate::report::WriteReport;
use trinart_ckpt_formats::containers::Target;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_models::Checkpoint;

/// Converts each input. An input that fails does not stop the others.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    if let Err(error) = check_usage(command) {
        terminal.failure(&error);
        return Exit::Error;
    }
    let text = |report: &WriteReport| report.to_text_with(&hints::tip);
    if let (Some(output), [input]) = (&command.output.output, command.inputs.as_slice()) {
        let result = convert(command, input, output, terminal);
        return terminal.finish(result, text, |_| Exit::Success);
    }
    let names = Names { list: "results", file: "input", between: "" };
    let work = |input: &Path| convert(command, input, &output_in_folder(command, input)?, terminal);
    each(&command.inputs, &names, terminal, work, text)
}

fn check_usage(command: &Command) -> Result<()> {
    if command.output.output.is_some() && command.inputs.len() > 1 {
        return Err(Error::usage("--output takes one input; use --out-dir for several"));
    }
    // Two inputs with the same name would be written to the same file.
    let mut outputs: Vec<PathBuf> = Vec::new();
    if command.output.out_dir.is_some() {
        for input in &command.inputs {
            let output = output_in_folder(command, input)?;
            if outputs.contains(&output) {
                return Err(Error::conflict("two inputs would be written to this path").in_file(output));
            }
            outputs.push(output);
        }
    }
    Ok(())
}

fn output_in_folder(command: &Command, input: &Path) -> Result<PathBuf> {
    let stem = input.file_stem().ok_or_else(|| Error::usage("the path has no file name").in_file(input))?;
    let target: Option<Target> = command.writing.to.map(Into::into);
    let folder = command.output.out_dir.as_ref().or_internal("an output folder without --out-dir")?;
    let mut name = stem.to_owned();
    if target != Some(Target::Diffusers) {
        name.push(".");
        name.push(target.map_or("safetensors", Target::name));
    }
    Ok(folder.join(name))
}

fn convert(command: &Command, input: &Path, output: &Path, terminal: &Terminal) -> Result<WriteReport> {
    let checkpoint = Checkpoint::open_with(input, &command.reading.open_options())?;
    let convert = set_writing_options!(Convert::new(&checkpoint), command, terminal)
        .set_if_some(command.ema.map(Into::into), Convert::ema)
        .set_if_some(command.component.map(Into::into), Convert::component)
        .set_if_some(command.unet_dtype, Convert::unet_dtype)
        .set_if_some(command.vae_dtype, Convert::vae_dtype)
        .set_if_some(command.text_encoder_dtype, Convert::text_encoder_dtype)
        .prune(command.prune)
        .fix_position_ids(command.fix_position_ids);
    if command.writing.dry_run { convert.plan(output) } else { convert.write(output) }
}
