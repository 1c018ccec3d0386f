//! Hyperparameters of networks that their tensors do not show, from the configurations of a diffusers folder.
//!
//! A single file has none: programs take those of the published models.

use serde_json::{Map, Value};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::error::{Error, Result};

use crate::layout::Folder;

/// Hyperparameters of the networks of a model. What is `None` or empty is that of the published models.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Hyperparameters {
    /// The attention heads of the UNet at each resolution, the highest first.
    pub unet_heads: Vec<usize>,
    /// Whether the UNet has no middle block, as in some distilled models.
    pub unet_lacks_middle: bool,
    /// The groups of each group norm of the UNet.
    pub unet_groups: Option<usize>,
    /// The groups of each group norm of the VAE.
    pub vae_groups: Option<usize>,
    /// Those of the first text encoder.
    pub text_encoder: TextHyperparameters,
    /// Those of the second text encoder.
    pub text_encoder_2: TextHyperparameters,
    /// The variance of the noise that each timestep adds.
    pub betas: Option<Vec<f64>>,
}

/// Hyperparameters of a text encoder. What is `None` is that of the published models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextHyperparameters {
    /// The attention heads.
    pub heads: Option<usize>,
    /// The activation of the MLPs.
    pub activation: Option<Activation>,
}

/// The activation of a text encoder's MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU, as in OpenCLIP.
    Gelu,
    /// The approximation of GELU that OpenAI's CLIP was trained with.
    QuickGelu,
}

/// The number of timesteps that Stable Diffusion was trained with.
const TIMESTEPS: u64 = 1000;

/// Fields of a UNet's configuration that change what it computes, with the values of all that can be rendered. The first
/// value is the default of diffusers.
const UNET: &[(&str, &[Fixed])] = &[
    ("act_fn", &[Fixed::Text("silu")]),
    ("addition_embed_type", &[Fixed::Null, Fixed::Text("text_time")]),
    ("attention_type", &[Fixed::Text("default")]),
    ("center_input_sample", &[Fixed::Bool(false)]),
    ("class_embed_type", &[Fixed::Null]),
    ("cross_attention_norm", &[Fixed::Null]),
    ("downsample_padding", &[Fixed::Number(1.0)]),
    ("dual_cross_attention", &[Fixed::Bool(false)]),
    ("encoder_hid_dim_type", &[Fixed::Null]),
    ("flip_sin_to_cos", &[Fixed::Bool(true)]),
    ("freq_shift", &[Fixed::Number(0.0)]),
    ("mid_block_only_cross_attention", &[Fixed::Null, Fixed::Bool(false)]),
    ("mid_block_scale_factor", &[Fixed::Number(1.0)]),
    ("norm_eps", &[Fixed::Number(1e-5)]),
    ("only_cross_attention", &[Fixed::Bool(false)]),
    ("resnet_out_scale_factor", &[Fixed::Number(1.0)]),
    ("resnet_skip_time_act", &[Fixed::Bool(false)]),
    ("resnet_time_scale_shift", &[Fixed::Text("default")]),
    ("time_cond_proj_dim", &[Fixed::Null]),
    ("time_embedding_act_fn", &[Fixed::Null]),
    ("time_embedding_type", &[Fixed::Text("positional")]),
    ("timestep_post_act", &[Fixed::Null]),
];

/// As [`UNET`], of a VAE.
const VAE: &[(&str, &[Fixed])] = &[("act_fn", &[Fixed::Text("silu")])];

/// As [`UNET`], of a text encoder.
const TEXT: &[(&str, &[Fixed])] = &[("layer_norm_eps", &[Fixed::Number(1e-5)])];

/// A value in a configuration.
enum Fixed {
    Null,
    Bool(bool),
    Number(f64),
    Text(&'static str),
}

impl Fixed {
    fn is(&self, value: &Value) -> bool {
        match self {
            Fixed::Null => value.is_null(),
            Fixed::Bool(fixed) => value.as_bool() == Some(*fixed),
            Fixed::Number(fixed) => value.as_f64() == Some(*fixed),
            Fixed::Text(fixed) => value.as_str() == Some(fixed),
        }
    }

    fn text(&self) -> String {
        match self {
            Fixed::Null => "null".to_owned(),
            Fixed::Bool(fixed) => fixed.to_string(),
            Fixed::Number(fixed) => fixed.to_string(),
            Fixed::Text(fixed) => format!("{fixed:?}"),
        }
    }
}

impl Hyperparameters {
    /// Reads the configurations of a folder. Absent fields have the defaults of diffusers and transformers, except for
    /// those of the scheduler. Those of a single file are the published ones.
    ///
    /// Fails if a configuration describes another network than those of Stable Diffusion.
    pub fn read(stored: &StoredCheckpoint) -> Result<Self> {
        let config = |name: &'static str, file| match stored.configs().get(name) {
            Some(Value::Object(fields)) => Some(Config { place: format!("{name}/{file}"), fields }),
            _ => None,
        };
        let of = |folder: Folder| config(folder.name(), "config.json");
        let mut found = Hyperparameters::default();
        if let Some(unet) = of(Folder::Unet) {
            unet.check(UNET)?;
            found.unet_heads = unet.heads()?;
            found.unet_lacks_middle = unet.fields.get("mid_block_type").is_some_and(Value::is_null);
            found.unet_groups = unet.count("norm_num_groups")?;
        }
        if let Some(vae) = of(Folder::Vae) {
            vae.check(VAE)?;
            found.vae_groups = vae.count("norm_num_groups")?;
        }
        if let Some(text) = of(Folder::TextEncoder) {
            found.text_encoder = text.text_encoder()?;
        }
        if let Some(text) = of(Folder::TextEncoder2) {
            found.text_encoder_2 = text.text_encoder()?;
        }
        if let Some(scheduler) = config("scheduler", "scheduler_config.json") {
            found.betas = scheduler.betas()?;
        }
        Ok(found)
    }

