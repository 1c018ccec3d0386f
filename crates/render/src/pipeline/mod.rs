//! The render pipeline: text encoder, UNet with a sampler, VAE.

mod calls;
mod guidance;
mod model;
mod noise;
mod nonfinite;
mod probes;
mod target;
mod text;

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use crate::checks::{self, Check, Statistics, Verdict};
use crate::errors::from_candle;
use crate::kernels::Accelerator;
use crate::networks::{Conditioning, TextEncoders, Unet};
use crate::observer::Trace;
use crate::ops::Engine;
use crate::picture::Picture;
use crate::prompt::{Schedule, Tokenizer};
use crate::sampling::{Sampler, SamplerContext, sample};
use crate::settings::Settings;
use crate::weights::values;
use calls::{Expert, NonFiniteCall, Successor, UnetCalls};
use guidance::Guidance;
use noise::{LATENT_CHANNELS, NoiseDrawing};
use nonfinite::{F16_MAX, first_layer, weight_checks};
use target::{Decoded, RenderTarget};
use text::EncodedText;
pub(super) use text::ParsedPrompts;
use trinart_ckpt_formats::error::{Error, Hint, Result};
use trinart_ckpt_formats::io::Progress;
use trinart_ckpt_models::completeness::refuse_incomplete_vae;
use trinart_ckpt_models::family::Architecture;
use trinart_ckpt_models::renderable;

pub use model::Model;

/// Duration of each stage in seconds.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Timings {
    /// Loading and running the text encoder.
    pub text: f64,
    /// Loading the UNet.
    pub load: f64,
    /// All sampling steps.
    pub sampling: f64,
    /// Each UNet call with all prompts.
    pub calls: Vec<f64>,
    /// Loading and running the VAE.
    pub decode: f64,
}

/// The result of [`render`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Rendered {
    /// The picture.
    pub picture: Picture,
    /// The latent of the picture, in the UNet's scale.
    pub latent: Vec<f32>,
    /// The checks of all stages.
    pub checks: Vec<Check>,
    /// The time of each stage.
    pub timings: Timings,
}

/// Renders a picture with a model, on the CPU or, given a `machine`, with kernels. Noise and
/// samplers always run on the CPU, so that pictures depend on the device as little as possible.
///
/// NaN and infinite values do not stop the render: a failed check names the stage, the step, the first layer with such
/// values and the flawed weights.
///
/// `stages` observes `text.prompt.0` and so on (one for each part of an AND, at the first step),
/// `text.negative`, `noise`, `epsilon.1` and so
/// on (each call of the UNet, with guidance), `latent.1` and so on (after each step, in the sampler's scale), `latent` and
/// `decoded`.
///
/// Fails if the settings or the checkpoint are not supported, if weights are missing or cannot be read, or if `progress`
/// reports an interrupt.
pub fn render(
    model: &Model,
    settings: &Settings,
    machine: Option<&Arc<dyn Accelerator>>,
    stages: &Trace,
    progress: &dyn Progress,
) -> Result<Rendered> {
    settings.check()?;
    check(model, settings)?;
    let target = RenderTarget::new(model, settings.dtype, machine)?;
    let (checks, timings) = (Vec::new(), Timings::default());
    let mut render = Render { model, settings, stages, checks, timings };

    let begin = Instant::now();
    let text = render.encode_prompts(&target)?;
    let refiner = model.refiner().map(|refiner| render.prepare_refiner(refiner, machine)).transpose()?;
    render.timings.text = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    let image = render.image_conditioning(&target)?;
    let encoded = render.encoded_picture(&target)?;
    let unet = Unet::load(&target.weights())?;
    render.timings.load = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let latent = render.sample(unet, &text, [image, encoded], refiner.as_ref(), progress)?;
    render.timings.sampling = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    progress.check()?;
    progress.begin_steps("decoding", 1);
    let picture = render.decode(&target, &latent)?;
    render.timings.decode = begin.elapsed().as_secs_f64();
    let latent = values(&latent)?;
    render.checks.push(checks::latent(&latent, model.denoiser()?.data()));
    render.checks.extend(checks::picture(&picture));
    render.checks.extend(weight_checks(&target.flaws));
    if let Some(refiner) = &refiner {
        let of_refiner = |check: Check| Check { found: format!("in the refiner: {}", check.found), ..check };
        render.checks.extend(weight_checks(&refiner.target.flaws).into_iter().map(of_refiner));
    }
    Ok(Rendered { picture, latent, checks: render.checks, timings: render.timings })
}

