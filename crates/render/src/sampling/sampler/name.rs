//! The names of samplers: WebUI's, with or without a schedule type, and its aliases.

use super::kind::Sampler;
use crate::sampling::schedule::ScheduleType;

impl Sampler {
    /// WebUI's name.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Dpmpp2m => "DPM++ 2M",
            Sampler::DpmppSde => "DPM++ SDE",
            Sampler::Dpmpp2mSde => "DPM++ 2M SDE",
            Sampler::Dpmpp2mSdeHeun => "DPM++ 2M SDE Heun",
            Sampler::Dpmpp2sA => "DPM++ 2S a",
            Sampler::Dpmpp3mSde => "DPM++ 3M SDE",
            Sampler::EulerA => "Euler a",
            Sampler::Euler => "Euler",
            Sampler::Lms => "LMS",
            Sampler::Heun => "Heun",
            Sampler::Dpm2 => "DPM2",
            Sampler::Dpm2A => "DPM2 a",
            Sampler::DpmFast => "DPM fast",
            Sampler::DpmAdaptive => "DPM adaptive",
            Sampler::Restart => "Restart",
            Sampler::Ddim => "DDIM",
            Sampler::DdimCfgpp => "DDIM CFG++",
            Sampler::Plms => "PLMS",
            Sampler::UniPc => "UniPC",
            Sampler::Lcm => "LCM",
        }
    }

    /// WebUI's aliases: the names in its API and in early versions.
    fn aliases(self) -> &'static [&'static str] {
        match self {
            Sampler::Dpmpp2m => &["k_dpmpp_2m"],
            Sampler::DpmppSde => &["k_dpmpp_sde"],
            Sampler::Dpmpp2mSde => &["k_dpmpp_2m_sde"],
            Sampler::Dpmpp2mSdeHeun => &["k_dpmpp_2m_sde_heun"],
            Sampler::Dpmpp2sA => &["k_dpmpp_2s_a"],
            Sampler::Dpmpp3mSde => &["k_dpmpp_3m_sde"],
            Sampler::EulerA => &["k_euler_a", "k_euler_ancestral"],
            Sampler::Euler => &["k_euler"],
            Sampler::Lms => &["k_lms"],
            Sampler::Heun => &["k_heun"],
            Sampler::Dpm2 => &["k_dpm_2"],
            Sampler::Dpm2A => &["k_dpm_2_a"],
            Sampler::DpmFast => &["k_dpm_fast"],
            Sampler::DpmAdaptive => &["k_dpm_ad"],
            Sampler::DdimCfgpp => &["ddim_cfgpp"],
            Sampler::Lcm => &["k_lcm"],
            Sampler::Restart | Sampler::Ddim | Sampler::Plms | Sampler::UniPc => &[],
        }
    }

    /// Returns the sampler with this name, and the schedule type if the name ends in one, as in WebUI before 1.9: "DPM++ 2M
    /// Karras". Also accepts WebUI's aliases: "k_euler_a", "k_dpmpp_2m_ka". Ignores case.
    pub fn from_name(name: &str) -> Option<(Self, Option<ScheduleType>)> {
        let name = name.trim().to_ascii_lowercase();
        if let Some(sampler) = Self::plain(&name) {
            return Some((sampler, None));
        }
        let by_alias = [("_ka", ScheduleType::Karras), ("_exp", ScheduleType::Exponential)];
        let of_alias = by_alias.iter().find_map(|(suffix, schedule)| Some((name.strip_suffix(suffix)?, *schedule)));
        // A schedule type may contain spaces: try every place to split.
        let mut splits = name.match_indices(' ').map(|(place, _)| name.split_at(place));
        let of_name = || {
            splits.find_map(|(sampler, schedule)| {
                Self::plain(sampler)?;
                Some((sampler, ScheduleType::from_name(schedule)?))
            })
        };
        let (sampler, schedule) = of_alias.or_else(of_name)?;
        let sampler = Self::plain(sampler)?;
        sampler.has_schedule().then_some((sampler, Some(schedule)))
    }

    fn plain(name: &str) -> Option<Self> {
        let is_named =
            |sampler: &Sampler| sampler.name().eq_ignore_ascii_case(name) || sampler.aliases().contains(&name);
        Self::ALL.iter().copied().find(is_named)
    }
}
