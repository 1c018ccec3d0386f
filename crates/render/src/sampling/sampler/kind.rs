use super::restart;
use super::tuning::SamplerTuning;
use crate::sampling::schedule::{NoiseSchedule, ScheduleType};

/// A sampler: a method to turn noise into a latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Sampler {
    /// DPM-Solver++, second-order multistep.
    Dpmpp2m,
    /// DPM-Solver++ as a stochastic differential equation.
    DpmppSde,
    /// DPM-Solver++ as a stochastic differential equation, second-order multistep with the midpoint method.
    Dpmpp2mSde,
    /// DPM-Solver++ as a stochastic differential equation, second-order multistep with Heun's method.
    Dpmpp2mSdeHeun,
    /// DPM-Solver++, second-order single-step, with new noise at each step.
    Dpmpp2sA,
    /// DPM-Solver++ as a stochastic differential equation, third-order multistep.
    Dpmpp3mSde,
    /// Euler's method with new noise at each step.
    #[default]
    EulerA,
    /// Euler's method.
    Euler,
    /// A fourth-order linear multistep method.
    Lms,
    /// Heun's method.
    Heun,
    /// Second-order DPM-Solver.
    Dpm2,
    /// Second-order DPM-Solver with new noise at each step.
    Dpm2A,
    /// DPM-Solver with as many model calls as steps, and new noise at each step.
    DpmFast,
    /// DPM-Solver with steps of adaptive width, and new noise at each step.
    DpmAdaptive,
    /// Heun's method that repeats a part of the steps.
    Restart,
    /// Denoising diffusion implicit models (DDIM) as in WebUI, with eta 0.
    Ddim,
    /// DDIM with the guidance of CFG++.
    DdimCfgpp,
    /// Pseudo linear multistep.
    Plms,
    /// UniPC, a third-order predictor-corrector method.
    UniPc,
    /// The sampler of latent consistency models.
    Lcm,
}

