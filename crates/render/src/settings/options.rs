//! Requested settings, completed from a reference picture and the defaults.

use super::fields::{PROMPT_SYNTAX, SWITCH_AT, SWITCH_BY_STEPS, WEIGHT_DTYPE};
use super::infotext::as_read;
use super::reference::ReferenceParameters;
use super::webui::WebUiOptions;
use super::{PromptPadding, RefinerSwitch, STEPS, Settings};
use crate::prompt::{Emphasis, Preset, Syntax, strip_comments};
use crate::sampling::{NoiseSource, Sampler, ScheduleType};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::Dtype;

/// Requested settings. An option that is `None` is taken from the reference picture, or else from the defaults of
/// [`Settings`].
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RenderOptions {
    /// The prompt.
    pub prompt: Option<String>,
    /// The negative prompt.
    pub negative: Option<String>,
    /// A preset whose negative prompt is added.
    pub preset: Option<&'static Preset>,
    /// The syntax of the prompt.
    pub syntax: Option<Syntax>,
    /// The number of sampling steps, 1 to 1000.
    pub steps: Option<usize>,
    /// The sampler, by WebUI's name. The name may end in the schedule type: `DPM++ 2M Karras`.
    pub sampler: Option<String>,
    /// The schedule type, by WebUI's name. `Automatic` depends on the sampler.
    pub schedule: Option<String>,
    /// The CFG scale.
    pub cfg: Option<f64>,
    /// The seed of the noise.
    pub seed: Option<u64>,
    /// The random number generator.
    pub rng: Option<NoiseSource>,
    /// Width and height in pixels, multiples of 8 from 64 to 2048.
    pub size: Option<(usize, usize)>,
    /// The layer of the text encoder whose output is used, counted from the end.
    pub clip_skip: Option<usize>,
    /// The share after which the refiner takes over, 0 to 1. Default: 0.8.
    pub switch_at: Option<f64>,
    /// The dtype of the weights. Default: F16 on a GPU, F32 on the CPU.
    pub dtype: Option<Dtype>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(mut self, $name: $type) -> Self {
            self.$name = Some($name.into());
            self
        })*
    };
}

impl RenderOptions {
    setters! {
        /// Sets the prompt.
        prompt: impl Into<String>;
        /// Sets the negative prompt.
        negative: impl Into<String>;
        /// Adds the negative prompt of a preset.
        preset: &'static Preset;
        /// Sets the syntax of the prompt.
        syntax: Syntax;
        /// Sets the number of sampling steps.
        steps: usize;
        /// Sets the sampler by WebUI's name.
        sampler: impl Into<String>;
        /// Sets the schedule type by WebUI's name.
        schedule: impl Into<String>;
        /// Sets the CFG scale.
        cfg: f64;
        /// Sets the seed of the noise.
        seed: u64;
        /// Sets the random number generator.
        rng: NoiseSource;
        /// Sets width and height in pixels.
        size: (usize, usize);
        /// Sets the layer of the text encoder, counted from the end.
        clip_skip: usize;
        /// Sets the share after which the refiner takes over.
        switch_at: f64;
        /// Sets the dtype of the weights.
        dtype: Dtype;
    }

