use std::fmt::Write;
use std::path::Path;

use indexmap::IndexMap;
use serde::Serialize;

use crate::report::write_report::LeftOut;
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::tensor::{NonFiniteTensor, non_finite};
use trinart_ckpt_models::Component;
use trinart_ckpt_models::hash::FileHashes;
use trinart_ckpt_models::published::PublishedFile;

/// The hashes of one file, as [`HashCheckpoint`](crate::HashCheckpoint) returns them. All are lower-case hexadecimal.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Hashes {
    /// The path of the file or folder.
    pub file: String,
    /// The sha256 of the file; `None` for folders.
    pub sha256: Option<String>,
    /// AutoV2: the first ten digits of the sha256; `None` for folders.
    pub autov2: Option<String>,
    /// AutoV3: twelve digits of the hash of the data after a safetensors header; `None` for other containers.
    pub autov3: Option<String>,
    /// The model hash of WebUI before January 2023, eight digits; `None` for folders.
    pub legacy: Option<String>,
    /// The published file with this size and sha256.
    pub published: Option<&'static PublishedFile>,
    /// The content hash of each component; see [`content_hash`](trinart_ckpt_models::hash::content_hash).
    pub components: IndexMap<Component, String>,
    /// The content hash of each component whatever its dtype: of the values rounded to f16; see
    /// [`rounded_hash`](trinart_ckpt_models::hash::rounded_hash).
    pub rounded: IndexMap<Component, String>,
    /// model-toolkit's numbers of UNet, VAE and text encoder, such as `2020/2982/0130`.
    pub toolkit: Option<String>,
    /// Which VAE it is, in words: a file with the same values, or a hint.
    pub which_vae: Option<String>,
    /// A hint which text encoder it is, in words.
    pub which_text_encoder: Option<String>,
    /// Tensors that cannot be read. No hash of a component covers them.
    pub unreadable: Vec<LeftOut>,
    /// The tensors with NaN or infinite values.
    pub non_finite: Vec<NonFiniteTensor>,
}

impl Hashes {
    /// Combines the hashes of a file and of its components.
    pub(crate) fn new(
        path: &Path,
        file: Option<FileHashes>,
        published: Option<&'static PublishedFile>,
        components: Vec<(Component, String)>,
        unreadable: Vec<LeftOut>,
        non_finite: Vec<NonFiniteTensor>,
    ) -> Self {
        Hashes {
            file: path.to_string_lossy().into_owned(),
            autov2: file.as_ref().map(|file| file.autov2().to_owned()),
            sha256: file.as_ref().map(|file| file.sha256.clone()),
            autov3: file.as_ref().and_then(|file| file.autov3.clone()),
            legacy: file.map(|file| file.legacy),
            published,
            components: components.into_iter().collect(),
            rounded: IndexMap::new(),
            toolkit: None,
            which_vae: None,
            which_text_encoder: None,
            unreadable,
            non_finite,
        }
    }

    /// Formats the hashes, one per line.
    pub fn to_text(&self) -> String {
        let mut out = format!("{}\n", printable(&self.file));
        let mut line = |label: &str, text: &str| {
            let _ = writeln!(out, "  {label:<17} {text}");
        };
        let of_file = [
            ("sha256", &self.sha256),
            ("AutoV2", &self.autov2),
            ("AutoV3", &self.autov3),
            ("legacy hash", &self.legacy),
        ];
        for (name, hash) in of_file {
            if let Some(hash) = hash {
                line(name, hash);
            }
        }
        if let Some(published) = &self.published {
            line("published as", &published.to_text());
        }
        for (component, hash) in &self.components {
            line(component.text(), hash);
        }
        let is_part = |it: &Component| matches!(it, Component::Unet | Component::Vae | Component::TextEncoder);
        for (component, hash) in self.rounded.iter().filter(|(component, _)| is_part(component)) {
            line(&format!("{} F16", component.text()), hash);
        }
        for (label, text) in [
            ("which VAE", &self.which_vae),
            ("which encoder", &self.which_text_encoder),
            ("model-toolkit", &self.toolkit),
        ] {
            if let Some(text) = text {
                line(label, &printable(text));
            }
        }
        for tensor in &self.unreadable {
            line("not hashed", &tensor.to_text());
        }
        if let Some(text) = non_finite::to_text(&self.non_finite) {
            line("note", &printable(&text));
        }
        out
    }
}
