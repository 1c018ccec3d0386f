//! Whether a component has all its tensors, and none that it should not have.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::model::Component;
use crate::model::architecture::Architecture;
use crate::model::autoencoder;
use crate::model::layout::{self, Folder, Layout};
use crate::state_dict::StateDict;

/// What a component lacks, and what it has too much.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Completeness {
    /// Keys that the architecture has and the file has not, under any spelling. Those that pictures do not need
    /// (position_ids, CLIP's scale) are not missed.
    pub missing: Vec<String>,
    /// Keys of the file that the architecture does not have.
    pub extra: Vec<String>,
}

/// Holds a component of a state dict in LDM names against the schema of its architecture. `None` for components that
/// have no schema, and where the architecture is not known; the autoencoder is the same in all of them.
pub fn completeness(
    state_dict: &StateDict,
    component: Component,
    architecture: Option<Architecture>,
) -> Option<Completeness> {
    let folders: &[Folder] = match component {
        Component::Unet => &[Folder::Unet],
        Component::Autoencoder => &[Folder::Vae],
        Component::TextEncoder => &[Folder::TextEncoder, Folder::TextEncoder2],
        _ => return None,
    };
    let architecture = architecture.or((component == Component::Autoencoder).then_some(Architecture::Sd1))?;
    let layout = Layout::of(architecture);
    let mut present = BTreeSet::new();
    let mut found = Completeness::default();
    for key in state_dict.keys().filter(|key| Component::of_key(key) == component) {
        let canonical = autoencoder::canonical_key(key);
        let place = layout.to_diffusers(&canonical).next();
        match place.and_then(|place| layout.to_ldm(place.folder, place.key)) {
            Some(written) => drop(present.insert(written.key)),
            None => found.extra.push(key.to_owned()),
        }
    }
    let wanted = layout.pairs().iter().filter(|pair| folders.contains(&pair.folder) && pair.in_folder);
    let dims = |key: &str| state_dict.get(key).map(|tensor| tensor.shape().dims().to_vec());
    let is_missing = |key: &&str| !present.contains(key) && layout::is_needed(key, &dims);
    let missing: Vec<&str> = wanted.map(|pair| pair.ldm.key.as_str()).filter(is_missing).collect();
    found.missing = missing.into_iter().map(str::to_owned).collect();
    // The parts of a fused projection share its key.
    found.missing.dedup();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Dtype, LazyTensor, Shape};

    fn of_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> StateDict {
        let mut state_dict = StateDict::new();
        for key in keys {
            let tensor = LazyTensor::owned(Dtype::U8, Shape::new([0]).unwrap(), []).unwrap();
            state_dict.insert(key, tensor).unwrap();
        }
        state_dict
    }

    fn real_keys() -> Vec<&'static str> {
        let lines = include_str!("../../fixtures/sd1-ldm.keys").lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split(' ').next()).collect()
    }

    #[test]
    fn a_real_checkpoint_is_complete() {
        let state_dict = of_keys(real_keys());
        for component in [Component::Unet, Component::Autoencoder, Component::TextEncoder] {
            let found = completeness(&state_dict, component, Some(Architecture::Sd1));
            assert_eq!(found, Some(Completeness::default()), "{component:?}");
        }
        assert_eq!(completeness(&state_dict, Component::Schedule, Some(Architecture::Sd1)), None);
        assert_eq!(completeness(&state_dict, Component::Unet, None), None);
    }

    #[test]
    fn names_exactly_what_is_missing_and_what_is_too_much() {
        let gone = "first_stage_model.decoder.conv_in.bias";
        let keys = real_keys().into_iter().filter(|&key| key != gone).chain(["first_stage_model.encoder.stray"]);
        let found = completeness(&of_keys(keys), Component::Autoencoder, None).unwrap();
        assert_eq!(
            found,
            Completeness { missing: vec![gone.into()], extra: vec!["first_stage_model.encoder.stray".into()] }
        );
    }

    #[test]
    fn other_spellings_and_bare_autoencoders_are_complete_too() {
        let spelled = real_keys().into_iter().map(|key| key.replace("transformer.text_model.", "transformer."));
        let spelled: Vec<String> = spelled.collect();
        let state_dict = of_keys(spelled.iter().map(String::as_str));
        let found = completeness(&state_dict, Component::TextEncoder, Some(Architecture::Sd1));
        assert_eq!(found, Some(Completeness::default()));
        let bare = real_keys().into_iter().filter_map(|key| key.strip_prefix("first_stage_model."));
        assert_eq!(completeness(&of_keys(bare), Component::Autoencoder, None), Some(Completeness::default()));
    }
}
