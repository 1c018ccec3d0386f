//! What a merge reports and records about a VAE file, and about the checkpoint that it goes into.

use std::path::Path;

use super::output::OutputOptions;
use crate::report::{ComponentSummary, VaeSummary};
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::error::Hint;
use trinart_ckpt_formats::io::{Progress, Source, is_file, remote};
use trinart_ckpt_formats::{Error, Result, StateDict};
use trinart_ckpt_models::plan::record::BaseIdentity;
use trinart_ckpt_models::plan::{Resolved, merge_vae};
use trinart_ckpt_models::published::{self, PublishedFile};
use trinart_ckpt_models::{Checkpoint, Component, NoticeCode, hash};

/// The size of the largest checkpoint whose sha256 is recorded. Hashing a larger one would take seconds.
const HASHED_BYTES: u64 = 1 << 29;

/// Returns the sha256 of the VAE file, and the published file with this hash. Fails if that file was withdrawn, unless it is
/// allowed.
pub(super) fn identify(
    vae: &Checkpoint,
    allow_withdrawn: bool,
    progress: &dyn Progress,
) -> Result<(String, Option<&'static PublishedFile>)> {
    let files = vae.vae_files()?;
    let sha256 = hash::files_sha256(&files, progress)?;
    let published = match files.as_slice() {
        [file] => {
            if let Some(stated) = file.stated_sha256().filter(|stated| *stated != sha256) {
                let found = format!("its sha256 is {sha256}, but its server states {stated}");
                return Err(Error::mismatch(found).in_file(file.path()));
            }
            published::identify(file.len(), &sha256)
        }
        _ => None,
    };
    if !allow_withdrawn {
        refuse_withdrawn(published).map_err(|error| error.in_file(vae.path()))?;
    }
    Ok((sha256, published))
}

/// Fails if a file behind an address was withdrawn, by the sha256 that its server states. Reads nothing of it.
pub(super) fn refuse_withdrawn_address(path: &Path) -> Result<()> {
    if remote::address(path).is_none() || !is_file(path) {
        return Ok(());
    }
    let file = Source::open(path)?;
    let published = file.stated_sha256().and_then(|sha256| published::identify(file.len(), sha256));
    refuse_withdrawn(published).map_err(|error| error.in_file(path))
}

/// Compares the family of the checkpoint with that of a published VAE. Fails if they contradict each other, unless it is
/// allowed.
pub(super) fn check_family(
    base: &Checkpoint,
    vae: &Checkpoint,
    sha256: &str,
    allow: bool,
    resolved: &mut Resolved,
) -> Result<()> {
    if let Some(architecture) = published::vae_architecture(sha256) {
        let family = merge_vae::check_published(base, architecture, allow);
        let family = family.map_err(|error| error.in_file(vae.path()))?;
        resolved.notices.retain(|notice| notice.code != NoticeCode::VaeFamilyUnknown);
        resolved.notices.extend(family);
    }
    Ok(())
}

/// Returns the hashes by which WebUI finds the checkpoint; `None` for a folder, which has none. A large file is not hashed,
/// because that would cost another pass over it: its legacy hash is that of 64 KiB, and WebUI finds models by either hash.
pub(super) fn identify_base(base: &Checkpoint, progress: &dyn Progress) -> Result<Option<BaseIdentity>> {
    if base.container() == Container::Diffusers {
        return Ok(None);
    }
    let file = base.file()?;
    let legacy = hash::legacy_hash(file)?;
    let hash = match file.len() {
        ..=HASHED_BYTES => hash::file_sha256(file, progress)?,
        _ => legacy.clone(),
    };
    Ok(Some(BaseIdentity { hash, legacy }))
}

/// Summarizes and hashes the VAE of a state dict, whose keys `is_vae` recognizes. `None` if it has none.
pub(super) fn summary(
    output: &OutputOptions<'_>,
    state_dict: &StateDict,
    is_vae: fn(&str) -> bool,
) -> Result<Option<VaeSummary>> {
    let tensors = || state_dict.iter().filter(|(key, _)| is_vae(key));
    let summary = ComponentSummary::new(Component::Vae, tensors().map(|(_, tensor)| tensor));
    if summary.tensors == 0 {
        return Ok(None);
    }
    let content_hash = hash::content_hash(tensors(), output.jobs, output.progress)?;
    Ok(Some(VaeSummary { summary, content_hash }))
}

fn refuse_withdrawn(known: Option<&PublishedFile>) -> Result<()> {
    match known.and_then(|known| Some((known.name, known.withdrawn?))) {
        Some((name, reason)) => {
            Err(Error::conflict(format!("this is {name}, {reason}")).with_hint(Hint::AllowWithdrawn))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_the_withdrawn_vae_by_name_and_gives_the_hash_of_the_right_one() {
        let right = "2453b80bc1716bc3f94496d4e56be891e267051dc43c5144f384b66a73ac8295";
        let wrong = "d2dd1c82220e31a72bd9958dda249ed7f94faf875d5123ae3aab7a1950a82a8f";
        let error = refuse_withdrawn(published::identify(404_661_793, wrong)).unwrap_err().to_string();
        assert!(error.contains("autoencoder_kl-f8-trinart_characters.ckpt"), "{error}");
        assert!(error.contains(right), "{error}");
        assert!(refuse_withdrawn(published::identify(404_661_793, right)).is_ok());
        assert!(refuse_withdrawn(None).is_ok());
    }
}
