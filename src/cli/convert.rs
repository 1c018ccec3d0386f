//! The command `convert`.

use std::path::Path;

use super::args::Convert as Command;
use super::batch::{Outputs, versions};
use super::exit::Exit;
use super::output::{recipe, set_writing_options};
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use super::values::PartArgument;
use crate::ops::{Convert, Destination};
use crate::report::{BatchOutcome, WriteReport};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_models::plan::assemble::Parts;

/// Converts each input. An input that fails does not stop the others.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    if let Err(error) = check_usage(command) {
        terminal.failure(&error);
        return Exit::Error;
    }
    let parts = format!("{:?}", (&command.replace, command.unet_dtype, command.vae_dtype, command.text_encoder_dtype));
    let content = format!("{:?}", (command.prune, command.ema, command.component, command.repair, command.lora_names));
    let replacements = command.replace.iter().map(|replacement| &replacement.file);
    let switches = [command.partial, command.allow_family_mismatch, command.fix_position_ids];
    let outputs = Outputs {
        inputs: &command.inputs,
        output: &command.output,
        writing: &command.writing,
        recipe: recipe(
            &command.writing,
            &command.content,
            &command.folder,
            &[parts, content, format!("{switches:?}"), versions(&command.output, replacements)],
        ),
        merges_vae: false,
        reads_vae: false,
    };
    outputs.run(terminal, |input, to| {
        let report = convert(command, input.map(|input| input.path.as_path()), to, terminal);
        report.map(BatchOutcome::written)
    })
}

fn check_usage(command: &Command) -> Result<()> {
    if command.inputs.is_empty() && command.output.output.is_none() {
        return Err(Error::usage("components without a checkpoint need --output"));
    }
    for (index, replacement) in command.replace.iter().enumerate() {
        if command.replace.iter().take(index).any(|earlier| earlier.part == replacement.part) {
            return Err(Error::usage("--replace names a component twice").in_file(&replacement.file));
        }
    }
    Ok(())
}

fn convert(command: &Command, input: Option<&Path>, to: &Destination<'_>, terminal: &Terminal) -> Result<WriteReport> {
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
        PartArgument::ImageEncoder => parts.image_encoder(file),
    });
    let convert = match &checkpoint {
        Some(checkpoint) => Convert::new(checkpoint).replace(parts),
        None => Convert::from_parts(parts),
    };
    let convert = set_writing_options!(convert, command, terminal)
        .overwrite(to.overwrite)
        .record(to.record)
        .create_folders(command.output.out_dir.is_some())
        .set_if_some(command.ema.map(Into::into), Convert::ema)
        .set_if_some(command.component, |convert, component| component.apply(convert))
        .set_if_some(command.lora_names.map(Into::into), Convert::lora_names)
        .set_if_some(command.unet_dtype, Convert::unet_dtype)
        .set_if_some(command.vae_dtype, Convert::vae_dtype)
        .set_if_some(command.text_encoder_dtype, Convert::text_encoder_dtype)
        .repair(command.repair)
        .partial(command.partial)
        .allow_family_mismatch(command.allow_family_mismatch)
        .allow_withdrawn(command.allow_withdrawn)
        .prune(command.prune)
        .fix_position_ids(command.fix_position_ids);
    let convert = command.select.iter().cloned().fold(convert, Convert::select);
    let convert = command.drop.iter().cloned().fold(convert, Convert::leave_out);
    let convert = command.rename.iter().cloned().fold(convert, Convert::rename);
    if command.writing.dry_run { convert.plan(to.path) } else { convert.write(to.path) }
}
