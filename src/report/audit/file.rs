use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One file of an audit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditedFile {
    /// The path.
    pub file: String,
    /// The size in bytes.
    pub bytes: u64,
    /// The container; empty if the file could not be read.
    pub container: String,
    /// The kind of file, a word of [`FileKind`](trinart_ckpt_models::FileKind); empty if it could not be read.
    pub kind: String,
    /// What the file is, in words.
    pub name: String,
    /// The architecture in words, or the model that the file belongs to; empty if unknown.
    pub architecture: String,
    /// The dtypes of most weights: `F16`, or `F16+F32`.
    pub dtype: String,
    /// The VAE.
    pub vae: VaeState,
    /// The VAE that it is: a file with the same values, a published one, or a hint.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub which_vae: Option<String>,
    /// Bytes of EMA weights.
    pub ema_bytes: u64,
    /// What the UNet predicts; empty without one.
    pub prediction: String,
    /// The bytes of each component.
    pub components: BTreeMap<String, u64>,
    /// Hashes; only of a deep audit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hashes: Option<AuditedHashes>,
    /// The picture beside the file that shows what it makes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub preview: Option<String>,
    /// The renders of render-check beside the file.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub renders: Vec<String>,
}

/// Where the VAE of a checkpoint is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum VaeState {
    /// The file is of a kind that has none.
    #[default]
    NotApplicable,
    /// In the file.
    Own,
    /// In the file, and incomplete.
    Broken,
    /// In a file beside it, which WebUI loads.
    Beside,
    /// There is none.
    Missing,
}

impl VaeState {
    /// The state in a word or two.
    pub fn text(self) -> &'static str {
        match self {
            VaeState::NotApplicable => "-",
            VaeState::Own => "yes",
            VaeState::Broken => "BROKEN",
            VaeState::Beside => "beside",
            VaeState::Missing => "NONE",
        }
    }
}

/// The hashes of a file, lower-case hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditedHashes {
    /// The sha256 of the file; empty for folders.
    pub sha256: String,
    /// AutoV2.
    pub autov2: String,
    /// AutoV3; empty for other containers than safetensors.
    pub autov3: String,
    /// The model hash of WebUI before January 2023.
    pub legacy: String,
    /// The content hash of each component.
    pub components: BTreeMap<String, String>,
    /// The content hash of each component whatever its dtype: of values rounded to f16.
    pub rounded: BTreeMap<String, String>,
    /// The content hash of the VAE rounded to bf16, and whether it is stored so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vae_bf16: Option<String>,
    /// Whether the VAE is stored in BF16.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub vae_is_bf16: bool,
    /// model-toolkit's numbers of UNet, VAE and text encoder.
    pub metric: String,
}
