//! What versions of WebUI do differently: each rule with the version that it came or went with.
//!
//! | since | rule |
//! |---|---|
//! | 1.6 | in `[before:after:N]`, N is a share of the steps if it has a decimal point; before, if it is below 1 |
//! | 1.6 | DDIM and PLMS do not pad the negative prompt to the length of the prompt |
//! | 1.7.0-225 | the noise schedule is not rounded to half precision |
//! | 1.8 | comments in prompts |
//! | 1.8 | the refiner takes over after a share of the timesteps; before, of the steps |
//! | 1.9 | the schedule type is a field of its own; "Automatic" depends on the sampler |
//! | 1.9 | the fields `Prompt` and `Negative prompt` do not override the prompt |
//!
//! Those before 1.8 are what WebUI 1.10 itself does with a picture of that version. It assumes the latest rules for a
//! picture without a version.

use crate::sampling::{Sampler, ScheduleType};

/// A version of WebUI: three numbers and the commits since, or -1 for a release candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WebUiVersion(u32, u32, u32, i64);

const NEW_EDITING: WebUiVersion = WebUiVersion(1, 6, 0, 0);
const NO_PADDING: WebUiVersion = WebUiVersion(1, 6, 0, 0);
const EXACT_ALPHAS: WebUiVersion = WebUiVersion(1, 7, 0, 225);
const COMMENTS: WebUiVersion = WebUiVersion(1, 8, 0, -1);
const SWITCH_BY_TIMESTEPS: WebUiVersion = WebUiVersion(1, 8, 0, 0);
const SCHEDULE_TYPES: WebUiVersion = WebUiVersion(1, 9, 0, -1);

impl WebUiVersion {
    /// Parses the field `Version`, which WebUI writes since 1.3: "v1.6.0", "1.9.3" or "v1.8.0-139-g0123abc". A version of
    /// Forge contains that of WebUI: "f2.0.1v1.10.1-previous-1-g0123abc". Returns `None` for other programs.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (number, is_forge) = match text.strip_prefix('f') {
            Some(forge) => (forge.split_once('v')?.1, true),
            None => (text.strip_prefix('v').unwrap_or(text), false),
        };
        let (number, suffix) = number.split_once('-').unwrap_or((number, ""));
        // Forge counts its own commits.
        let suffix = if is_forge { "" } else { suffix.split('-').next().unwrap_or_default() };
        let (number, is_candidate) = match number.strip_suffix("rc") {
            Some(number) => (number, true),
            None => (number, suffix.eq_ignore_ascii_case("rc")),
        };
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let (major, minor) = (parts.next()??, parts.next()??);
        let commits = if is_candidate { -1 } else { suffix.parse().unwrap_or(0) };
        Some(WebUiVersion(major, minor, parts.next().flatten().unwrap_or(0), commits))
    }
}

/// The rules for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    version: Option<WebUiVersion>,
}

impl Rules {
    /// Returns the rules for a version, or the latest rules without one.
    pub(super) fn of(version: Option<WebUiVersion>) -> Self {
        Rules { version }
    }

    fn is_before(self, change: WebUiVersion) -> bool {
        self.version.is_some_and(|version| version < change)
    }

    /// Whether the numbers in `[before:after:0.5]` are read as before 1.6.
    pub(super) fn old_editing(self) -> bool {
        self.is_before(NEW_EDITING)
    }

    /// Whether the negative prompt is padded with its last vector, or cut.
    pub(super) fn pads_negative(self, sampler: Sampler) -> bool {
        matches!(sampler, Sampler::Ddim | Sampler::Plms) && self.is_before(NO_PADDING)
    }

    /// Whether the noise schedule is rounded to half precision.
    pub(super) fn downcasts_alphas(self) -> bool {
        self.is_before(EXACT_ALPHAS)
    }

    /// Whether the refiner takes over after a share of the steps.
    pub(super) fn switches_by_steps(self) -> bool {
        self.is_before(SWITCH_BY_TIMESTEPS)
    }

    /// Whether `#` begins a comment.
    pub(super) fn has_comments(self) -> bool {
        !self.is_before(COMMENTS)
    }
}

/// Returns the schedule type of a picture that names none. A picture without a version is as old as its lack of a schedule
/// type suggests.
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
            ("v1.6.0", Some(WebUiVersion(1, 6, 0, 0))),
            ("1.9.3", Some(WebUiVersion(1, 9, 3, 0))),
            ("v1.10.1-85-g82a973c0", Some(WebUiVersion(1, 10, 1, 85))),
            ("1.8.0-RC", Some(WebUiVersion(1, 8, 0, -1))),
            ("f2.0.1v1.10.1-previous-659-gc055f2d4", Some(WebUiVersion(1, 10, 1, 0))),
            ("f0.0.17v1.8.0rc-latest-277-g0af28699", Some(WebUiVersion(1, 8, 0, -1))),
            ("1.5", Some(WebUiVersion(1, 5, 0, 0))),
            ("trinart-ckpt 0.1.0", None),
            ("ComfyUI", None),
            ("", None),
        ] {
            assert_eq!(WebUiVersion::parse(text), expected, "{text}");
        }
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

    #[test]
    fn rules_come_and_go_with_their_versions() {
        let rules = |version: &str| {
            let rules = Rules::of(WebUiVersion::parse(version));
            let pads = rules.pads_negative(Sampler::Ddim);
            [rules.old_editing(), pads, rules.downcasts_alphas(), rules.has_comments()]
        };
        assert_eq!(rules("v1.5.2"), [true, true, true, false]);
        assert_eq!(rules("v1.6.0"), [false, false, true, false]);
        assert_eq!(rules("v1.7.0"), [false, false, true, false]);
        assert_eq!(rules("v1.7.0-224-g0123abcd"), [false, false, true, false]);
        assert_eq!(rules("v1.7.0-225-g0123abcd"), [false, false, false, false]);
        assert_eq!(rules("1.8.0-RC"), [false, false, false, true]);
        assert_eq!(rules("v1.10.1"), [false, false, false, true]);
        assert_eq!(rules(""), [false, false, false, true]);
        assert!(!Rules::of(WebUiVersion::parse("v1.5.0")).pads_negative(Sampler::Euler));
    }
}