impl Sampler {
    /// All samplers, in WebUI's order.
    pub const ALL: &'static [Sampler] = &[
        Sampler::Dpmpp2m,
        Sampler::DpmppSde,
        Sampler::Dpmpp2mSde,
        Sampler::Dpmpp2mSdeHeun,
        Sampler::Dpmpp2sA,
        Sampler::Dpmpp3mSde,
        Sampler::EulerA,
        Sampler::Euler,
        Sampler::Lms,
        Sampler::Heun,
        Sampler::Dpm2,
        Sampler::Dpm2A,
        Sampler::DpmFast,
        Sampler::DpmAdaptive,
        Sampler::Restart,
        Sampler::Ddim,
        Sampler::DdimCfgpp,
        Sampler::Plms,
        Sampler::UniPc,
        Sampler::Lcm,
    ];

    /// Whether the schedule type applies. The other samplers have fixed times.
    pub fn has_schedule(self) -> bool {
        !matches!(self, Sampler::Ddim | Sampler::DdimCfgpp | Sampler::Plms | Sampler::UniPc)
    }

    /// The schedule type that WebUI 1.9 and later uses for "Automatic".
    pub fn automatic_schedule(self) -> ScheduleType {
        match self {
            Sampler::Dpmpp2m
            | Sampler::DpmppSde
            | Sampler::Dpmpp2sA
            | Sampler::Dpm2
            | Sampler::Dpm2A
            | Sampler::Restart => ScheduleType::Karras,
            Sampler::Dpmpp2mSde | Sampler::Dpmpp2mSdeHeun | Sampler::Dpmpp3mSde => ScheduleType::Exponential,
            _ => ScheduleType::Uniform,
        }
    }

    /// Whether steps draw new noise from the picture's generator, so that WebUI's "eta noise seed delta" (ENSD) matters.
    pub fn is_ancestral(self) -> bool {
        matches!(
            self,
            Sampler::EulerA
                | Sampler::Dpm2A
                | Sampler::Dpmpp2sA
                | Sampler::DpmFast
                | Sampler::DpmAdaptive
                | Sampler::Restart
                | Sampler::Lcm
        )
    }

    /// WebUI's default of "Eta", the share of new noise in each step. `None` for samplers without it.
    pub fn default_eta(self) -> Option<f64> {
        match self {
            Sampler::Ddim | Sampler::DdimCfgpp => Some(0.0),
            Sampler::EulerA
            | Sampler::Dpm2A
            | Sampler::Dpmpp2sA
            | Sampler::DpmppSde
            | Sampler::Dpmpp2mSde
            | Sampler::Dpmpp2mSdeHeun
            | Sampler::Dpmpp3mSde
            | Sampler::DpmFast
            | Sampler::DpmAdaptive => Some(1.0),
            _ => None,
        }
    }

    /// Returns the options that WebUI passes to this sampler. The others have their defaults.
    #[must_use]
    pub fn tuned(self, tuning: SamplerTuning) -> SamplerTuning {
        let defaults = SamplerTuning::default();
        let has_churn = matches!(self, Sampler::Euler | Sampler::Heun | Sampler::Dpm2);
        let has_noise = has_churn
            || matches!(
                self,
                Sampler::DpmFast
                    | Sampler::Dpm2A
                    | Sampler::Dpmpp2sA
                    | Sampler::DpmppSde
                    | Sampler::Dpmpp2mSde
                    | Sampler::Dpmpp2mSdeHeun
                    | Sampler::Dpmpp3mSde
            );
        SamplerTuning {
            eta: tuning.eta.filter(|_| self.default_eta().is_some()),
            churn: if has_churn { tuning.churn } else { defaults.churn },
            churned: if has_churn { tuning.churned } else { defaults.churned },
            noise: if has_noise { tuning.noise } else { defaults.noise },
            sgm_noise_multiplier: tuning.sgm_noise_multiplier && self.has_schedule(),
        }
    }

    /// The number by which the CFG scale is divided: CFG++ maps 0 to 12.5 to 0 to 1.
    pub fn cfg_divisor(self) -> f64 {
        if self == Sampler::DdimCfgpp { 12.5 } else { 1.0 }
    }

    /// Whether the sampler needs the prediction for the negative prompt.
    pub fn needs_negative(self) -> bool {
        self == Sampler::DdimCfgpp
    }

    /// The least number of steps.
    pub fn least_steps(self) -> usize {
        // WebUI's UniPC fails if it has fewer times than its order.
        if self == Sampler::UniPc { 3 } else { 1 }
    }

    /// The number of steps that a prompt such as `[before:after:0.5]` refers to: twice as many for the samplers that WebUI
    /// lists as second-order.
    pub fn prompt_steps(self, steps: usize) -> usize {
        match self {
            Sampler::DpmppSde
            | Sampler::Dpmpp2sA
            | Sampler::Heun
            | Sampler::Dpm2
            | Sampler::Dpm2A
            | Sampler::Restart => 2 * steps,
            Sampler::Dpmpp2m
            | Sampler::Dpmpp2mSde
            | Sampler::Dpmpp2mSdeHeun
            | Sampler::Dpmpp3mSde
            | Sampler::EulerA
            | Sampler::Euler
            | Sampler::Lms
            | Sampler::DpmFast
            | Sampler::DpmAdaptive
            | Sampler::Ddim
            | Sampler::DdimCfgpp
            | Sampler::Plms
            | Sampler::UniPc
            | Sampler::Lcm => steps,
        }
    }

    /// The number of UNet calls in `steps` steps. `None` if it depends on the values.
    pub fn calls(self, noise_schedule: &NoiseSchedule, schedule: ScheduleType, steps: usize) -> Option<usize> {
        let times = noise_schedule.ddim_times(steps).len();
        let levels = match self {
            Sampler::Lcm => noise_schedule.for_lcm().sigmas(schedule, steps),
            Sampler::Dpm2 | Sampler::Dpm2A | Sampler::Dpmpp3mSde => {
                noise_schedule.sigmas_without_penultimate(schedule, steps)
            }
            _ => noise_schedule.sigmas(schedule, steps),
        };
        let made = levels.len() - 1;
        Some(match self {
            Sampler::Ddim | Sampler::DdimCfgpp => times - 1,
            Sampler::Plms => times - 1 + usize::from(times > 1),
            Sampler::UniPc => times,
            Sampler::DpmFast => steps,
            Sampler::DpmAdaptive => return None,
            Sampler::Restart => {
                let steps = restart::steps(&levels);
                steps.len() + steps.iter().filter(|(_, next)| *next > 0.0).count()
            }
            // A second call is made for each step that does not end at level 0.
            Sampler::Heun | Sampler::DpmppSde | Sampler::Dpmpp2sA | Sampler::Dpm2 | Sampler::Dpm2A => {
                made + levels.iter().skip(1).filter(|level| **level > 0.0).count()
            }
            Sampler::Dpmpp2m
            | Sampler::Dpmpp2mSde
            | Sampler::Dpmpp2mSdeHeun
            | Sampler::Dpmpp3mSde
            | Sampler::Euler
            | Sampler::EulerA
            | Sampler::Lms
            | Sampler::Lcm => made,
        })
    }
}
