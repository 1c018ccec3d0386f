//! What versions of WebUI do differently: each rule with the version that it came with.

use crate::sampling::{Sampler, ScheduleType};

/// The version of WebUI that made a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WebUiVersion(u32, u32);

/// The first version that selects the schedule type apart from the sampler. Its "Automatic" depends on the sampler.
const SCHEDULE_TYPES: WebUiVersion = WebUiVersion(1, 9);

impl WebUiVersion {
    /// Parses the field `Version`, which WebUI writes since 1.2: "v1.6.0", "1.9.3" or "v1.8.0-139-g0123abc". A version of
    /// Forge contains that of WebUI: "f2.0.1v1.10.1-previous-1-g0123abc". Returns `None` for other programs.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = match text.strip_prefix('f') {
            Some(forge) => forge.split_once('v')?.1,
            None => text.strip_prefix('v').unwrap_or(text),
        };
        let mut parts = number.split(['.', '-']).map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some(WebUiVersion(major, minor)),
            _ => None,
        }
    }
}

/// Returns the schedule type of a picture that names none. Pictures without a version are older than 1.2.
pub(super) fn unnamed_schedule(version: Option<WebUiVersion>, sampler: Sampler) -> ScheduleType {
    match version {
        Some(version) if version >= SCHEDULE_TYPES => sampler.automatic_schedule(),
        // Restart came with 1.6 and has always used the levels of Karras et al.
        _ if sampler == Sampler::Restart => ScheduleType::Karras,
        // The names of samplers contained the schedule type, unless it was uniform.
        _ => ScheduleType::Uniform,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_versions_of_webui_and_forge() {
        for (text, expected) in [
            ("v1.6.0", Some(WebUiVersion(1, 6))),
            ("1.9.3", Some(WebUiVersion(1, 9))),
            ("v1.10.1-85-g82a973c0", Some(WebUiVersion(1, 10))),
            ("1.8.0-RC", Some(WebUiVersion(1, 8))),
            ("f2.0.1v1.10.1-previous-659-gc055f2d4", Some(WebUiVersion(1, 10))),
            ("f0.0.17v1.8.0rc-latest-277-g0af28699", Some(WebUiVersion(1, 8))),
            ("trinart-ckpt 0.1.0", None),
            ("ComfyUI", None),
            ("", None),
        ] {
            assert_eq!(WebUiVersion::parse(text), expected, "{text}");
        }
        assert!(WebUiVersion(1, 10) > WebUiVersion(1, 9));
    }

    #[test]
    fn a_sampler_without_a_schedule_type_was_uniform_before_1_9() {
        let schedule = |version: &str, sampler| unnamed_schedule(WebUiVersion::parse(version), sampler);
        assert_eq!(schedule("v1.8.0", Sampler::Dpmpp2m), ScheduleType::Uniform);
        assert_eq!(schedule("v1.9.0", Sampler::Dpmpp2m), ScheduleType::Karras);
        assert_eq!(schedule("v1.10.1", Sampler::Dpmpp3mSde), ScheduleType::Exponential);
        assert_eq!(schedule("", Sampler::Dpmpp3mSde), ScheduleType::Uniform);
        assert_eq!(schedule("v1.6.0", Sampler::Restart), ScheduleType::Karras);
    }
}
