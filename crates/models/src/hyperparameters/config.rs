//! A configuration of a component, as diffusers and transformers write it.

use indexmap::IndexMap;
use serde_json::{Map, Value};
use trinart_ckpt_formats::error::{Error, Result};

use super::values::{Activation, SCHEDULER, TIMESTEPS, TextHyperparameters, linear, scaled_linear};

/// Fields of a UNet's configuration that no tensor shows, with the values of all published models. The first value is the
/// default of diffusers.
pub(super) const UNET: &[Field] = &[
    ("act_fn", &[Fixed::Text("silu")]),
    ("center_input_sample", &[Fixed::Bool(false)]),
    ("cross_attention_norm", &[Fixed::Null]),
    ("downsample_padding", &[Fixed::Number(1.0)]),
    ("flip_sin_to_cos", &[Fixed::Bool(true)]),
    ("freq_shift", &[Fixed::Number(0.0)]),
    ("mid_block_scale_factor", &[Fixed::Number(1.0)]),
    ("norm_eps", &[Fixed::Number(1e-5)]),
    ("resnet_out_scale_factor", &[Fixed::Number(1.0)]),
    ("resnet_skip_time_act", &[Fixed::Bool(false)]),
    ("resnet_time_scale_shift", &[Fixed::Text("default")]),
    ("time_embedding_act_fn", &[Fixed::Null]),
    ("time_embedding_type", &[Fixed::Text("positional")]),
    ("timestep_post_act", &[Fixed::Null]),
];

/// Fields of a UNet's configuration that tensors show too, with the values of all models that can be rendered.
pub(super) const RENDERABLE: &[Field] = &[
    ("addition_embed_type", &[Fixed::Null, Fixed::Text("text_time")]),
    ("attention_type", &[Fixed::Text("default")]),
    ("class_embed_type", &[Fixed::Null]),
    ("dual_cross_attention", &[Fixed::Bool(false)]),
    ("encoder_hid_dim_type", &[Fixed::Null]),
    ("mid_block_only_cross_attention", &[Fixed::Null, Fixed::Bool(false)]),
    ("only_cross_attention", &[Fixed::Bool(false)]),
    ("time_cond_proj_dim", &[Fixed::Null]),
];

/// As [`UNET`], of a VAE.
pub(super) const VAE: &[Field] = &[("act_fn", &[Fixed::Text("silu")])];

/// As [`UNET`], of a text encoder or an image encoder.
pub(super) const CLIP: &[Field] = &[("layer_norm_eps", &[Fixed::Number(1e-5)])];

/// A field and the values that it may have.
type Field = (&'static str, &'static [Fixed]);

/// A value in a configuration.
pub(super) enum Fixed {
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

/// A configuration of a folder.
pub(super) struct Config<'a> {
    pub(super) place: String,
    pub(super) fields: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    /// Returns the configuration with this name; `None` if the folder has none.
    pub(super) fn of(configs: &'a IndexMap<String, Value>, name: &str) -> Option<Self> {
        let file = if name == SCHEDULER { "scheduler_config.json" } else { "config.json" };
        let fields = configs.get(name)?.as_object()?;
        Some(Config { place: format!("{name}/{file}"), fields })
    }
}

impl Config<'_> {
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Describes a field that has another value than in published models.
    pub(super) fn unlike(&self, field: &str, expected: &str) -> String {
        /// Longer lists are counted.
        const LIST: usize = 8;
        let value = match self.fields.get(field) {
            Some(Value::Array(list)) if list.len() > LIST => format!("a list of {}", list.len()),
            Some(value) => value.to_string(),
            None => "missing".to_owned(),
        };
        format!("{}: {field} is {value}, expected {expected} as in published models", self.place)
    }

    pub(super) fn wrong(&self, field: &str, expected: &str) -> Error {
        Error::unsupported(self.unlike(field, expected))
    }

    /// Describes the first of these fields that has none of its values.
    pub(super) fn first_unlike(&self, fields: &[Field]) -> Option<String> {
        let is_allowed = |field: &str, allowed: &[Fixed]| {
            self.fields.get(field).is_none_or(|value| allowed.iter().any(|fixed| fixed.is(value)))
        };
        let (field, allowed) = fields.iter().find(|(field, allowed)| !is_allowed(field, allowed))?;
        let allowed = allowed.iter().map(Fixed::text).collect::<Vec<_>>().join(" or ");
        Some(self.unlike(field, &allowed))
    }

    /// Fails if one of these fields has none of its values.
    pub(super) fn check(&self, fields: &[Field]) -> Result<()> {
        self.first_unlike(fields).map_or(Ok(()), |text| Err(Error::unsupported(text)))
    }

    /// A positive number.
    pub(super) fn count(&self, field: &str) -> Result<Option<usize>> {
        self.get(field).map(|value| count(value).ok_or_else(|| self.wrong(field, "a positive number"))).transpose()
    }

    /// The field with the attention heads of a UNet, if there is one. In diffusers, `attention_head_dim` is their number.
    pub(super) fn field_of_heads(&self) -> Option<&'static str> {
        ["num_attention_heads", "attention_head_dim"].into_iter().find(|field| self.get(field).is_some())
    }

    /// The attention heads of a UNet at each resolution; one number if it is the same at all.
    pub(super) fn heads(&self) -> Result<Vec<usize>> {
        const DEFAULT: usize = 8;
        let Some(field) = self.field_of_heads() else { return Ok(vec![DEFAULT]) };
        let heads = match self.get(field) {
            Some(Value::Array(list)) => list.iter().map(count).collect::<Option<Vec<_>>>(),
            Some(number) => count(number).map(|heads| vec![heads]),
            None => None,
        };
        heads.filter(|heads| !heads.is_empty()).ok_or_else(|| self.wrong(field, "positive numbers"))
    }

    /// The heads and the activation of a text encoder or an image encoder.
    pub(super) fn clip(&self) -> Result<TextHyperparameters> {
        const HEADS: usize = 8;
        let activation = match self.get("hidden_act").map(Value::as_str) {
            None | Some(Some("quick_gelu")) => Activation::QuickGelu,
            Some(Some("gelu")) => Activation::Gelu,
            Some(_) => return Err(self.wrong("hidden_act", "\"quick_gelu\" or \"gelu\"")),
        };
        let heads = self.count("num_attention_heads")?.unwrap_or(HEADS);
        Ok(TextHyperparameters { heads: Some(heads), activation: Some(activation) })
    }

    /// A list of positive numbers. `None` if the field is missing or is something else.
    pub(super) fn counts(&self, field: &str) -> Option<Vec<u64>> {
        self.get(field)?.as_array()?.iter().map(|value| count(value).map(|count| count as u64)).collect()
    }

    /// The betas of a scheduler. `None` if it does not list them, as those of EDM.
    pub(super) fn betas(&self) -> Result<Option<Vec<f64>>> {
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

fn is_share(beta: &f64) -> bool {
    *beta > 0.0 && *beta < 1.0
}

fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0)
}
