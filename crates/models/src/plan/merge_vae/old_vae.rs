use std::collections::HashMap;

use crate::vae;
use crate::vae_schema::{self, VaeSchema};
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};

/// The prefixes under which checkpoints have a VAE. WebUI reads the first.
const PREFIXES: &[&str] = &[vae::PREFIX, "model.first_stage_model.", "vae."];

/// The VAE that a checkpoint has before a merge, in whatever state.
#[derive(Debug, Default)]
pub(super) struct OldVae<'a> {
    /// The key and the tensor, by key without prefix in LDM names.
    tensors: HashMap<&'static str, (&'a str, &'a LazyTensor)>,
    /// Keys of the VAE that no VAE has, or that repeat another one.
    useless: Vec<&'a str>,
}

/// The key of a tensor of an old VAE in LDM names, without prefix; `None` within if no VAE has it, and altogether if the
/// key is not part of a VAE.
pub(super) fn name_of(key: &str) -> Option<Option<&'static str>> {
    let is_part = |prefix: &str, bare: &str| {
        // All that WebUI loads as VAE, whatever its name; see `Role::from_key`.
        let is_loaded = prefix == vae::PREFIX && !bare.starts_with("loss") && !bare.starts_with("model_ema");
        is_loaded || vae::is_key(bare)
    };
    let prefixed = PREFIXES.iter().find_map(|prefix| Some((*prefix, key.strip_prefix(prefix)?)));
    let prefixed = prefixed.filter(|(prefix, bare)| is_part(prefix, bare)).map(|(_, bare)| bare);
    match prefixed {
        Some(bare) => Some(vae_schema::ldm_key(bare)),
        // Without prefix, only what is certain: other networks have encoders too.
        None => vae_schema::ldm_key(key).map(Some),
    }
}

impl<'a> OldVae<'a> {
    pub(super) fn find(base: &'a StateDict) -> Self {
        let mut old = OldVae::default();
        // A tensor that occurs several times is the one that WebUI reads.
        let (read, others): (Vec<_>, Vec<_>) = base.iter().partition(|(key, _)| vae::is_checkpoint_key(key));
        for (key, tensor) in read.into_iter().chain(others) {
            match name_of(key) {
                Some(Some(name)) if !old.tensors.contains_key(name) => {
                    old.tensors.insert(name, (key, tensor));
                }
                Some(_) => old.useless.push(key),
                None => {}
            }
        }
        old
    }

    /// Returns whether the checkpoint has no tensor of a VAE.
    pub(super) fn is_none(&self) -> bool {
        self.tensors.is_empty() && self.useless.is_empty()
    }

    /// Returns the tensor with this key in LDM names, and its key in the checkpoint.
    pub(super) fn get(&self, name: &str) -> Option<(&'a str, &'a LazyTensor)> {
        self.tensors.get(name).copied()
    }

    /// Returns the floating-point dtype that most tensors have.
    pub(super) fn dtype(&self) -> Option<Dtype> {
        let dtypes = self.tensors.values().map(|(_, tensor)| tensor.dtype()).filter(|dtype| dtype.is_float());
        let mut counts: Vec<(Dtype, usize)> = Vec::new();
        for dtype in dtypes {
            match counts.iter_mut().find(|(found, _)| *found == dtype) {
                Some((_, count)) => *count += 1,
                None => counts.push((dtype, 1)),
            }
        }
        // By name among equals, because the order of the tensors here is arbitrary.
        counts.into_iter().max_by_key(|(dtype, count)| (*count, dtype.name())).map(|(dtype, _)| dtype)
    }

    /// Describes why WebUI would not load this VAE. Returns `None` if WebUI would load it, and if the checkpoint has no VAE.
    pub(super) fn flaws(&self, schema: &VaeSchema) -> Option<String> {
        if self.is_none() {
            return None;
        }
        let (mut renamed, mut reshaped, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for name in schema.keys() {
            match self.get(name) {
                None => missing.push(name),
                Some((key, _)) if key.strip_prefix(vae::PREFIX) != Some(name) => renamed.push(key),
                Some((key, tensor)) if Some(tensor.shape().dims()) != schema.get(name) => reshaped.push(key),
                Some(_) => {}
            }
        }
        let mut useless = self.useless.clone();
        useless.extend(self.tensors.iter().filter(|(name, _)| schema.get(name).is_none()).map(|(_, &(key, _))| key));
        useless.sort_unstable();
        let part = |keys: &[&str], what: &str| {
            let more = if keys.len() > 1 { ", …" } else { "" };
            keys.first().map(|first| format!("{} {what} ({first}{more})", keys.len()))
        };
        let parts = [
            part(&renamed, "under other names"),
            part(&reshaped, "of other shapes"),
            part(&missing, "missing"),
            part(&useless, "that no VAE has"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("replaced a broken VAE: {}", parts.join(", ")))
    }
}