/// A refiner with its prompts, before it is loaded.
struct PreparedRefiner<'a> {
    model: &'a Model,
    target: RenderTarget,
    text: EncodedText,
}

/// Fails if a model cannot be rendered with these settings: the refiner alone, one without a whole VAE, or an EDM model, which has no timesteps,
/// with a sampler that needs them.
pub(crate) fn check(model: &Model, settings: &Settings) -> Result<()> {
    renderable::check(model.architecture(), model.parameterization().prediction)?;
    refuse_incomplete_vae(model.state_dict())?;
    check_latent_channels(model)?;
    let sampler = settings.sampler;
    match model.denoiser()?.is_edm() && (!sampler.has_schedule() || sampler == Sampler::Lcm) {
        true => Err(Error::usage(format!(
            "the sampler {} needs timesteps, and EDM models have none: choose another sampler, such as Euler",
            sampler.name()
        ))),
        false => Ok(()),
    }
}

/// Fails if the VAE is not for latents of Stable Diffusion.
fn check_latent_channels(model: &Model) -> Result<()> {
    const KEY: &str = "first_stage_model.decoder.conv_in.weight";
    match model.state_dict().get(KEY).map(|tensor| tensor.shape().dims()) {
        Some(&[_, channels, ..]) if channels != LATENT_CHANNELS as u64 => {
            let expected = format!("expected {LATENT_CHANNELS}, as in every Stable Diffusion up to SDXL");
            let found = format!("the VAE is of another family: its latents have {channels} channels, {expected}");
            Err(Error::unsupported(found).in_tensor(KEY).with_hint(Hint::NameVae))
        }
        _ => Ok(()),
    }
}

struct Render<'a> {
    model: &'a Model,
    settings: &'a Settings,
    stages: &'a Trace,
    checks: Vec<Check>,
    timings: Timings,
}

