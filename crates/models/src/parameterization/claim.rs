use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::family::Prediction;

/// The most latent channels whose mean and standard deviation are read (4 in SDXL, 16 in newer VAEs).
pub(super) const MOST_CHANNELS: usize = 128;

/// One statement about a model: a field, and its value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Claim {
    /// What the UNet predicts.
    Prediction(Prediction),
    /// Whether the noise schedule ends in pure noise.
    ZeroTerminalSnr(bool),
    /// How diffusers spaces the timesteps: `leading`, `trailing` or `linspace`.
    TimestepSpacing(String),
    /// The smallest sigma of an EDM model.
    SigmaMin(f64),
    /// The largest sigma of an EDM model.
    SigmaMax(f64),
    /// The standard deviation of the latents, to an EDM model.
    SigmaData(f64),
    /// The factor between the latents of the VAE and those of the UNet.
    ScalingFactor(f64),
    /// What is subtracted from each latent.
    ShiftFactor(f64),
    /// The mean of each latent channel.
    LatentsMean(Vec<f64>),
    /// The standard deviation of each latent channel.
    LatentsStd(Vec<f64>),
    /// Whether diffusers decodes in f32 although the weights are f16.
    ForceUpcast(bool),
}

impl Claim {
    /// The field in the words of diffusers, as in JSON.
    pub fn field(&self) -> &'static str {
        match self {
            Claim::Prediction(_) => "prediction",
            Claim::ZeroTerminalSnr(_) => "zero_terminal_snr",
            Claim::TimestepSpacing(_) => "timestep_spacing",
            Claim::SigmaMin(_) => "sigma_min",
            Claim::SigmaMax(_) => "sigma_max",
            Claim::SigmaData(_) => "sigma_data",
            Claim::ScalingFactor(_) => "scaling_factor",
            Claim::ShiftFactor(_) => "shift_factor",
            Claim::LatentsMean(_) => "latents_mean",
            Claim::LatentsStd(_) => "latents_std",
            Claim::ForceUpcast(_) => "force_upcast",
        }
    }

    /// Returns whether the claim is about the constants of the VAE.
    pub(super) fn is_of_vae(&self) -> bool {
        matches!(
            self,
            Claim::ScalingFactor(_)
                | Claim::ShiftFactor(_)
                | Claim::LatentsMean(_)
                | Claim::LatentsStd(_)
                | Claim::ForceUpcast(_)
        )
    }

    /// The value as text.
    pub fn value(&self) -> String {
        match self {
            Claim::Prediction(prediction) => prediction.name().to_owned(),
            Claim::ZeroTerminalSnr(value) | Claim::ForceUpcast(value) => value.to_string(),
            Claim::TimestepSpacing(value) => value.clone(),
            Claim::SigmaMin(value)
            | Claim::SigmaMax(value)
            | Claim::SigmaData(value)
            | Claim::ScalingFactor(value)
            | Claim::ShiftFactor(value) => value.to_string(),
            Claim::LatentsMean(values) | Claim::LatentsStd(values) => format!("{values:?}"),
        }
    }
}

/// Where a mark was found. An earlier variant takes precedence over a later one.
///
/// A file has no configuration, and a folder has neither keys nor a `.yaml`, so only metadata can contradict either.
/// Diffusers reads nothing but the configuration; WebUI, Forge and ComfyUI do not read metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MarkSource {
    /// The caller requested it.
    Request,
    /// A tensor whose key is a mark.
    Key,
    /// The configuration of a diffusers folder.
    Config,
    /// A metadata field.
    Metadata,
    /// The configuration file beside the checkpoint.
    Yaml,
    /// The values of a weight.
    Statistic,
    /// Nothing: the value of the published models of the architecture.
    Default,
}

impl MarkSource {
    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            MarkSource::Request => "request",
            MarkSource::Key => "key",
            MarkSource::Config => "config",
            MarkSource::Metadata => "metadata",
            MarkSource::Yaml => "yaml",
            MarkSource::Statistic => "statistic",
            MarkSource::Default => "default",
        }
    }
}

/// A claim, and where it was found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Mark {
    /// The kind of place.
    pub source: MarkSource,
    /// The place: a key, a metadata field, a field of a configuration file.
    pub place: String,
    /// The claim.
    pub claim: Claim,
}

impl Mark {
    pub(crate) fn new(source: MarkSource, place: impl Into<String>, claim: Claim) -> Self {
        Mark { source, place: place.into(), claim }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Mark {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mark".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let text = || serde_json::json!({ "type": "string" });
        schemars::json_schema!({
            "description": "A mark: what it says about a field, and where it was found.",
            "type": "object",
            "properties": { "source": text(), "place": text(), "field": text(), "value": text() },
            "required": ["source", "place", "field", "value"]
        })
    }
}

impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Mark", 4)?;
        fields.serialize_field("source", self.source.name())?;
        fields.serialize_field("place", &self.place)?;
        fields.serialize_field("field", self.claim.field())?;
        fields.serialize_field("value", &self.claim.value())?;
        fields.end()
    }
}
