//! From a prompt to a picture: text encoder, UNet under a sampler, autoencoder.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use crate::error::Result;
use crate::io::Progress;
use crate::render::checks::{self, Check, Statistics, Verdict, relative_distance};
use crate::render::clip::TextEncoder;
use crate::render::guidance::Guidance;
use crate::render::kernels::Machine;
use crate::render::nonfinite::{F16_MAX, NonFiniteFinder, weight_checks};
use crate::render::observer::{Observer, Trace};
use crate::render::ops::Engine;
use crate::render::picture::Picture;
use crate::render::prompt::{self, Chunk, Syntax, Tokenizer};
use crate::render::rng::{Generator, NoiseSource};
use crate::render::sampler::{Sampler, SamplerContext, sample};
use crate::render::schedule::{NoiseSchedule, ScheduleType};
use crate::render::target::{Decoded, RenderTarget};
use crate::render::unet::Unet;
use crate::render::weights::{from_candle, tensor, values};
use crate::state_dict::StateDict;
use crate::tensor::Dtype;

/// What latents are multiplied by, in the models of SD v1.
const SCALE: f64 = 0.18215;

/// What to render.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt.
    pub negative: String,
    /// How the prompt is written.
    pub syntax: Syntax,
    /// Steps of the sampler.
    pub steps: usize,
    /// The sampler.
    pub sampler: Sampler,
    /// How its noise levels are spread.
    pub schedule: ScheduleType,
    /// The scale of the guidance.
    pub cfg: f64,
    /// The seed of the noise.
    pub seed: u64,
    /// What is added to the seed for the noise of the steps: WebUI's "eta noise seed delta".
    pub seed_delta: i64,
    /// Who draws it.
    pub rng: NoiseSource,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// The layer of the text encoder whose output is taken, from the end.
    pub clip_skip: usize,
    /// The type that weights are rounded to: F32, F16 or BF16. On the CPU all is computed in f32; kernels hand values of
    /// this type from layer to layer, and sum in f32.
    pub dtype: Dtype,
}

/// Seconds of each stage.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timings {
    /// Text encoder, with its loading.
    pub text: f64,
    /// Loading of the UNet.
    pub load: f64,
    /// All steps.
    pub sampling: f64,
    /// Each call of the UNet, for all prompts.
    pub calls: Vec<f64>,
    /// The autoencoder, with its loading.
    pub decode: f64,
}

/// What came out.
#[derive(Debug)]
pub struct Rendered {
    /// The picture.
    pub picture: Picture,
    /// The latent that it was decoded from, in the model's scale.
    pub latent: Vec<f32>,
    /// What was found.
    pub checks: Vec<Check>,
    /// How long it took.
    pub timings: Timings,
}

/// Renders with a checkpoint of SD v1 in LDM names: on the CPU, or with kernels on a machine that runs them. Noise and
/// samplers are the CPU's in either case, so that a picture does not depend on the card's arithmetic more than it must.
///
/// What is not finite fails a check, which names the stage, the step, and the first layer and the tensors that are to
/// blame; the picture is made all the same.
///
/// `stages` is shown `text.prompt.0` (and on, one for each part of an AND), `text.negative`, `noise`, `epsilon.1` and on
/// (each call of the UNet, with guidance), `latent.1` and on (after each step, in the sampler's scale), `latent` and
/// `decoded`.
pub fn render(
    state_dict: &Arc<StateDict>,
    settings: &Settings,
    machine: Option<&Arc<dyn Machine>>,
    stages: &Trace,
    progress: &dyn Progress,
) -> Result<Rendered> {
    let target = RenderTarget::new(state_dict, settings.dtype, machine)?;
    let (checks, timings) = (Vec::new(), Timings::default());
    let mut render = Render { state_dict, settings, stages, checks, timings };

    let begin = Instant::now();
    let tokenizer = Tokenizer::new()?;
    let parts = prompt::parse(&settings.prompt, settings.syntax, &tokenizer)?;
    let negative = prompt::whole(&settings.negative, &tokenizer)?;
    let encoder = TextEncoder::load(target.weights(), state_dict, &target.engine)?;
    let negative = render.encode(&encoder, &negative)?;
    let parts: Vec<(f64, Tensor)> =
        parts.iter().map(|part| Ok((part.weight, render.encode(&encoder, &part.chunks)?))).collect::<Result<_>>()?;
    for (index, (_, part)) in parts.iter().enumerate() {
        stages.seen(&format!("text.prompt.{index}"), part);
    }
    stages.seen("text.negative", &negative);
    render.check_text(&parts, &negative, sees_words(&encoder, &tokenizer, settings.clip_skip)?)?;
    drop(encoder);
    render.timings.text = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    let unet = Unet::load(target.weights(), state_dict, &target.engine)?;
    render.timings.load = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let latent = render.sample(unet, &parts, &negative, progress)?;
    render.timings.sampling = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    progress.check()?;
    progress.begin_steps("decoding", 1);
    let picture = render.decode(&target, &latent)?;
    render.timings.decode = begin.elapsed().as_secs_f64();
    let latent = values(&latent)?;
    render.checks.push(checks::latent(&latent));
    render.checks.extend(checks::picture(&picture));
    render.checks.extend(weight_checks(&target.flaws));
    Ok(Rendered { picture, latent, checks: render.checks, timings: render.timings })
}