impl Render<'_> {
    /// Encodes the prompt and the negative prompt.
    fn encode_prompts(&mut self, target: &RenderTarget) -> Result<EncodedText> {
        let tokenizer = Tokenizer::new()?.with_embeddings(&self.settings.embeddings);
        let prompts = ParsedPrompts::parse(self.settings, &tokenizer)?;
        let mut encoders = TextEncoders::load(&target.weights())?;
        encoders.add_embeddings(&self.settings.embeddings)?;
        let text = EncodedText::new(&prompts, &encoders, &tokenizer, self.settings)?;
        for (index, (_, part)) in text.parts.iter().enumerate() {
            self.see_text(&format!("prompt.{index}"), part.at(0));
        }
        self.see_text("negative", text.negative.at(0));
        let statistics = text_statistics(&text)?;
        self.check_finite("text finite", &statistics, String::new);
        self.checks.push(checks::text_encoder(statistics.deviation, text.word_distance));
        if self.settings.clip_skip > 1 && !encoders.has_clip_skip() {
            let found = format!("ignored: {} has a fixed layer, as in WebUI", self.model.architecture().text());
            self.checks.push(Check::info("clip skip", found));
        }
        Ok(text)
    }

    fn see_text(&self, name: &str, encoded: &Conditioning) {
        self.stages.seen(&format!("text.{name}"), &encoded.context);
        if let Some(vector) = &encoded.vector {
            self.stages.seen(&format!("text.{name}.vector"), vector);
        }
    }

    /// Encodes the prompts for the refiner. Embeddings are for the text encoders of the base, so it gets their names as words.
    fn prepare_refiner<'m>(
        &mut self,
        model: &'m Model,
        machine: Option<&Arc<dyn Accelerator>>,
    ) -> Result<PreparedRefiner<'m>> {
        let target = RenderTarget::new(model, self.settings.dtype, machine)?;
        let tokenizer = Tokenizer::new()?;
        let prompts = ParsedPrompts::parse(self.settings, &tokenizer)?;
        let encoders = TextEncoders::load(&target.weights())?;
        let text = EncodedText::new(&prompts, &encoders, &tokenizer, self.settings)?;
        self.check_finite("refiner text finite", &text_statistics(&text)?, String::new);
        Ok(PreparedRefiner { model, target, text })
    }

    /// Returns the image that the UNet of an inpainting or instruct-pix2pix model takes besides the latent, as in WebUI's
    /// txt2img: a gray picture, masked as a whole.
    fn image_conditioning(&self, target: &RenderTarget) -> Result<Option<Tensor>> {
        let channels = self.model.image_channels(LATENT_CHANNELS);
        if channels == 0 {
            return Ok(None);
        }
        let Settings { width, height, .. } = *self.settings;
        let gray = Tensor::zeros((1, 3, height, width), DType::F32, &Device::Cpu).map_err(from_candle)?;
        let mean = target.encode(&gray)?;
        // Instruct-pix2pix takes the latent of the VAE without scaling, except for CosXL Edit.
        let has_mask = channels == LATENT_CHANNELS + 1;
        let is_scaled = has_mask || self.model.denoiser()?.is_edm();
        let latent = if is_scaled { self.model.to_unet(&mean)? } else { mean };
        let image = || match has_mask {
            true => {
                let (_, _, height, width) = latent.dims4()?;
                let mask = Tensor::ones((1, 1, height, width), DType::F32, &Device::Cpu)?;
                Tensor::cat(&[&mask, &latent], 1)
            }
            false => Ok(latent.clone()),
        };
        let image = image().map_err(from_candle)?;
        self.stages.seen("image", &image);
        Ok(Some(image))
    }

    /// Adds a check that fails on NaN and infinite values. `place` describes where they occurred.
    fn check_finite(&mut self, name: &'static str, statistics: &Statistics, place: impl FnOnce() -> String) {
        let found = match statistics.is_finite() {
            true => "all values are finite".to_owned(),
            false => format!("{} NaN, {} infinite{}", statistics.nan, statistics.infinite, place()),
        };
        self.checks.push(Check::judge(name, statistics.is_finite(), found, "no NaN or infinite values"));
    }

    /// The latent of a picture, for the check of whether the UNet knows the latents of this VAE. `None` for models that
    /// take an image: theirs has the size of the render.
    fn encoded_picture(&self, target: &RenderTarget) -> Result<Option<Tensor>> {
        if self.model.takes_image() {
            return Ok(None);
        }
        let picture = probes::picture(self.settings.width, self.settings.height).to_tensor(&Device::Cpu)?;
        self.model.to_unet(&target.encode(&picture)?).map(Some)
    }

    /// Samples a latent, in the UNet's scale. `encoded` is that of [`Self::encoded_picture`].
    fn sample(
        &mut self,
        unet: Unet,
        text: &EncodedText,
        [image, encoded]: [Option<Tensor>; 2],
        refiner: Option<&PreparedRefiner<'_>>,
        progress: &dyn Progress,
    ) -> Result<Tensor> {
        let (settings, stages) = (self.settings, self.stages);
        let (noise_schedule, denoiser) = (self.model.noise_schedule(settings)?, self.model.denoiser()?);
        let guidance = Guidance::new(settings, text, image, denoiser, noise_schedule.clone());
        let successor = refiner.map(|refiner| {
            Successor::new(settings, &noise_schedule, move || {
                let schedule = refiner.model.noise_schedule(settings)?;
                let unet = Unet::load(&refiner.target.weights())?;
                Ok(Expert { unet, guidance: Guidance::new(settings, &refiner.text, None, denoiser, schedule) })
            })
        });
        let mut drawing = NoiseDrawing::new(settings);
        let noise = drawing.draw()?;
        stages.seen("noise", &noise);
        let count = settings.sampler.calls(&noise_schedule, settings.schedule, settings.steps);
        progress.begin_steps("sampling", count.unwrap_or(settings.steps) as u64);
        let mut calls = UnetCalls::new(Expert { unet, guidance }, successor, stages, progress);
        let mut watch = |step: usize, latent: &Tensor| {
            stages.seen(&format!("latent.{}", step + 1), latent);
            Ok(())
        };
        let mut context = SamplerContext {
            noise_schedule: &noise_schedule,
            denoiser,
            schedule: settings.schedule,
            steps: settings.steps,
            tuning: settings.webui.sampler,
            source: settings.rng,
            seed: settings.seed,
            predict: &mut |x, time| calls.predict(x, time),
            draw: &mut || drawing.draw(),
            watch: &mut watch,
        };
        let latent = sample(settings.sampler, &noise, &mut context)?;
        stages.seen("latent", &latent);
        let UnetCalls { expert, seconds, first, non_finite, refined_from, .. } = calls;
        let count = seconds.len();
        self.timings.calls = seconds;
        if refiner.is_some() {
            let found = match refined_from {
                Some(first) => format!("from call {first} of {count}"),
                None => format!("not used: {count} calls end before its share"),
            };
            let expected = "it takes over: a lower --switch-at or more steps";
            self.checks.push(Check::warn("refiner", refined_from.is_some(), found, expected));
        }
        // The refiner only knows latents with little noise.
        if let Some(first) = first.filter(|_| refined_from != Some(1)) {
            self.checks.push(checks::answer(&values(&noise)?, &first, settings.width / 8, denoiser));
        }
        if let Some((expert, encoded)) = expert.zip(encoded).filter(|_| refined_from.is_none()) {
            let found = |latent: &Tensor, level| probes::found_noise(&expert, denoiser, &noise_schedule, latent, level);
            let encoded = found(&encoded, probes::IN_ENCODED_PICTURE)?;
            self.checks.push(checks::denoising(encoded, found(&latent, probes::IN_OWN_LATENT)?));
        }
        match non_finite {
            None => self.check_finite("UNet finite", &Statistics::default(), String::new),
            Some(NonFiniteCall { number, statistics, layer }) => {
                self.check_finite("UNet finite", &statistics, || format!(" at call {number} of {count}{layer}"));
            }
        }
        Ok(latent)
    }

    /// Decodes a latent, and encodes the image again to check the VAE.
    fn decode(&mut self, target: &RenderTarget, latent: &Tensor) -> Result<Picture> {
        let z = self.model.to_vae(latent)?;
        let Decoded { vae, image, overflow, first_non_finite } = match &target.engine {
            Engine::Candle => target.decode_on_cpu(&z)?,
            Engine::Kernels(kernels) => target.decode_with_f32_fallback(kernels, &z)?,
        };
        self.stages.seen("decoded", &image);
        let statistics = Statistics::of(&values(&image)?);
        self.check_finite("decoder finite", &statistics, || first_layer(first_non_finite));
        if let Some(found) = overflow {
            self.checks.push(Check {
                name: "half precision",
                verdict: Verdict::Repaired,
                found,
                expected: format!(
                    "at most {F16_MAX}: WebUI needs --no-half-vae with this VAE{}",
                    self.known_overflow()
                ),
            });
        }
        if statistics.is_finite() {
            let (again, _) = vae.encode(&image)?;
            self.checks.extend(checks::round_trip(&values(&z)?, &values(&again)?, self.other_family()));
        }
        Picture::from_decoded(&image)
    }
}

/// What the checks know of families.
impl Render<'_> {
    /// The family whose VAE has the same shapes, but other latents.
    fn other_family(&self) -> &'static str {
        if self.is_sdxl() { "SD v1" } else { "SDXL" }
    }

    fn known_overflow(&self) -> &'static str {
        if self.is_sdxl() { ", as with the published one of SDXL" } else { "" }
    }

    fn is_sdxl(&self) -> bool {
        matches!(self.model.architecture(), Architecture::SdxlBase | Architecture::SdxlRefiner)
    }
}

/// The statistics of all encoded prompts.
fn text_statistics(text: &EncodedText) -> Result<Statistics> {
    let mut all = Vec::new();
    let prompts = text.parts.iter().map(|(_, part)| part).chain([&text.negative]).flat_map(Schedule::values);
    for Conditioning { context, vector } in prompts {
        all.extend(values(context)?);
        if let Some(vector) = vector {
            all.extend(values(vector)?);
        }
    }
    Ok(Statistics::of(&all))
}