    /// Completes the options from the parameters of a reference picture and the defaults.
    ///
    /// Fails if a value is out of range, or if the reference picture was made with an unsupported value.
    pub(crate) fn resolve(&self, reference: &ReferenceParameters, default_dtype: Dtype) -> Result<Settings> {
        let defaults = Settings::default();
        let (sampler, schedule) = self.resolve_sampler(reference)?;
        let negative = self.negative.as_deref().unwrap_or(reference.negative());
        let negative = self.preset.map_or_else(|| negative.to_owned(), |preset| preset.extend(negative));
        let rngs = [("GPU", NoiseSource::Nv), ("NV", NoiseSource::Nv), ("CPU", NoiseSource::Cpu)];
        let rng = or_else(self.rng, || reference.one_of("RNG", &rngs))?;
        let syntax = or_else(self.syntax, || reference.one_of(PROMPT_SYNTAX, &[("trinart", Syntax::Trinart)]))?;
        let dtypes = [Dtype::F16, Dtype::BF16, Dtype::F32].map(|dtype| (dtype.name(), dtype));
        let dtype = or_else(self.dtype, || reference.one_of(WEIGHT_DTYPE, &dtypes))?;
        // This program writes the dtype unless it is F32; other programs never do.
        let default_dtype = if reference.is_ours() { Dtype::F32 } else { default_dtype };
        let (width, height) = or_else(self.size, || reference.size())?.unwrap_or((defaults.width, defaults.height));
        let steps = or_else(self.steps, || reference.number("Steps", |it| STEPS.contains(it)))?;
        let cfg = or_else(self.cfg, || reference.number("CFG scale", |it: &f64| it.is_finite()))?;
        let seed = or_else(self.seed, || reference.number("Seed", |_| true))?;
        let clip_skip = or_else(self.clip_skip, || reference.number("Clip skip", |it| (1..=255).contains(it)))?;
        let rules = reference.rules();
        let read = |typed: bool, text: &str| match typed || rules.has_comments() {
            true => as_read(&strip_comments(text)),
            false => as_read(text),
        };
        let is_typed = self.negative.is_some() || self.preset.is_some();
        let padding = match reference.is_set("Pad conds v0")? || rules.pads_negative(sampler) {
            true => PromptPadding::LastVector,
            false if reference.is_set("Pad conds")? => PromptPadding::EmptyPrompt,
            false => PromptPadding::None,
        };
        let switch_at = or_else(self.switch_at, || reference.number(SWITCH_AT, |it| (0.0..=1.0).contains(it)))?;
        let emphases = Emphasis::ALL.map(|emphasis| (emphasis.name(), emphasis));
        let emphasis = reference.one_of("Emphasis", &emphases)?;
        let settings = Settings {
            prompt: read(self.prompt.is_some(), self.prompt.as_deref().unwrap_or(reference.prompt())),
            negative: read(is_typed, &negative),
            syntax: syntax.unwrap_or(defaults.syntax),
            steps: steps.unwrap_or(defaults.steps),
            sampler,
            schedule,
            cfg: cfg.unwrap_or(defaults.cfg),
            seed: seed.unwrap_or(defaults.seed),
            seed_delta: reference.number("ENSD", |_| true)?.unwrap_or(defaults.seed_delta),
            rng: rng.unwrap_or(defaults.rng),
            width,
            height,
            clip_skip: clip_skip.unwrap_or(defaults.clip_skip),
            embeddings: defaults.embeddings,
            emphasis: emphasis.unwrap_or(defaults.emphasis),
            old_editing: reference.is_set("Old prompt editing timelines")? || rules.old_editing(),
            padding,
            downcast_alphas: reference.is_set("Downcast alphas_cumprod")? || rules.downcasts_alphas(),
            refiner: RefinerSwitch {
                at: switch_at.unwrap_or(defaults.refiner.at),
                by_steps: reference.is_set(SWITCH_BY_STEPS)? || rules.switches_by_steps(),
            },
            webui: WebUiOptions::read(reference, sampler)?,
            dtype: dtype.unwrap_or(default_dtype),
        };
        settings.check()?;
        Ok(settings)
    }

    fn resolve_sampler(&self, reference: &ReferenceParameters) -> Result<(Sampler, ScheduleType)> {
        let name = self.sampler.as_deref().or(reference.text("Sampler")).unwrap_or(Sampler::default().name());
        let (sampler, of_name) = Sampler::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = Sampler::ALL.iter().map(|sampler| sampler.name()).collect();
            Error::usage(format!("unknown sampler {name:?}: expected one of {}", known.join(", ")))
        })?;
        let chosen = self.schedule.as_deref().map(|schedule| chosen_schedule(schedule, sampler)).transpose()?;
        if let (Some(_), Some(chosen), Some(of_name)) = (&self.sampler, chosen, of_name)
            && chosen != of_name
        {
            let (chosen, of_name) = (chosen.name(), of_name.name());
            return Err(Error::usage(format!("the sampler's name says {of_name}, but the schedule type is {chosen}")));
        }
        if !sampler.has_schedule() {
            return Ok((sampler, ScheduleType::default()));
        }
        let named = or_else(chosen.or(of_name), || reference.schedule(sampler))?;
        let unnamed = || match self.sampler {
            Some(_) => sampler.automatic_schedule(),
            None => reference.unnamed_schedule(sampler),
        };
        Ok((sampler, named.unwrap_or_else(unnamed)))
    }
}

