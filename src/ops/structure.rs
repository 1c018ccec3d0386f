//! Where a PyTorch output has its tensors.

use trinart_ckpt_formats::containers::{Structure, Target};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_models::detection::{Naming, detect};
use trinart_ckpt_models::plan::{Resolved, express};

/// The keys of embeddings (textual inversion) in safetensors files.
const EMBEDDINGS: &[&[&str]] = &[&["emb_params"], &["clip_g", "clip_l"]];

/// Returns where a torch file has its tensors: as in the input, whose readers may know no other place. Checkpoints and VAEs
/// go under `state_dict`, which their readers expect. WebUI reads an embedding from a bare dict without anything beside it:
/// then the metadata is removed.
pub(super) fn of_output(input: &Checkpoint, target: Target, resolved: &mut Resolved) -> Structure {
    let mut keys: Vec<&str> = resolved.state_dict.keys().collect();
    keys.sort_unstable();
    match input.stored().structure() {
        _ if target != Target::Torch => return Structure::StateDict,
        Structure::StateDict if EMBEDDINGS.contains(&&*keys) => {}
        Structure::Bare | Structure::Nested(_) if detect(&resolved.state_dict).naming == Some(Naming::Ldm) => {
            return Structure::StateDict;
        }
        kept => return kept.clone(),
    }
    resolved.notices.extend(express::without_metadata(&mut resolved.metadata, "WebUI reads embeddings without any"));
    Structure::Bare
}
