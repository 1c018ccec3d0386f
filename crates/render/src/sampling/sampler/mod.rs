//! WebUI's samplers, with the same random draws, timesteps and number of model calls.

mod context;
mod dpm_plus_plus;
mod dpm_solver;
mod k_diffusion;
mod kind;
mod lcm;
mod name;
mod restart;
mod sde;
mod timesteps;
mod tuning;
mod unipc;

use candle_core::Tensor;

pub use context::{Prediction, SamplerContext};
pub use kind::Sampler;
use sde::Correction;
use trinart_ckpt_formats::error::Result;
pub use tuning::SamplerTuning;

/// Samples a latent, in the UNet's scale, from standard normal noise.
///
/// Fails if a callback fails, or if the sampler needs more steps.
pub fn sample(sampler: Sampler, noise: &Tensor, context: &mut SamplerContext<'_>) -> Result<Tensor> {
    context.tuning = sampler.tuned(context.tuning);
    match sampler {
        Sampler::Dpmpp2m => dpm_plus_plus::dpmpp_2m(noise, context),
        Sampler::DpmppSde => sde::dpmpp_sde(noise, context),
        Sampler::Dpmpp2mSde => sde::dpmpp_2m_sde(noise, Correction::Midpoint, context),
        Sampler::Dpmpp2mSdeHeun => sde::dpmpp_2m_sde(noise, Correction::Heun, context),
        Sampler::Dpmpp2sA => dpm_plus_plus::dpmpp_2s_ancestral(noise, context),
        Sampler::Dpmpp3mSde => sde::dpmpp_3m_sde(noise, context),
        Sampler::EulerA => k_diffusion::euler_ancestral(noise, context),
        Sampler::Euler => k_diffusion::euler(noise, context),
        Sampler::Lms => k_diffusion::lms(noise, context),
        Sampler::Heun => k_diffusion::heun(noise, context),
        Sampler::Dpm2 => k_diffusion::dpm_2(noise, context),
        Sampler::Dpm2A => k_diffusion::dpm_2_ancestral(noise, context),
        Sampler::DpmFast => dpm_solver::fast(noise, context),
        Sampler::DpmAdaptive => dpm_solver::adaptive(noise, context),
        Sampler::Restart => restart::restart(noise, context),
        Sampler::Ddim => timesteps::ddim(noise, context),
        Sampler::DdimCfgpp => timesteps::ddim_cfgpp(noise, context),
        Sampler::Plms => timesteps::plms(noise, context),
        Sampler::UniPc => unipc::unipc(noise, context),
        Sampler::Lcm => lcm::lcm(noise, context),
    }
}