/// Returns the schedule type with this name, for a sampler.
fn chosen_schedule(name: &str, sampler: Sampler) -> Result<ScheduleType> {
    if name.eq_ignore_ascii_case(ScheduleType::AUTOMATIC) {
        return Ok(sampler.automatic_schedule());
    }
    let schedule = ScheduleType::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = ScheduleType::ALL.iter().map(|schedule| schedule.name()).collect();
        let (automatic, known) = (ScheduleType::AUTOMATIC, known.join(", "));
        Error::usage(format!("unknown schedule type {name:?}: expected {automatic} or one of {known}"))
    })?;
    match sampler.has_schedule() {
        true => Ok(schedule),
        false => {
            let sampler = sampler.name();
            Err(Error::usage(format!("the sampler {sampler} has fixed times: leave out the schedule type {name}")))
        }
    }
}

fn or_else<T>(option: Option<T>, reference: impl FnOnce() -> Result<Option<T>>) -> Result<Option<T>> {
    match option {
        Some(value) => Ok(Some(value)),
        None => reference(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Infotext;

    #[test]
    fn options_default_to_those_of_settings() {
        let none = ReferenceParameters::default();
        assert_eq!(RenderOptions::default().resolve(&none, Dtype::F32).unwrap(), Settings::default());
        let settings = RenderOptions::default().prompt("a cat").steps(3).resolve(&none, Dtype::F16).unwrap();
        assert_eq!((settings.prompt.as_str(), settings.steps, settings.dtype), ("a cat", 3, Dtype::F16));
    }

    #[test]
    fn chooses_the_schedule_type_like_webui() {
        let schedule = |options: RenderOptions, text: &str| {
            let reference = ReferenceParameters::of(Infotext::parse(text));
            options.resolve(&reference, Dtype::F32).unwrap().schedule
        };
        let picture = |rest: &str| format!("a cat\nSteps: 20, Seed: 1, CFG scale: 7, {rest}");
        let none = RenderOptions::default;
        for (options, text, expected) in [
            (none().sampler("DPM++ 2M"), String::new(), ScheduleType::Karras),
            (none().sampler("DPM++ 3M SDE").schedule("automatic"), String::new(), ScheduleType::Exponential),
            (none().sampler("DPM++ 2M").schedule("sgm_uniform"), String::new(), ScheduleType::SgmUniform),
            (none().sampler("DPM++ 2M Uniform"), String::new(), ScheduleType::Uniform),
            (none(), picture("Sampler: DPM++ 2M"), ScheduleType::Uniform),
            (none(), picture("Sampler: DPM++ 2M, Version: v1.8.0"), ScheduleType::Uniform),
            (none(), picture("Sampler: DPM++ 2M, Version: v1.10.1"), ScheduleType::Karras),
            (none(), picture("Sampler: DPM++ 2M, Schedule type: Automatic"), ScheduleType::Karras),
            (none(), picture("Sampler: DPM++ SDE Karras, Version: v1.6.0"), ScheduleType::Karras),
            (none(), picture("Sampler: Restart, Version: v1.6.0"), ScheduleType::Karras),
            (none(), picture("Sampler: k_lms"), ScheduleType::Uniform),
            (none().schedule("Beta"), picture("Sampler: DPM++ 2M Karras"), ScheduleType::Beta),
            (none().sampler("Euler a"), picture("Sampler: DPM++ 2M, Schedule type: Simple"), ScheduleType::Simple),
        ] {
            assert_eq!(schedule(options, &text), expected, "{text}");
        }
    }

    #[test]
    fn rejects_settings_that_are_out_of_range() {
        let none = ReferenceParameters::default();
        for options in [
            RenderOptions::default().steps(0),
            RenderOptions::default().cfg(f64::NAN),
            RenderOptions::default().size((60, 64)),
            RenderOptions::default().sampler("Euler b"),
            RenderOptions::default().schedule("Quadratic"),
            RenderOptions::default().sampler("UniPC").steps(2),
            RenderOptions::default().sampler("DDIM").schedule("Karras"),
            RenderOptions::default().sampler("DPM++ 2M Karras").schedule("Exponential"),
            RenderOptions::default().dtype(Dtype::I8),
        ] {
            assert!(options.resolve(&none, Dtype::F32).is_err(), "{options:?}");
        }
    }
}
