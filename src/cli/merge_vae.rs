use std::path::{Path, PathBuf};

use super::Exit;
use super::args::MergeVae;
use super::output::conclude;
use super::terminal::Terminal;
use crate::models::hash;
use crate::formats::error::{Error, Result};
use crate::formats::containers::Target;
use crate::models::published::{self, Published};
use crate::models::{Component, vae};
use crate::models::plan::{Origin, merge_vae, sidecar_name, translate};
use crate::report::{ComponentSummary, LeftOut, Merged, PublishedFile, VaeReport, VaeSummary, WriteReport};
use crate::formats::state_dict::StateDict;

/// Merges and reports.
pub(super) fn run(command: &MergeVae, terminal: &Terminal) -> Exit {
    conclude(merge(command, terminal), terminal)
}

fn merge(command: &MergeVae, terminal: &Terminal) -> Result<WriteReport> {
    let writing = &command.writing;
    let output = command.output.output.as_path();
    let target = writing.target(output)?;
    let (base, base_translation) = translate::to_ldm(writing.open(&command.checkpoint)?)?;
    let vae_path = command.vae.clone().map_or_else(|| sidecar(&command.checkpoint), Ok)?;
    let (donor, vae_translation) = translate::vae_to_ldm(writing.open(&vae_path)?)?;
    writing.check_destination(output)?;
    let options = merge_vae::Options {
        dtype: writing.dtype.map(Into::into),
        vae_dtype: command.vae_dtype.map(Into::into),
        overflow: writing.overflow(),
        partial: command.partial,
    };
    // What can be refused by the headers is refused before half a gigabyte is hashed.
    let mut resolved = merge_vae::plan(&base, &donor, &options)?;
    let vae_file = donor.file_of(|key| vae::is_key(vae::bare_key(key)))?;
    let sha256 = hash::file_sha256(vae_file, terminal)?;
    let known = published::identify(vae_file.len(), &sha256);
    if !command.allow_withdrawn {
        refuse_withdrawn(known).map_err(|error| error.in_file(donor.path()))?;
    }
    merge_vae::record(&mut resolved.metadata, &donor, &sha256);
    base_translation.trace_back(Origin::Checkpoint, &mut resolved.ledger);
    vae_translation.trace_back(Origin::Vae, &mut resolved.ledger);
    resolved.notices.extend(base_translation.notices);
    if target != Target::Diffusers {
        resolved.notices.extend(base_translation.single_file_notices);
    }
    let before = side(&base.contents().state_dict, terminal).map_err(|error| error.in_file(base.path()))?;
    let after = side(&resolved.state_dict, terminal)?;
    let after = after.ok_or_else(|| Error::missing("the output would have no autoencoder").in_file(output))?;
    let mut outcome = writing.write(&base, output, resolved, terminal)?;
    let is_same = before.as_ref().is_some_and(|before| before.content_hash == after.content_hash);
    outcome.left_out.extend(LeftOut::opaque(donor.contents()).into_iter().map(|mut left_out| {
        left_out.path = format!("{}: {}", donor.file_name(), left_out.path);
        left_out
    }));
    outcome.vae = Some(VaeReport {
        file: vae_path.to_string_lossy().into_owned(),
        sha256,
        published: known.map(PublishedFile::from),
        sidecar: command.vae.is_none(),
        before,
        after,
        merged: if is_same { Merged::Same } else { Merged::Changed },
    });
    Ok(outcome)
}

fn refuse_withdrawn(known: Option<&Published>) -> Result<()> {
    match known.and_then(|known| Some((known.name, known.withdrawn?))) {
        Some((name, reason)) => {
            let found = format!("this is {name}, {reason}; --allow-withdrawn takes it all the same");
            Err(Error::conflict(found))
        }
        None => Ok(()),
    }
}

/// The autoencoder beside the checkpoint. None, or two, is an error that names them.
fn sidecar(checkpoint: &Path) -> Result<PathBuf> {
    let candidates = sidecar_name::candidates(checkpoint);
    let names = |paths: &[PathBuf]| {
        let names = paths.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        names.collect::<Vec<_>>()
    };
    let found: Vec<PathBuf> = candidates.iter().filter(|path| path.exists()).cloned().collect();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => {
            let looked = names(&candidates).join(", ");
            Err(Error::usage(format!("no --vae, and no autoencoder beside it (looked for {looked})"))
                .in_file(checkpoint))
        }
        several => {
            let found = names(several).join(" and ");
            Err(Error::conflict(format!("two autoencoders beside it, {found}; name one with --vae"))
                .in_file(checkpoint))
        }
    }
}

/// The autoencoder of a state dict in figures; `None` if it has none.
fn side(state_dict: &StateDict, terminal: &Terminal) -> Result<Option<VaeSummary>> {
    let tensors = || state_dict.iter().filter(|(key, _)| vae::is_checkpoint_key(key));
    let summary = ComponentSummary::new(Component::Vae, tensors().map(|(_, tensor)| tensor));
    if summary.tensors == 0 {
        return Ok(None);
    }
    let content_hash = hash::content_hash(tensors(), terminal.jobs(), terminal)?;
    Ok(Some(VaeSummary { summary, content_hash }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_withdrawn_autoencoder_is_refused_by_name_with_the_right_ones_hash() {
        let right = "2453b80bc1716bc3f94496d4e56be891e267051dc43c5144f384b66a73ac8295";
        let wrong = "d2dd1c82220e31a72bd9958dda249ed7f94faf875d5123ae3aab7a1950a82a8f";
        let error = refuse_withdrawn(published::identify(404_661_793, wrong)).unwrap_err().to_string();
        assert!(error.contains("autoencoder_kl-f8-trinart_characters.ckpt"), "{error}");
        assert!(error.contains(right), "{error}");
        assert!(refuse_withdrawn(published::identify(404_661_793, right)).is_ok());
        assert!(refuse_withdrawn(None).is_ok());
    }
}
