//! Compares a component with the schema of its architecture: missing and extra tensors.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use crate::Component;
use crate::family::Architecture;
use crate::layout::{self, Folder, Layout};
use crate::{quantization, vae, vae_schema};
use trinart_ckpt_formats::error::{Error, Hint, Result};
use trinart_ckpt_formats::state_dict::StateDict;

/// The missing and extra tensors of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Completeness {
    /// Keys of the architecture that the file lacks under every known spelling. Tensors that rendering does not use
    /// (position_ids, CLIP's `logit_scale`) do not count.
    pub missing: Vec<String>,
    /// Keys of the file that the architecture lacks. The scales and tables of quantized weights do not count.
    pub extra: Vec<String>,
    /// Keys of tensors that the file has under another spelling too. A folder cannot hold both.
    pub duplicate: Vec<String>,
    /// Keys that the file lacks of a layer that nothing uses: the last one of SD v2's text encoder.
    pub unused: Vec<String>,
}

impl Completeness {
    /// Returns whether the component has the tensors that its architecture needs, and no others.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.duplicate.is_empty()
    }
}

/// Compares a component of a state dict in LDM names with the schema of its architecture. `None` for components without
/// a schema, and if the architecture is unknown. The VAE is the same in all architectures.
pub fn completeness(
    state_dict: &StateDict,
    component: Component,
    architecture: Option<Architecture>,
) -> Option<Completeness> {
    let folders: &[Folder] = match component {
        Component::Unet => &[Folder::Unet],
        Component::Vae => &[Folder::Vae],
        Component::TextEncoder => &[Folder::TextEncoder, Folder::TextEncoder2],
        Component::ImageEncoder if architecture.is_some_and(|it| Folder::of(it).contains(&Folder::ImageEncoder)) => {
            &[Folder::ImageEncoder]
        }
        Component::ControlNet => &[Folder::ControlNet],
        _ => return None,
    };
    let architecture = architecture.or((component == Component::Vae).then_some(Architecture::Sd1))?;
    let layout = Layout::of(architecture);
    let mut present = BTreeSet::new();
    let mut found = Completeness::default();
    let mut names: HashMap<Cow<'_, str>, &str> = HashMap::new();
    for key in state_dict.keys().filter(|key| Component::from_key(key) == component) {
        let canonical = canonical_key(layout, component, key);
        names.insert(canonical.clone(), key);
        let mapped = layout.to_diffusers(&canonical).next();
        match mapped.and_then(|mapped| layout.to_ldm(mapped.folder, mapped.key)) {
            Some(written) if present.insert(written.key) => {}
            Some(_) => found.duplicate.push(key.to_owned()),
            None if is_of_quantizer(state_dict, key) => {}
            None => found.extra.push(key.to_owned()),
        }
    }
    let pairs = || layout.pairs().iter().filter(|pair| folders.contains(&pair.folder));
    let wanted = pairs().filter(|pair| pair.in_folder && pair.in_checkpoint);
    let dims = |key: &str| state_dict.get(names.get(key)?).map(|tensor| tensor.shape().dims().to_vec());
    let is_missing = |key: &&str| !present.contains(key) && layout::is_needed(key, &dims);
    let missing: Vec<&str> = wanted.map(|pair| pair.ldm.key.as_str()).filter(is_missing).collect();
    found.missing = missing.into_iter().map(str::to_owned).collect();
    // The parts of a fused projection share a key.
    found.missing.dedup();
    let of_layers = pairs().filter(|pair| !pair.in_folder).map(|pair| pair.ldm.key.as_str());
    let unused = of_layers.filter(|key| key.contains(".resblocks.") && !present.contains(key));
    found.unused = unused.map(str::to_owned).collect();
    found.unused.dedup();
    Some(found)
}

/// Fails if a checkpoint in LDM names has no VAE, or only a part of one.
pub fn refuse_incomplete_vae(state_dict: &StateDict) -> Result<()> {
    let missing = completeness(state_dict, Component::Vae, None).map_or_else(Vec::new, |found| found.missing);
    let Some(first) = missing.first() else { return Ok(()) };
    let has_any = state_dict.keys().any(|key| Component::from_key(key) == Component::Vae);
    let error = match has_any {
        true => {
            let (count, all) = (missing.len(), vae::keys().len());
            Error::missing(format!("the VAE is incomplete: {count} of {all} tensors are missing, the first is {first}"))
        }
        false => Error::missing("contains no VAE"),
    };
    Err(error.with_hint(Hint::NameVae))
}

