//! The command `convert`.

use std::path::{Path, PathBuf};

use super::args::Convert as Command;
use super::each::{Names, each};
use super::exit::Exit;
use super::hints;
use super::output::set_writing_options;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use super::values::PartArgument;
use crate::ops::Convert;
use crate::report::WriteReport;
use trinart_ckpt_formats::containers::Target;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_models::plan::assemble::Parts;

/// Converts each input. An input that fails does not stop the others.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    if let Err(error) = check_usage(command) {
        terminal.failure(&error);
        return Exit::Error;
    }
    let text = |report: &WriteReport| report.to_text_with(&hints::tip);
    if let (Some(output), [] | [_]) = (&command.output.output, command.inputs.as_slice()) {
        let result = convert(command, command.inputs.first().map(PathBuf::as_path), output, terminal);
        return terminal.finish(result, text, |_| Exit::Success);
    }
    let names = Names { list: "results", file: "input", between: "" };
    let work = |input: &Path| convert(command, Some(input), &output_in_folder(command, input)?, terminal);
    each(&command.inputs, &names, terminal, work, text)
}

fn check_usage(command: &Command) -> Result<()> {
    if command.output.output.is_some() && command.inputs.len() > 1 {
        return Err(Error::usage("--output takes one input; use --out-dir for several"));
    }
    if command.inputs.is_empty() && command.output.output.is_none() {
        return Err(Error::usage("components without a checkpoint need --output"));
    }
    for (index, replacement) in command.replace.iter().enumerate() {
        if command.replace.iter().take(index).any(|earlier| earlier.part == replacement.part) {
            return Err(Error::usage("--replace names a component twice").in_file(&replacement.file));
        }
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

fn convert(command: &Command, input: Option<&Path>, output: &Path, terminal: &Terminal) -> Result<WriteReport> {
    let options = command.reading.open_options();
    let open = |path: &Path| Checkpoint::open_with(path, &options);
    let of_input = if command.repair { options.keep_trailing_bytes() } else { options };
    let checkpoint = input.map(|path| Checkpoint::open_with(path, &of_input)).transpose()?;
    let opened = command.replace.iter().map(|replacement| Ok((replacement.part, open(&replacement.file)?)));
    let opened = opened.collect::<Result<Vec<_>>>()?;
    let parts = opened.iter().fold(Parts::default(), |parts, (part, file)| match part {
        PartArgument::Unet => parts.unet(file),
        PartArgument::Vae => parts.vae(file),
        PartArgument::TextEncoder => parts.text_encoder(file),
        PartArgument::TextEncoder2 => parts.text_encoder_2(file),
    });
    let convert = match &checkpoint {
        Some(checkpoint) => Convert::new(checkpoint).replace(parts),
        None => Convert::from_parts(parts),
    };
    let convert = set_writing_options!(convert, command, terminal)
        .set_if_some(command.ema.map(Into::into), Convert::ema)
        .set_if_some(command.component.map(Into::into), Convert::component)
        .set_if_some(command.unet_dtype, Convert::unet_dtype)
        .set_if_some(command.vae_dtype, Convert::vae_dtype)
        .set_if_some(command.text_encoder_dtype, Convert::text_encoder_dtype)
        .repair(command.repair)
        .partial(command.partial)
        .allow_family_mismatch(command.allow_family_mismatch)
        .allow_withdrawn(command.allow_withdrawn)
        .prune(command.prune)
        .fix_position_ids(command.fix_position_ids);
    if command.writing.dry_run { convert.plan(output) } else { convert.write(output) }
}
