use indexmap::IndexMap;
use indexmap::map::Entry;

use crate::checkpoint::Checkpoint;
use crate::file_kind;
use crate::layout;
use crate::vae::{self, Role};
use crate::vae_schema::{self, LATENT_CHANNELS};
use trinart_ckpt_formats::containers::Container;
use trinart_ckpt_formats::containers::diffusers::SEPARATOR;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::LazyTensor;

/// The parts of a prefix that trainers and tools put before the keys of a VAE.
const WRAPPERS: &[&str] =
    &["first_stage_model", "vae", "autoencoder", "model", "module", "state_dict", "_orig_mod", "net", "network"];

/// The VAE to merge: its tensors by their keys in LDM names, however the file spells them.
pub(super) struct Donor<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    /// The prefix of the VAE's keys in the file.
    pub(super) prefix: &'a str,
    /// The key in the file and the tensor, by key without prefix in LDM names, in the order of the file.
    tensors: IndexMap<&'static str, (&'a str, &'a LazyTensor)>,
    /// Keys in the file under the prefix that no VAE has.
    unknown: Vec<&'a str>,
}

impl<'a> Donor<'a> {
    /// Finds the VAE of a file. Fails unless the file has exactly one, and if a tensor has several names or cannot be read, and
    /// if the latents do not have 4 channels.
    pub(super) fn find(checkpoint: &'a Checkpoint) -> Result<Self> {
        let prefix = find_prefix(checkpoint)?;
        let mut tensors = IndexMap::new();
        let mut unknown = Vec::new();
        for (key, tensor) in checkpoint.state_dict().iter() {
            let Some(bare) = key.strip_prefix(prefix).filter(|bare| vae::is_key(bare)) else { continue };
            match vae_schema::ldm_key(bare).map(|name| tensors.entry(name)) {
                None => unknown.push(key),
                Some(Entry::Vacant(entry)) => {
                    entry.insert((key, tensor));
                }
                Some(Entry::Occupied(entry)) => {
                    let (other, _) = entry.get();
                    return Err(
                        Error::conflict(format!("the VAE has this tensor twice: also as {other}")).in_tensor(key)
                    );
                }
            }
        }
        let donor = Donor { checkpoint, prefix, tensors, unknown };
        donor.refuse_unreadable()?;
        donor.refuse_layers_over_time()?;
        donor.refuse_other_latents()?;
        Ok(donor)
    }

    fn refuse_unreadable(&self) -> Result<()> {
        self.checkpoint.stored().refuse_unreadable_among(|key| Role::from_key(key, self.prefix) == Role::Vae)
    }

    /// Fails for the VAE of a video model. What is left of it without these layers is no VAE of pictures.
    fn refuse_layers_over_time(&self) -> Result<()> {
        const OVER_TIME: &[&str] =
            &[".time_stack.", ".time_mix_conv.", ".temporal_res_block.", "decoder.time_conv_out."];
        match self.unknown.iter().find(|key| OVER_TIME.iter().any(|part| key.contains(part))) {
            Some(&key) => {
                let found = "a VAE with layers over time, as of Stable Video Diffusion; Stable Diffusion has none";
                Err(Error::unsupported(found).in_tensor(key))
            }
            None => Ok(()),
        }
    }

    fn refuse_other_latents(&self) -> Result<()> {
        let Some((_, tensor)) = self.get("decoder.conv_in.weight") else { return Ok(()) };
        match tensor.shape().dims().get(1) {
            Some(&channels) if channels != LATENT_CHANNELS => {
                let kind = if channels == 16 { ", as of Flux or SD v3" } else { "" };
                let found =
                    format!("a VAE with {channels} latent channels{kind}; Stable Diffusion has {LATENT_CHANNELS}");
                Err(Error::mismatch(found).in_tensor(self.stored_key("decoder.conv_in.weight")))
            }
            _ => Ok(()),
        }
    }

    /// Returns the tensor with this key in LDM names, and its key in the file.
    pub(super) fn get(&self, name: &str) -> Option<(&'a str, &'a LazyTensor)> {
        self.tensors.get(name).copied()
    }

    /// The keys in LDM names, without prefix, in the order of the file.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tensors.keys().copied()
    }

    /// The keys that no VAE has.
    pub(super) fn unknown(&self) -> &[&'a str] {
        &self.unknown
    }

    /// Returns the key that the file has for this key in LDM names, or would have if it is missing.
    pub(super) fn stored_key(&self, name: &str) -> String {
        if let Some((key, _)) = self.get(name) {
            return self.checkpoint.translation().stored_key(key).unwrap_or(key).to_owned();
        }
        let is_folder = self.checkpoint.container() == Container::Diffusers;
        let is_renamed = |(name, (key, _)): (&&str, &(&str, _))| key.strip_prefix(self.prefix) != Some(*name);
        if !is_folder && !self.tensors.iter().any(is_renamed) {
            return format!("{}{name}", self.prefix);
        }
        let pairs = layout::vae_pairs(vae_schema::widths(vae_schema::PUBLISHED_WIDTH));
        let pair = pairs.into_iter().find(|pair| pair.ldm.key.strip_prefix(vae::PREFIX) == Some(name));
        let key = pair.map_or_else(|| name.to_owned(), |pair| pair.diffusers.key);
        if is_folder { format!("vae{SEPARATOR}{key}") } else { format!("{}{key}", self.prefix) }
    }
}

/// Finds the prefix of the VAE in a file. Fails if there is no VAE or several.
pub(super) fn find_prefix(checkpoint: &Checkpoint) -> Result<&str> {
    let is_wrapper = |prefix: &str| prefix.split_terminator('.').all(|part| WRAPPERS.contains(&part));
    let found = vae_schema::prefixes(checkpoint.state_dict().keys());
    let (found, others): (Vec<&str>, Vec<&str>) =
        found.into_iter().map(|(prefix, _)| prefix).partition(|prefix| is_wrapper(prefix));
    match (found.as_slice(), others.first()) {
        (&[prefix], _) => Ok(prefix),
        ([], Some(prefix)) => {
            Err(Error::missing(format!("contains no VAE under a known prefix, only under {prefix}encoder.…")))
        }
        ([], None) => {
            let found = file_kind::describe(checkpoint.state_dict());
            Err(Error::missing(format!(
                "contains no VAE: expected keys like {}encoder.conv_in.weight or encoder.conv_in.weight, found {found}",
                vae::PREFIX
            )))
        }
        (several, _) => {
            let prefixes = several.iter().map(|prefix| format!("{prefix}encoder.…")).collect::<Vec<_>>().join(" and ");
            Err(Error::conflict(format!("contains {} VAEs: {prefixes}; expected a file with one", several.len())))
        }
    }
}
