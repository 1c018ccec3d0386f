//! The tensors of a LoRA by module, also of models whose modules this program does not know.

use indexmap::IndexMap;

use super::names::split_any_key;
use super::read::{Part, is_for_second_text_encoder, of_second_text_encoder};
use crate::checkpoint::Checkpoint;

/// The tensors of a module by kohya's names.
pub(super) type Parts<'a> = IndexMap<String, Part<'a>>;

/// Returns the modules of a LoRA by their names in kohya's spelling, and the number of tensors that belong to none.
pub(super) fn modules(checkpoint: &Checkpoint) -> (IndexMap<String, Parts<'_>>, usize) {
    let is_second = is_for_second_text_encoder(checkpoint);
    let (mut modules, mut others): (IndexMap<String, Parts<'_>>, usize) = (IndexMap::new(), 0);
    for (key, tensor) in checkpoint.state_dict().iter() {
        match split_any_key(key) {
            Some((module, name)) => {
                let module = if is_second { of_second_text_encoder(module) } else { module };
                modules.entry(module).or_default().insert(name, Part { key, tensor });
            }
            None => others += 1,
        }
    }
    (modules, others)
}

/// Returns the dimensions of a tensor of a module.
pub(super) fn dims<'p>(parts: &'p Parts<'_>, name: &str) -> Option<&'p [u64]> {
    parts.get(name).map(|part| part.tensor.shape().dims())
}
