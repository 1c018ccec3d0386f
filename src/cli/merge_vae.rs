//! The command `merge-vae`.

use super::Exit;
use super::args::MergeVae as Command;
use super::output::conclude;
use super::terminal::Terminal;
use crate::formats::Result;
use crate::models::Checkpoint;
use crate::ops::MergeVae;
use crate::report::WriteReport;

/// Merges, and prints the report.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    conclude(merge(command, terminal), terminal)
}

fn merge(command: &Command, terminal: &Terminal) -> Result<WriteReport> {
    let writing = &command.writing;
    let options = writing.open_options();
    let base = Checkpoint::open_with(&command.checkpoint, &options)?;
    let vae = command.vae.as_ref().map(|path| Checkpoint::open_with(path, &options)).transpose()?;
    let mut merge = match &vae {
        Some(vae) => MergeVae::new(&base, vae),
        None => MergeVae::with_sidecar(&base, &options)?,
    };
    if let Some(dtype) = command.vae_dtype {
        merge = merge.vae_dtype(dtype.into());
    }
    let merge = merge
        .partial(command.partial)
        .allow_withdrawn(command.allow_withdrawn)
        .output_options(writing.output_options(terminal));
    let output = &command.output.output;
    if writing.dry_run { merge.plan(output) } else { merge.write(output) }
}
