//! What to render: typed, or read from a picture; and how the picture says it.

use super::args::{RenderCheck, RngArgument, SyntaxArgument};
use super::like::{PROMPT_SYNTAX, ReferencePicture, WEIGHT_DTYPE};
use crate::error::{Error, Result};
use crate::render::infotext::{Infotext, as_read};
use crate::render::pipeline::Settings;
use crate::render::prompt::{Preset, Syntax};
use crate::render::rng::NoiseSource;
use crate::render::sampler::Sampler;
use crate::render::schedule::ScheduleType;
use crate::tensor::Dtype;

/// What was typed, or stands in the picture that is to be made again.
///
/// `dtype` is the type of weights that is taken where nothing is said.
pub(super) fn settings(command: &RenderCheck, reference: &ReferencePicture, dtype: Dtype) -> Result<Settings> {
    let name = command.sampler.as_deref().or(reference.text("Sampler")).unwrap_or(Sampler::default().name());
    let (sampler, schedule) = Sampler::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Sampler::ALL.iter().map(|sampler| sampler.name()).collect();
        Error::usage(format!("no sampler {name:?}; there are {} and DPM++ 2M Karras", known.join(", ")))
    })?;
    let schedule = match schedule {
        Some(schedule) => schedule,
        None => reference.schedule(sampler)?.unwrap_or(ScheduleType::Uniform),
    };
    let preset = command.preset.as_deref().and_then(Preset::from_name);
    let negative = command.negative.as_deref().unwrap_or(reference.negative());
    let negative = preset.map_or(negative.to_owned(), |preset| preset.extend(negative));
    let rng = match command.rng {
        Some(RngArgument::Cpu) => Some(NoiseSource::Cpu),
        Some(RngArgument::Nv) => Some(NoiseSource::Nv),
        None => {
            reference.one_of("RNG", &[("GPU", NoiseSource::Nv), ("NV", NoiseSource::Nv), ("CPU", NoiseSource::Cpu)])?
        }
    };
    let syntax = match command.prompt_syntax {
        Some(SyntaxArgument::Webui) => Some(Syntax::WebUi),
        Some(SyntaxArgument::Trinart) => Some(Syntax::Trinart),
        None => reference.one_of(PROMPT_SYNTAX, &[("trinart", Syntax::Trinart)])?,
    };
    let dtype = match command.dtype {
        Some(dtype) => dtype.into(),
        None => reference
            .one_of(WEIGHT_DTYPE, &[Dtype::F16, Dtype::BF16, Dtype::F32].map(|dtype| (dtype.name(), dtype)))?
            .unwrap_or(if reference.is_ours() { Dtype::F32 } else { dtype }),
    };
    let size = command.size.map_or_else(|| reference.size(), |it| Ok(Some(it)))?.unwrap_or((512, 512));
    let is_count = |it: &u16| (1..=1000).contains(it);
    let steps = command.steps.map_or_else(|| reference.number("Steps", is_count), |it| Ok(Some(it)))?;
    let cfg =
        command.cfg.map_or_else(|| reference.number("CFG scale", |it: &f64| it.is_finite()), |it| Ok(Some(it)))?;
    let seed = command.seed.map_or_else(|| reference.number("Seed", |_| true), |it| Ok(Some(it)))?;
    let clip_skip = command.clip_skip.map_or_else(|| reference.number("Clip skip", |it| *it > 0), |it| Ok(Some(it)))?;
    Ok(Settings {
        prompt: as_read(command.prompt.as_deref().unwrap_or(reference.prompt())),
        negative: as_read(&negative),
        syntax: syntax.unwrap_or_default(),
        steps: steps.map_or(20, usize::from),
        sampler,
        schedule,
        cfg: cfg.unwrap_or(7.0),
        seed: seed.unwrap_or(0),
        seed_delta: reference.number("ENSD", |_| true)?.unwrap_or(0),
        rng: rng.unwrap_or(NoiseSource::Nv),
        width: size.0,
        height: size.1,
        dtype,
        clip_skip: clip_skip.map_or(1, usize::from),
    })
}

/// What goes into the picture, in WebUI's order. `model` and `hash` are the checkpoint's, `vae` is the name and the hash of
/// the autoencoder that was asked for.
pub(super) fn infotext(settings: &Settings, model: &str, hash: Option<&str>, vae: Option<(&str, &str)>) -> Infotext {
    let mut text =
        Infotext { prompt: settings.prompt.clone(), negative: settings.negative.clone(), ..Infotext::default() };
    text.push("Steps", settings.steps);
    text.push("Sampler", settings.sampler.name());
    if settings.sampler.has_schedule() {
        text.push("Schedule type", settings.schedule.name());
    }
    text.push("CFG scale", settings.cfg);
    text.push("Seed", settings.seed);
    text.push("Size", format!("{}x{}", settings.width, settings.height));
    if let Some(hash) = hash {
        text.push("Model hash", hash);
    }
    text.push("Model", model);
    if let Some((name, hash)) = vae {
        if !hash.is_empty() {
            text.push("VAE hash", hash);
        }
        text.push("VAE", name);
    }
    if settings.clip_skip > 1 {
        text.push("Clip skip", settings.clip_skip);
    }
    if settings.seed_delta != 0 && settings.sampler.is_ancestral() {
        text.push("ENSD", settings.seed_delta);
    }
    text.push("RNG", settings.rng.name());
    if settings.syntax == Syntax::Trinart {
        text.push(PROMPT_SYNTAX, "trinart");
    }
    if settings.dtype != Dtype::F32 {
        text.push(WEIGHT_DTYPE, settings.dtype);
    }
    text.push("Version", concat!("trinart-ckpt ", env!("CARGO_PKG_VERSION")));
    text
}
