//! What to render: typed, or read from a picture; and how the picture says it.

use super::args::{RenderCheck, RngArgument, SyntaxArgument};
use super::model::Model;
use crate::error::{Error, Result};
use crate::render::infotext::Infotext;
use crate::render::pipeline::Settings;
use crate::render::prompt::{Preset, Syntax};
use crate::render::rng::Source;
use crate::render::sampler::Sampler;
use crate::render::schedule::Spacing;
use crate::tensor::Dtype;

/// What was typed, or stands in the picture that is to be made again.
pub(super) fn settings(command: &RenderCheck, liked: Option<&str>) -> Result<Settings> {
    let liked = liked.map(Infotext::parse).unwrap_or_default();
    if command.like.is_some() && liked.fields.is_empty() {
        let found = "the picture has no parameters that WebUI would have written";
        return Err(Error::missing(found).in_file(command.like.clone().unwrap_or_default()));
    }
    let number = |name: &str| liked.get(name).and_then(|value| value.parse::<f64>().ok());
    let said = |name: &str| liked.get(name).map(str::to_owned);
    let name = command.sampler.clone().or(said("Sampler")).unwrap_or_else(|| Sampler::default().name().to_owned());
    let (sampler, spacing) = Sampler::from_name(&name).ok_or_else(|| {
        let known: Vec<&str> = Sampler::ALL.iter().map(|sampler| sampler.name()).collect();
        Error::usage(format!("no sampler {name:?}; there are {} and DPM++ 2M Karras", known.join(", ")))
    })?;
    let spacing = spacing.unwrap_or(match liked.get("Schedule type") {
        Some("Karras") => Spacing::Karras,
        Some("Automatic") => sampler.automatic_spacing(),
        _ => Spacing::Uniform,
    });
    let size = match (&command.size, liked.get("Size")) {
        (Some(size), _) => *size,
        (None, Some(text)) => super::args::size(text).map_err(Error::usage)?,
        (None, None) => (512, 512),
    };
    let preset = command.preset.as_deref().and_then(Preset::from_name);
    let negative = command.negative.clone().unwrap_or(liked.negative.clone());
    let rng = match (command.rng, liked.get("RNG")) {
        (Some(RngArgument::Cpu), _) | (None, Some("CPU")) => Source::Cpu,
        _ => Source::Nv,
    };
    Ok(Settings {
        prompt: command.prompt.clone().unwrap_or(liked.prompt.clone()),
        negative: preset.map_or(negative.clone(), |preset| preset.extend(&negative)),
        syntax: match command.prompt_syntax {
            SyntaxArgument::Webui => Syntax::WebUi,
            SyntaxArgument::Trinart => Syntax::Trinart,
        },
        steps: command.steps.map(usize::from).or(number("Steps").map(|it| it as usize)).unwrap_or(20).clamp(1, 1000),
        sampler,
        spacing,
        cfg: command.cfg.or(number("CFG scale")).unwrap_or(7.0),
        seed: command.seed.or(liked.get("Seed").and_then(|it| it.parse().ok())).unwrap_or(0),
        rng,
        width: size.0,
        height: size.1,
        dtype: command.dtype.map_or(Dtype::F32, Into::into),
        clip_skip: command.clip_skip.map(usize::from).or(number("Clip skip").map(|it| it as usize)).unwrap_or(1),
    })
}

/// What goes into the picture, in WebUI's order.
pub(super) fn infotext(command: &RenderCheck, settings: &Settings, model: &Model) -> Infotext {
    let mut text = Infotext {
        prompt: settings.prompt.trim().to_owned(),
        negative: settings.negative.trim().to_owned(),
        ..Infotext::default()
    };
    text.push("Steps", settings.steps);
    text.push("Sampler", settings.sampler.name());
    if settings.sampler.has_spacing() {
        text.push("Schedule type", settings.spacing.name());
    }
    text.push("CFG scale", settings.cfg);
    text.push("Seed", settings.seed);
    text.push("Size", format!("{}x{}", settings.width, settings.height));
    if let Some(hash) = &model.hash {
        text.push("Model hash", hash);
    }
    text.push("Model", &model.name);
    if command.prompt_syntax == SyntaxArgument::Trinart {
        text.push("Prompt syntax", "trinart");
    }
    text
}

pub(super) fn finish_infotext(text: &mut Infotext, settings: &Settings) {
    if settings.clip_skip > 1 {
        text.push("Clip skip", settings.clip_skip);
    }
    text.push("RNG", settings.rng.name());
    text.push("Version", concat!("trinart-ckpt ", env!("CARGO_PKG_VERSION")));
}
