//! WebUI's options that a picture may have been made with, beyond those of the command line.

use super::infotext::Infotext;
use super::reference::ReferenceParameters;
use crate::sampling::{LevelTuning, Sampler, SamplerTuning, ScheduleType};
use trinart_ckpt_formats::error::Result;

/// The names of the parameters of the schedule type Beta.
const BETA: [&str; 2] = ["Beta schedule alpha", "Beta schedule beta"];

/// The value of "Noise Schedule" that changes the noise schedule.
const ZERO_TERMINAL_SNR: &str = "Zero Terminal SNR";

/// WebUI's options of a picture. The defaults have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct WebUiOptions {
    /// The options of the sampler.
    pub sampler: SamplerTuning,
    /// The options of the schedule type.
    pub levels: LevelTuning,
    /// The calls without the negative prompt.
    pub skips: GuidanceSkips,
    /// Whether the last timestep is almost pure noise, whatever the model was trained with.
    pub zero_terminal_snr: bool,
    /// A second noise that is mixed in.
    pub variation: Option<Variation>,
    /// The size of the picture whose noise is put into the middle of this one's: width and height in pixels.
    pub resize_from: Option<(usize, usize)>,
}

/// The noise of another seed, mixed in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variation {
    /// The other seed.
    pub seed: u64,
    /// The share of its noise, above 0 and up to 1.
    pub strength: f64,
}

/// The calls of the UNet that leave out the negative prompt.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GuidanceSkips {
    /// "NGMS" (negative guidance minimum sigma): every second call below this noise level leaves it out.
    pub below: f64,
    /// "NGMS all steps": all calls below that level leave it out.
    pub all_below: bool,
    /// "Skip Early CFG": calls up to this share of the steps leave it out.
    pub early: f64,
}

impl GuidanceSkips {
    /// Whether a call leaves out the negative prompt. `call` is the number of calls before it, `steps` the number of calls
    /// that WebUI expects, `sigma` the noise level.
    pub fn skips(&self, call: usize, steps: usize, sigma: f64) -> bool {
        let is_early = self.early != 0.0 && call as f64 / steps as f64 <= self.early;
        is_early || ((call % 2 == 1 || self.all_below) && sigma < self.below)
    }
}

impl WebUiOptions {
    /// Reads the options from the parameters of a picture.
    ///
    /// Fails for values that are out of range in WebUI, and for tiling pictures.
    pub(super) fn read(reference: &ReferenceParameters, sampler: Sampler) -> Result<Self> {
        let number = |name: &str, range: std::ops::RangeInclusive<f64>| reference.number(name, |it| range.contains(it));
        let positive = |name: &str| Ok(number(name, 0.0..=1e6)?.filter(|it| *it > 0.0));
        // Tiling pictures need other convolutions.
        reference.one_of("Tiling", &[("False", ())])?;
        if !sampler.has_schedule() {
            reference.one_of("Discard penultimate sigma", &[("False", ())])?;
        }
        let eta = if sampler.default_eta() == Some(0.0) { "Eta DDIM" } else { "Eta" };
        let defaults = WebUiOptions::default();
        let strength = number("Variation seed strength", 0.0..=1.0)?.filter(|it| *it > 0.0);
        let seed: Option<i64> = reference.number("Variation seed", |_| true)?;
        let variation = |strength| Variation { seed: seed.unwrap_or(0) as u64, strength };
        let [alpha, beta] = BETA.map(|name| number(name, 0.01..=1.0));
        let most = positive("Sigma tmax")?.unwrap_or(f64::INFINITY);
        Ok(WebUiOptions {
            sampler: sampler.tuned(SamplerTuning {
                eta: number(eta, 0.0..=1.0)?,
                churn: number("Sigma churn", 0.0..=100.0)?.unwrap_or(0.0),
                churned: (number("Sigma tmin", 0.0..=1e6)?.unwrap_or(0.0), most),
                noise: number("Sigma noise", 0.0..=1.1)?.unwrap_or(1.0),
                sgm_noise_multiplier: reference.is_set("SGM noise multiplier")?,
            }),
            levels: LevelTuning {
                least: positive("Schedule min sigma")?,
                most: positive("Schedule max sigma")?,
                rho: positive("Schedule rho")?,
                discards_penultimate: reference.is_set("Discard penultimate sigma")?,
                beta: (alpha?.unwrap_or(defaults.levels.beta.0), beta?.unwrap_or(defaults.levels.beta.1)),
            },
            skips: GuidanceSkips {
                below: number("NGMS", 0.0..=1e6)?.unwrap_or(0.0),
                all_below: reference.is_set("NGMS all steps")?,
                early: number("Skip Early CFG", 0.0..=1.0)?.unwrap_or(0.0),
            },
            zero_terminal_snr: reference
                .one_of("Noise Schedule", &[("Default", false), (ZERO_TERMINAL_SNR, true)])?
                .unwrap_or(false),
            variation: strength.map(variation),
            resize_from: reference.pixels("Seed resize from")?,
        })
    }

    /// Adds the fields of options that are not the default, except for those of Beta and of the seed.
    pub(super) fn write(&self, text: &mut Infotext, sampler: Sampler) {
        let defaults = WebUiOptions::default();
        let mut number = |name: &str, value: f64, default: f64| {
            if value != default {
                text.push(name, value);
            }
        };
        let eta = sampler.default_eta().unwrap_or(0.0);
        let name = if eta == 0.0 { "Eta DDIM" } else { "Eta" };
        number(name, self.sampler.eta.unwrap_or(eta), eta);
        number("Sigma churn", self.sampler.churn, defaults.sampler.churn);
        number("Sigma tmin", self.sampler.churned.0, defaults.sampler.churned.0);
        number("Sigma tmax", self.sampler.churned.1, defaults.sampler.churned.1);
        number("Sigma noise", self.sampler.noise, defaults.sampler.noise);
        number("Schedule min sigma", self.levels.least.unwrap_or(0.0), 0.0);
        number("Schedule max sigma", self.levels.most.unwrap_or(0.0), 0.0);
        number("Schedule rho", self.levels.rho.unwrap_or(0.0), 0.0);
        number("NGMS", self.skips.below, 0.0);
        number("Skip Early CFG", self.skips.early, 0.0);
        for (name, is_set) in [
            ("NGMS all steps", self.skips.all_below),
            ("SGM noise multiplier", self.sampler.sgm_noise_multiplier),
            ("Discard penultimate sigma", self.levels.discards_penultimate),
        ] {
            if is_set {
                text.push(name, "True");
            }
        }
        if self.zero_terminal_snr {
            text.push("Noise Schedule", ZERO_TERMINAL_SNR);
        }
    }

    /// Adds the parameters of the schedule type, which WebUI writes after its name.
    pub(super) fn write_schedule(&self, text: &mut Infotext, schedule: ScheduleType) {
        if schedule == ScheduleType::Beta {
            let (alpha, beta) = self.levels.beta;
            BETA.iter().zip([alpha, beta]).for_each(|(name, value)| text.push(name, value));
        }
    }

    /// Adds the fields of the seed.
    pub(super) fn write_seed(&self, text: &mut Infotext) {
        if let Some(Variation { seed, strength }) = self.variation {
            text.push("Variation seed", seed);
            text.push("Variation seed strength", strength);
        }
        if let Some((width, height)) = self.resize_from {
            text.push("Seed resize from", format!("{width}x{height}"));
        }
    }
}
