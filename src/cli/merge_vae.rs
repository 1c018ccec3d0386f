//! The command `merge-vae`.

use super::args::MergeVae as Command;
use super::exit::Exit;
use super::hints;
use super::output::set_writing_options;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use crate::ops::MergeVae;
use crate::report::WriteReport;
use trinart_ckpt_formats::Result;
use trinart_ckpt_models::Checkpoint;

/// Merges, and prints the report.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    terminal.finish(merge(command, terminal), |report| report.to_text_with(&hints::tip), |_| Exit::Success)
}

fn merge(command: &Command, terminal: &Terminal) -> Result<WriteReport> {
    let options = command.reading.open_options();
    let base = Checkpoint::open_with(&command.checkpoint, &options)?;
    let vae = command.vae.as_ref().map(|path| Checkpoint::open_with(path, &options)).transpose()?;
    let merge = match &vae {
        Some(vae) => MergeVae::new(&base, vae),
        None => MergeVae::with_sidecar(&base, &options)?,
    };
    let merge = set_writing_options!(merge, command, terminal)
        .set_if_some(command.vae_dtype, MergeVae::vae_dtype)
        .partial(command.partial)
        .allow_family_mismatch(command.allow_family_mismatch)
        .allow_withdrawn(command.allow_withdrawn);
    let output = &command.output;
    if command.writing.dry_run { merge.plan(output) } else { merge.write(output) }
}