/// How far apart the text encoder has a word and no word.
fn sees_words(encoder: &TextEncoder, tokenizer: &Tokenizer, clip_skip: usize) -> Result<f64> {
    let encode = |prompt| {
        let chunk = prompt::whole(prompt, tokenizer)?.into_iter().next();
        let tokens = chunk.map(|chunk| chunk.tokens).unwrap_or_default();
        let tokens = Tensor::new(tokens, &Device::Cpu).and_then(|it| it.unsqueeze(0)).map_err(from_candle)?;
        values(&encoder.hidden_state(&tokens, clip_skip)?)
    };
    Ok(relative_distance(&encode("cat")?, &encode("")?))
}

struct Render<'a> {
    state_dict: &'a StateDict,
    settings: &'a Settings,
    stages: &'a Trace,
    checks: Vec<Check>,
    timings: Timings,
}

impl Render<'_> {
    /// Chunks, each encoded by itself, one behind the other: `[1, 77 * chunks, width]`.
    fn encode(&self, encoder: &TextEncoder, chunks: &[Chunk]) -> Result<Tensor> {
        let encode = |chunk: &Chunk| {
            let tokens = Tensor::new(chunk.tokens.as_slice(), &Device::Cpu).and_then(|it| it.unsqueeze(0));
            let hidden = encoder.hidden_state(&tokens.map_err(from_candle)?, self.settings.clip_skip)?;
            prompt::emphasize(&hidden, &chunk.weights).map_err(from_candle)
        };
        let encoded = chunks.iter().map(encode).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&encoded, 1).map_err(from_candle)
    }

    /// `words` is how far apart the text encoder has two prompts.
    fn check_text(&mut self, parts: &[(f64, Tensor)], negative: &Tensor, words: f64) -> Result<()> {
        let mut all = Vec::new();
        for tensor in parts.iter().map(|(_, tensor)| tensor).chain([negative]) {
            all.extend(values(tensor)?);
        }
        let statistics = Statistics::of(&all);
        self.finite("text finite", &statistics, String::new);
        self.checks.push(checks::text_encoder(statistics.deviation, words));
        Ok(())
    }

    /// A check that fails once, with the target that `target` finds.
    fn finite(&mut self, name: &'static str, statistics: &Statistics, target: impl FnOnce() -> String) {
        let found = match statistics.is_finite() {
            true => "all values are numbers".to_owned(),
            false => format!("{} NaN, {} infinite{}", statistics.nan, statistics.infinite, target()),
        };
        self.checks.push(Check::judge(name, statistics.is_finite(), found, "no NaN, no infinity"));
    }

    fn sample(
        &mut self,
        mut unet: Unet,
        parts: &[(f64, Tensor)],
        negative: &Tensor,
        progress: &dyn Progress,
    ) -> Result<Tensor> {
        let settings = self.settings;
        let noise_schedule = self.noise_schedule()?;
        let guidance = Guidance::new(&unet, settings.cfg, parts, negative)?;
        let shape = (1, 4, settings.height / 8, settings.width / 8);
        let mut generator = Generator::new(settings.rng, settings.seed);
        // Told a delta, WebUI begins anew for the noise of the steps.
        let later = || Generator::new(settings.rng, settings.seed.wrapping_add_signed(settings.seed_delta));
        let mut later = (settings.seed_delta != 0).then(later);
        let mut draw = || {
            let drawn = generator.normal(4 * (settings.height / 8) * (settings.width / 8));
            if let Some(later) = later.take() {
                generator = later;
            }
            Tensor::from_vec(drawn, shape, &Device::Cpu).map_err(from_candle)
        };
        let noise = draw()?;
        let stages = self.stages;
        stages.seen("noise", &noise);
        let calls = settings.sampler.calls(&noise_schedule, settings.steps);
        progress.begin_steps("sampling", calls as u64);
        let (mut first, mut broken) = (None, None);
        let mut call = 0;
        let mut seconds = Vec::new();
        let mut predict = |x: &Tensor, time: f64| {
            progress.check()?;
            let begin = Instant::now();
            let predicted = guidance.predict(&unet, x, time)?;
            seconds.push(begin.elapsed().as_secs_f64());
            call += 1;
            stages.seen(&format!("epsilon.{call}"), &predicted);
            let predicted_values = values(&predicted)?;
            let statistics = Statistics::of(&predicted_values);
            if broken.is_none() && !statistics.is_finite() {
                broken = Some((call, statistics, x.clone(), time));
            }
            first.get_or_insert(predicted_values);
            progress.advance(1);
            Ok(predicted)
        };
        let mut watch = |step: usize, latent: &Tensor| {
            stages.seen(&format!("latent.{}", step + 1), latent);
            Ok(())
        };
        let mut work = SamplerContext {
            noise_schedule: &noise_schedule,
            schedule: settings.schedule,
            steps: settings.steps,
            predict: &mut predict,
            draw: &mut draw,
            watch: &mut watch,
        };
        let latent = sample(settings.sampler, &noise, &mut work)?;
        stages.seen("latent", &latent);
        self.timings.calls = seconds;
        if let Some(first) = first {
            self.checks.push(checks::sees_noise(&values(&noise)?, &first));
        }
        match broken {
            None => self.finite("UNet finite", &Statistics::default(), String::new),
            Some((call, statistics, x, time)) => {
                let seeker = Arc::new(NonFiniteFinder::default());
                unet.observe(Trace::to(Arc::clone(&seeker) as Arc<dyn Observer>));
                guidance.predict(&unet, &x, time)?;
                let layer = seeker.first();
                self.finite("UNet finite", &statistics, || format!(" at call {call} of {calls}, first behind {layer}"));
            }
        }
        Ok(latent)
    }

    /// The schedule: the checkpoint's own, where it has a whole one.
    fn noise_schedule(&self) -> Result<NoiseSchedule> {
        let own = self.state_dict.get("alphas_cumprod").filter(|own| own.shape().dims() == [1000]);
        let own = own.map(|own| tensor(own, DType::F32, &Device::Cpu).and_then(|own| values(&own))).transpose()?;
        let is_falling = |own: &Vec<f32>| {
            own.windows(2).all(|pair| matches!(pair, [a, b] if a > b)) && own.iter().all(|it| *it > 0.0 && *it < 1.0)
        };
        Ok(own.filter(is_falling).map_or_else(NoiseSchedule::stable_diffusion, NoiseSchedule::from_alphas))
    }

    fn decode(&mut self, target: &RenderTarget, latent: &Tensor) -> Result<Picture> {
        let z = latent.affine(1.0 / SCALE, 0.0).map_err(from_candle)?;
        let Decoded { autoencoder, image: decoded, overflow, broken } = match &target.engine {
            Engine::Candle => target.decode_on_cpu(self.state_dict, &z)?,
            Engine::Kernels(kernels) => target.decode_with_f32_fallback(kernels, self.state_dict, &z)?,
        };
        self.stages.seen("decoded", &decoded);
        let statistics = Statistics::of(&values(&decoded)?);
        let layer = broken.map(|layer| format!(", first behind {layer}")).unwrap_or_default();
        self.finite("decoder finite", &statistics, || layer);
        if let Some(found) = overflow {
            self.checks.push(Check {
                name: "half precision",
                verdict: Verdict::Repaired,
                found,
                expected: format!("at most {F16_MAX}: WebUI needs --no-half-vae for this autoencoder"),
            });
        }
        if statistics.is_finite() {
            let (again, _) = autoencoder.encode(&decoded)?;
            self.checks.extend(checks::round_trip(&values(&z)?, &values(&again)?));
        }
        Picture::from_decoded(&decoded)
    }
}