/// Returns whether a tensor is a scale or table of a quantized weight of the file, or marks such weights.
fn is_of_quantizer(state_dict: &StateDict, key: &str) -> bool {
    quantization::is_marker(key) || quantization::weight_of(key).is_some_and(|weight| state_dict.contains(&weight))
}

/// Returns the key in LDM names. A file of a VAE alone may have the names of diffusers.
fn canonical_key<'k>(layout: &Layout, component: Component, key: &'k str) -> Cow<'k, str> {
    let renamed = (component == Component::Vae).then(|| vae_schema::ldm_key(vae::bare_key(key))).flatten();
    if component == Component::Vae
        && renamed.is_none()
        && let Some(mapped) = layout.to_ldm(Folder::Vae, vae::bare_key(key))
    {
        return mapped.key.to_owned().into();
    }
    renamed.map_or_else(|| vae::canonical_key(key), |name| format!("{}{name}", vae::PREFIX).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};

    fn of_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> StateDict {
        let mut state_dict = StateDict::new();
        for key in keys {
            let tensor = LazyTensor::owned(Dtype::U8, Shape::new([0]).unwrap(), []).unwrap();
            state_dict.insert(key, tensor).unwrap();
        }
        state_dict
    }

    fn real_keys() -> Vec<&'static str> {
        let lines = include_str!("../../../fixtures/sd1-ldm.keys").lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split(' ').next()).collect()
    }

    #[test]
    fn a_real_checkpoint_is_complete() {
        let state_dict = of_keys(real_keys());
        for component in [Component::Unet, Component::Vae, Component::TextEncoder] {
            let found = completeness(&state_dict, component, Some(Architecture::Sd1));
            assert_eq!(found, Some(Completeness::default()), "{component:?}");
        }
        assert_eq!(completeness(&state_dict, Component::Schedule, Some(Architecture::Sd1)), None);
        assert_eq!(completeness(&state_dict, Component::Unet, None), None);
    }

    #[test]
    fn lists_missing_and_extra_keys() {
        let gone = "first_stage_model.decoder.conv_in.bias";
        let keys = real_keys().into_iter().filter(|&key| key != gone).chain(["first_stage_model.encoder.stray"]);
        let found = completeness(&of_keys(keys), Component::Vae, None).unwrap();
        assert_eq!(
            found,
            Completeness {
                missing: vec![gone.into()],
                extra: vec!["first_stage_model.encoder.stray".into()],
                duplicate: Vec::new(),
                unused: Vec::new(),
            }
        );
    }

    #[test]
    fn lists_tensors_in_two_spellings() {
        let both = real_keys().into_iter().flat_map(|key| {
            let other = key.replace("transformer.text_model.", "transformer.");
            if other == key { vec![other] } else { vec![key.to_owned(), other] }
        });
        let both: Vec<String> = both.collect();
        let state_dict = of_keys(both.iter().map(String::as_str));
        let found = completeness(&state_dict, Component::TextEncoder, Some(Architecture::Sd1)).unwrap();
        assert_eq!((found.missing.len(), found.extra.len(), found.duplicate.len()), (0, 0, 197));
    }

    #[test]
    fn accepts_other_spellings_and_vaes_without_prefix() {
        let spelled = real_keys().into_iter().map(|key| key.replace("transformer.text_model.", "transformer."));
        let spelled: Vec<String> = spelled.collect();
        let state_dict = of_keys(spelled.iter().map(String::as_str));
        let found = completeness(&state_dict, Component::TextEncoder, Some(Architecture::Sd1));
        assert_eq!(found, Some(Completeness::default()));
        let bare = real_keys().into_iter().filter_map(|key| key.strip_prefix("first_stage_model."));
        assert_eq!(completeness(&of_keys(bare), Component::Vae, None), Some(Completeness::default()));
    }
}
