//! The files that a picture's parameters name with their hashes, compared with those of a render.

use super::fields::REFINER;
use super::infotext::Infotext;
use crate::checks::Check;
use crate::files::{NetworkKind, UsedNetwork};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::io::{NoProgress, Source};
use trinart_ckpt_models::hash::file_sha256;

/// Digits of WebUI's model hash of 2022. Later ones have ten.
const LEGACY_DIGITS: usize = 8;

/// The field of a model site's extension: a JSON object with the hash of each file, such as `{"lora:name": "0123456789"}`.
const RESOURCES: &str = "Hashes";

/// The files that a render uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsedFiles<'a> {
    /// The hashes of the checkpoint: the first digits of its sha256, and WebUI's hash of 2022.
    pub(crate) model: [Option<&'a str>; 2],
    /// The name and the hash of a VAE that replaced the checkpoint's.
    pub(crate) vae: Option<(&'a str, Option<&'a str>)>,
    /// The name and the hash of the refiner.
    pub(crate) refiner: Option<(String, Option<&'a str>)>,
    /// The LoRAs and embeddings of the prompts.
    pub(crate) networks: &'a [UsedNetwork],
}

impl UsedFiles<'_> {
    /// Returns the value of the field for a kind of networks. Empty if the prompts load none of them.
    pub(crate) fn field(networks: &[UsedNetwork], kind: NetworkKind) -> String {
        let mut all: Vec<String> = Vec::new();
        for network in networks.iter().filter(|network| network.kind == kind) {
            // WebUI drops the signs that separate names and hashes.
            let one = format!("{}: {}", network.name.replace([':', ','], ""), network.hash);
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all.join(", ")
    }

    /// Says that the checkpoint is another one than that of a picture, if it is.
    pub(super) fn check_model(&self, text: &Infotext) -> Option<Check> {
        let theirs = text.get("Model hash")?;
        let ours = self.model.iter().flatten().next()?;
        // Without our sha256, only a legacy hash can be compared.
        let is_known = self.model.first().is_some_and(Option::is_some) || theirs.len() == LEGACY_DIGITS;
        if !is_known || self.is_model(theirs) {
            return None;
        }
        let name = text.get("Model").map_or_else(String::new, |name| format!(" ({name})"));
        Some(Check::info("model", format!("another checkpoint: {ours} here, {theirs}{name} in the reference picture")))
    }

    fn is_model(&self, theirs: &str) -> bool {
        self.model.iter().flatten().any(|ours| agree(ours, theirs))
    }

    /// Returns the LoRAs, embeddings and VAEs of a picture that a render does not use.
    ///
    /// Reads LoRAs and embeddings if the picture has hashes of their files. Fails if they cannot be read.
    pub(super) fn unused(&self, text: &Infotext) -> Result<Vec<String>> {
        let mut unused = Vec::new();
        for kind in NetworkKind::ALL {
            let ours = UsedFiles::field(self.networks, kind);
            if let Some(theirs) = text.get(kind.field()).filter(|theirs| entries(theirs) != entries(&ours)) {
                let ours = if ours.is_empty() { "without any" } else { &ours };
                unused.push(format!("{}: {theirs}, but rendered {ours}", kind.field()));
            }
        }
        match (self.vae, text.get("VAE"), text.get("VAE hash")) {
            (_, None, None) | (Some(_), Some(_), None) => {}
            (Some((_, Some(ours))), _, Some(theirs)) if agree(ours, theirs) => {}
            (None, Some(name), _) | (None, None, Some(name)) => {
                unused.push(format!("VAE: {name}, but rendered with the checkpoint's"));
            }
            (Some((name, hash)), _, Some(theirs)) => {
                let hash = hash.map_or_else(String::new, |hash| format!(", hash {hash}"));
                unused.push(format!("VAE hash: {theirs}, but rendered with {name}{hash}"));
            }
        }
        if let (Some((name, Some(ours))), Some(theirs)) = (&self.refiner, text.get(REFINER))
            && theirs.rsplit_once(" [").is_some_and(|(_, hash)| !agree(ours, hash.trim_end_matches(']')))
        {
            unused.push(format!("{REFINER}: {theirs}, but rendered with {name} [{ours}]"));
        }
        let Some(resources) = text.get(RESOURCES) else { return Ok(unused) };
        let Ok(serde_json::Value::Object(resources)) = serde_json::from_str(resources) else {
            unused.push(format!("{RESOURCES}: not a JSON object"));
            return Ok(unused);
        };
        for (name, hash) in &resources {
            let Some(hash) = hash.as_str() else { continue };
            if !self.is_resource(name, hash, text)? {
                unused.push(format!("{RESOURCES}: {name} {hash}, which was not used"));
            }
        }
        Ok(unused)
    }

    /// Whether the render uses a file of [`RESOURCES`], or another field already tells whether it does.
    fn is_resource(&self, name: &str, theirs: &str, text: &Infotext) -> Result<bool> {
        match name {
            "model" => {
                let has_hash = self.model.first().is_some_and(Option::is_some);
                return Ok(!has_hash || text.get("Model hash").is_some() || self.is_model(theirs));
            }
            "vae" if text.get("VAE").or(text.get("VAE hash")).is_some() => return Ok(true),
            "vae" => return Ok(self.vae.is_some_and(|(_, ours)| ours.is_some_and(|ours| agree(ours, theirs)))),
            _ => {}
        }
        let Some((kind, name)) = name.split_once(':') else { return Ok(false) };
        let is_named = |network: &&UsedNetwork| network.kind.resource() == kind && network.name == name;
        let Some(network) = self.networks.iter().find(is_named) else { return Ok(false) };
        if agree(&network.hash, theirs) {
            return Ok(true);
        }
        Ok(agree(&file_sha256(Source::open(&network.path)?.as_ref(), &NoProgress)?, theirs))
    }
}

/// Whether two hashes have the same first digits.
fn agree(ours: &str, theirs: &str) -> bool {
    let length = ours.len().min(theirs.len());
    length >= LEGACY_DIGITS && ours.bytes().zip(theirs.bytes()).all(|(a, b)| a.eq_ignore_ascii_case(&b))
}

/// Returns names with hashes, sorted.
fn entries(field: &str) -> Vec<&str> {
    let mut all: Vec<&str> = field.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    all.sort_unstable();
    all.dedup();
    all
}
