//! Where a PyTorch output has its tensors.

use trinart_ckpt_formats::containers::{Structure, Target};
use trinart_ckpt_formats::{Error, Result};
use trinart_ckpt_models::detection::{Naming, detect};
use trinart_ckpt_models::plan::{MetadataEdits, Resolved};
use trinart_ckpt_models::{Checkpoint, Notice, NoticeCode};

/// The keys of embeddings (textual inversion) in safetensors files.
const EMBEDDINGS: &[&[&str]] = &[&["emb_params"], &["clip_g", "clip_l"]];

/// Returns where a torch file has its tensors: as in the input, whose readers may know no other place. Checkpoints and VAEs
/// go under `state_dict`, which their readers expect. WebUI reads an embedding from a bare dict without anything beside it:
/// then the metadata is removed.
///
/// Fails if metadata is to be set in an embedding.
pub(super) fn of_output(
    input: &Checkpoint,
    target: Target,
    edits: &MetadataEdits,
    resolved: &mut Resolved,
) -> Result<Structure> {
    let mut keys: Vec<&str> = resolved.state_dict.keys().collect();
    keys.sort_unstable();
    match input.stored().structure() {
        _ if target != Target::Torch => return Ok(Structure::StateDict),
        Structure::StateDict if EMBEDDINGS.contains(&&*keys) => {}
        Structure::Bare | Structure::Nested(_) if detect(&resolved.state_dict).naming == Some(Naming::Ldm) => {
            return Ok(Structure::StateDict);
        }
        kept => return Ok(kept.clone()),
    }
    if !edits.set.is_empty() {
        let found = "WebUI reads embeddings in PyTorch files only without metadata; write .safetensors to set some";
        return Err(Error::unsupported(found).in_file(input.path()));
    }
    if !resolved.metadata.is_empty() {
        let names = std::mem::take(&mut resolved.metadata).into_keys().collect::<Vec<_>>().join(", ");
        let text = format!("left out metadata, because WebUI reads embeddings without any: {names}");
        resolved.notices.push(Notice::new(NoticeCode::MetadataDropped, text));
    }
    Ok(Structure::Bare)
}
