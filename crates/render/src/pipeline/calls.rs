//! The calls of UNets in a render: guidance, the change to the refiner, and the record of what they answer.

use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;

use super::guidance::Guidance;
use super::nonfinite::{NonFiniteFinder, first_layer};
use crate::checks::Statistics;
use crate::networks::Unet;
use crate::observer::{Observer, Trace};
use crate::sampling::{NoiseSchedule, Prediction, Sampler};
use crate::settings::{RefinerSwitch, Settings};
use crate::weights::values;
use trinart_ckpt_formats::error::{OrInternal, Result};
use trinart_ckpt_formats::io::Progress;

/// A UNet with the prompts that it takes.
pub(super) struct Expert<'a> {
    pub(super) unet: Unet,
    pub(super) guidance: Guidance<'a>,
}

/// The refiner of a render, which takes over after a share of it.
pub(super) struct Successor<'a> {
    /// Loads the refiner.
    load: Box<dyn FnOnce() -> Result<Expert<'a>> + 'a>,
    switch: RefinerSwitch,
    sampler: Sampler,
    /// The number of calls that WebUI expects.
    steps: usize,
    schedule: NoiseSchedule,
}

impl<'a> Successor<'a> {
    /// `schedule` is that of the model before the refiner.
    pub(super) fn new(
        settings: &Settings,
        schedule: &NoiseSchedule,
        load: impl FnOnce() -> Result<Expert<'a>> + 'a,
    ) -> Self {
        let sampler = settings.sampler;
        // WebUI compares with the noise levels of the sampler's own model, which LCM has few of.
        let schedule = if sampler == Sampler::Lcm { schedule.for_lcm() } else { schedule.clone() };
        let steps = sampler.prompt_steps(settings.steps);
        Successor { load: Box::new(load), switch: settings.refiner, sampler, steps, schedule }
    }

    /// Whether the refiner answers a call at this time, with this number of calls before it.
    fn is_due(&self, time: f64, calls: usize) -> bool {
        let share = match (self.switch.by_steps, self.sampler.has_schedule()) {
            (true, _) => calls as f32 / self.steps as f32,
            (false, true) => share_before(self.schedule.nearest_index(self.schedule.sigma(time))),
            (false, false) => share_before(time as usize),
        };
        share >= self.switch.at as f32
    }
}

/// The share of the timesteps that a render has done at one of them.
fn share_before(timestep: usize) -> f32 {
    (999 - timestep.min(999)) as f32 / 1000.0
}

/// Calls the UNet with guidance, and records the calls.
pub(super) struct UnetCalls<'a> {
    /// Always present, except while the refiner is loaded.
    pub(super) expert: Option<Expert<'a>>,
    successor: Option<Successor<'a>>,
    stages: &'a Trace,
    progress: &'a dyn Progress,
    /// The duration of each call.
    pub(super) seconds: Vec<f64>,
    /// What the UNet predicts for the input of the first call, which is noise, without guidance.
    pub(super) first: Option<Vec<f32>>,
    /// The first call with NaN or infinite values.
    pub(super) non_finite: Option<NonFiniteCall>,
    /// The first call that the refiner answered, counted from 1.
    pub(super) refined_from: Option<usize>,
}

/// A call with NaN or infinite values.
pub(super) struct NonFiniteCall {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) statistics: Statistics,
    /// The first layer with such values, for a message.
    pub(super) layer: String,
}

impl<'a> UnetCalls<'a> {
    pub(super) fn new(
        expert: Expert<'a>,
        successor: Option<Successor<'a>>,
        stages: &'a Trace,
        progress: &'a dyn Progress,
    ) -> Self {
        UnetCalls {
            expert: Some(expert),
            successor,
            stages,
            progress,
            seconds: Vec::new(),
            first: None,
            non_finite: None,
            refined_from: None,
        }
    }

    /// Calls the UNet with a latent at a time.
    pub(super) fn predict(&mut self, x: &Tensor, time: f64) -> Result<Prediction> {
        self.progress.check()?;
        let call = self.seconds.len();
        if let Some(successor) = self.successor.take_if(|successor| successor.is_due(time, call)) {
            // Free the memory of the first UNet before the refiner needs it.
            self.expert = None;
            self.expert = Some((successor.load)()?);
            self.refined_from = Some(call + 1);
        }
        let expert = self.expert.as_mut().or_internal("no UNet is loaded")?;
        if self.first.is_none() {
            self.first = Some(values(&expert.guidance.unguided(&expert.unet, x, time)?)?);
        }
        let begin = Instant::now();
        let predicted = expert.guidance.predict(&expert.unet, x, time, call)?;
        self.seconds.push(begin.elapsed().as_secs_f64());
        let number = self.seconds.len();
        self.stages.seen(&format!("epsilon.{number}"), &predicted.guided);
        let statistics = Statistics::of(&values(&predicted.guided)?);
        if self.non_finite.is_none() && !statistics.is_finite() {
            let layer = find_layer(expert, x, time, call)?;
            self.non_finite = Some(NonFiniteCall { number, statistics, layer });
        }
        self.progress.advance(1);
        Ok(predicted)
    }
}

/// Repeats a call to find the first layer with NaN or infinite values.
fn find_layer(expert: &mut Expert<'_>, x: &Tensor, time: f64, call: usize) -> Result<String> {
    let finder = Arc::new(NonFiniteFinder::default());
    expert.unet.observe(Trace::to(Arc::clone(&finder) as Arc<dyn Observer>));
    expert.guidance.predict(&expert.unet, x, time, call)?;
    expert.unet.observe(Trace::default());
    Ok(first_layer(finder.first()))
}