    /// Returns the hyperparameters of a model whose VAE was replaced by that of `vae`.
    #[must_use]
    pub fn with_vae_of(self, vae: &Self) -> Self {
        Hyperparameters { vae_groups: vae.vae_groups, ..self }
    }
}

/// A configuration of a folder.
struct Config<'a> {
    place: String,
    fields: &'a Map<String, Value>,
}

impl Config<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The error for a field that has another value than the models that can be rendered.
    fn wrong(&self, field: &str, expected: &str) -> Error {
        let value = self.fields.get(field).unwrap_or(&Value::Null);
        Error::unsupported(format!(
            "{}: {field} is {value}, expected {expected} in models that can be rendered",
            self.place
        ))
    }

    fn check(&self, fixed: &[(&str, &[Fixed])]) -> Result<()> {
        let is_allowed = |field: &str, allowed: &[Fixed]| {
            self.fields.get(field).is_none_or(|value| allowed.iter().any(|fixed| fixed.is(value)))
        };
        match fixed.iter().find(|(field, allowed)| !is_allowed(field, allowed)) {
            Some((field, allowed)) => {
                let allowed = allowed.iter().map(Fixed::text).collect::<Vec<_>>().join(" or ");
                Err(self.wrong(field, &allowed))
            }
            None => Ok(()),
        }
    }

    /// A positive number.
    fn count(&self, field: &str) -> Result<Option<usize>> {
        self.get(field).map(|value| count(value).ok_or_else(|| self.wrong(field, "a positive number"))).transpose()
    }

    /// The attention heads of a UNet at each resolution. In diffusers, `attention_head_dim` is their number.
    fn heads(&self) -> Result<Vec<usize>> {
        const DEFAULT: usize = 8;
        let field = ["num_attention_heads", "attention_head_dim"].into_iter().find(|field| self.get(field).is_some());
        let Some(field) = field else { return Ok(vec![DEFAULT]) };
        let heads = match self.get(field) {
            Some(Value::Array(list)) => list.iter().map(count).collect::<Option<Vec<_>>>(),
            Some(number) => count(number).map(|heads| vec![heads]),
            None => None,
        };
        heads.filter(|heads| !heads.is_empty()).ok_or_else(|| self.wrong(field, "positive numbers"))
    }

    fn text_encoder(&self) -> Result<TextHyperparameters> {
        const HEADS: usize = 8;
        self.check(TEXT)?;
        let activation = match self.get("hidden_act").map(Value::as_str) {
            None | Some(Some("quick_gelu")) => Activation::QuickGelu,
            Some(Some("gelu")) => Activation::Gelu,
            Some(_) => return Err(self.wrong("hidden_act", "\"quick_gelu\" or \"gelu\"")),
        };
        let heads = self.count("num_attention_heads")?.unwrap_or(HEADS);
        Ok(TextHyperparameters { heads: Some(heads), activation: Some(activation) })
    }

    /// The betas of a scheduler. `None` if it does not list them, as those of EDM.
    fn betas(&self) -> Result<Option<Vec<f64>>> {
        let number = |field: &str| self.get(field).and_then(Value::as_f64);
        if let Some(Value::Array(list)) = self.get("trained_betas") {
            let betas: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
            let betas = betas.filter(|betas| betas.len() as u64 == TIMESTEPS && betas.iter().all(is_share));
            return betas.map(Some).ok_or_else(|| self.wrong("trained_betas", "1000 numbers between 0 and 1"));
        }
        let (Some(first), Some(last), Some(spacing)) =
            (number("beta_start"), number("beta_end"), self.get("beta_schedule").and_then(Value::as_str))
        else {
            return Ok(None);
        };
        if self.get("num_train_timesteps").is_some_and(|steps| steps.as_u64() != Some(TIMESTEPS)) {
            return Err(self.wrong("num_train_timesteps", "1000"));
        }
        let spaced: fn(f64, f64) -> Vec<f64> = match spacing {
            "scaled_linear" => |first, last| scaled_linear(first, last).collect(),
            "linear" => |first, last| linear(first, last).collect(),
            _ => return Err(self.wrong("beta_schedule", "\"scaled_linear\" or \"linear\"")),
        };
        for (field, beta) in [("beta_start", first), ("beta_end", last)] {
            if !is_share(&beta) {
                return Err(self.wrong(field, "a number between 0 and 1"));
            }
        }
        Ok(Some(spaced(first, last)))
    }
}

/// Returns values from `first` to `last`, one for each timestep, at equal distances.
fn linear(first: f64, last: f64) -> impl Iterator<Item = f64> {
    (0..TIMESTEPS).map(move |time| first + (last - first) * time as f64 / (TIMESTEPS - 1) as f64)
}

/// Returns the betas from `first` to `last`, one for each timestep, whose square roots are at equal distances.
pub fn scaled_linear(first: f64, last: f64) -> impl Iterator<Item = f64> {
    linear(first.sqrt(), last.sqrt()).map(|root| root.powi(2))
}

fn is_share(beta: &f64) -> bool {
    *beta > 0.0 && *beta < 1.0
}

fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0)
}
