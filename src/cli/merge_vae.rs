//! The command `merge-vae`.

use std::path::PathBuf;

use super::args::MergeVae as Command;
use super::batch::{Outputs, versions};
use super::exit::Exit;
use super::output::{recipe, set_writing_options};
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use crate::ops::{Destination, Input, MergeVae};
use crate::report::{BatchOutcome, SkipReason};
use trinart_ckpt_formats::error::{Error, Hint, OrInternal, Result};
use trinart_ckpt_models::Checkpoint;

/// Merges a VAE into each checkpoint, and prints the reports.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let options = command.reading.open_options();
    // A VAE for all is opened once. An error about it ends the command.
    let open = |path: &PathBuf| {
        if !command.allow_withdrawn {
            MergeVae::refuse_withdrawn(path)?;
        }
        Checkpoint::open_with(path, &options)
    };
    let vae = match command.vae.as_ref().map(open).transpose() {
        Ok(vae) => vae,
        Err(error) => {
            terminal.failure(&error);
            return Exit::Error;
        }
    };
    let switches = [command.partial, command.allow_family_mismatch, command.allow_withdrawn];
    let others =
        [format!("{:?} {switches:?} {:?}", command.vae_dtype, command.vae), versions(&command.output, &command.vae)];
    let outputs = Outputs {
        inputs: &command.checkpoints,
        output: &command.output,
        writing: &command.writing,
        recipe: recipe(&command.writing, &command.content, &command.folder, &others),
        merges_vae: true,
        reads_vae: command.vae.is_none(),
    };
    outputs.run(terminal, |input, to| {
        let input = input.or_internal("a merge without a checkpoint")?;
        merge(command, vae.as_ref(), input, to, terminal)
    })
}

fn merge(
    command: &Command,
    vae: Option<&Checkpoint>,
    input: &Input,
    to: &Destination<'_>,
    terminal: &Terminal,
) -> Result<BatchOutcome> {
    let options = command.reading.open_options();
    let base = Checkpoint::open_with(&input.path, &options)?;
    // A folder has other files, too.
    if input.is_found && !MergeVae::takes(&base) {
        return Ok(BatchOutcome::skipped(&input.path, SkipReason::NotForMerging));
    }
    let is_missing = |error: &Error| input.is_found && error.hint() == Some(Hint::NameVae);
    let merge = match vae {
        Some(vae) => MergeVae::new(&base, vae),
        None => match MergeVae::with_sidecar(&base, &options) {
            Err(error) if is_missing(&error) => {
                return Ok(BatchOutcome::skipped(&input.path, SkipReason::NoVaeBeside));
            }
            found => found?,
        },
    };
    let merge = set_writing_options!(merge, command, terminal)
        .overwrite(to.overwrite)
        .record(to.record)
        .create_folders(command.output.out_dir.is_some())
        .set_if_some(command.vae_dtype, MergeVae::vae_dtype)
        .partial(command.partial)
        .allow_family_mismatch(command.allow_family_mismatch)
        .allow_withdrawn(command.allow_withdrawn);
    let report = if command.writing.dry_run { merge.plan(to.path) } else { merge.write(to.path) };
    report.map(BatchOutcome::written)
}
