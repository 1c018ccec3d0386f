//! The values of `--sampler` and `--schedule`.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, Error};

use super::choices::{similar, unknown};
use trinart_ckpt_render::sampling::{Sampler, ScheduleType};

/// Parses a name that may have spaces. They may be written as `_` or `-`, so that the name needs no quotes. Errors list the
/// names and suggest the most similar one.
#[derive(Clone)]
pub(in crate::cli) struct Named {
    is_known: fn(&str) -> bool,
    /// The names in help, errors and completions.
    names: fn() -> Vec<&'static str>,
    /// Names that may be meant by a mistyped one.
    similar: fn(&str) -> Option<String>,
}

/// Parses the name of a sampler, which may end in a schedule type.
pub(in crate::cli) fn sampler() -> Named {
    Named {
        is_known: |name| Sampler::from_name(name).is_some(),
        names: || Sampler::ALL.iter().map(|sampler| sampler.name()).collect(),
        similar: |text| {
            let with_schedules = |sampler: &Sampler| {
                let name = sampler.name();
                let schedules = if sampler.has_schedule() { ScheduleType::ALL } else { &[] };
                let combined = schedules.iter().map(move |schedule| format!("{name} {}", schedule.name()));
                [name.to_owned()].into_iter().chain(combined)
            };
            // Without the mark of k-diffusion in the names of WebUI's API.
            let text = text.strip_prefix("k_").unwrap_or(text);
            similar(text, Sampler::ALL.iter().flat_map(with_schedules).map(|name| (name.clone(), name)))
        },
    }
}

/// Parses the name of a schedule type.
pub(in crate::cli) fn schedule() -> Named {
    fn names() -> Vec<&'static str> {
        [ScheduleType::AUTOMATIC].into_iter().chain(ScheduleType::ALL.iter().map(|schedule| schedule.name())).collect()
    }
    Named {
        is_known: |name| name.eq_ignore_ascii_case(ScheduleType::AUTOMATIC) || ScheduleType::from_name(name).is_some(),
        names,
        similar: |text| similar(text, names().into_iter().map(|name| (name, name))).map(str::to_owned),
    }
}

impl TypedValueParser for Named {
    type Value = String;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        let text = value.to_string_lossy();
        let spellings = [text.to_string(), text.replace('-', "_"), text.replace(['-', '_'], " ")];
        let known = spellings.into_iter().find(|spelling| (self.is_known)(spelling));
        known.ok_or_else(|| {
            let names = (self.names)().into_iter().map(PossibleValue::new);
            unknown((command, argument, value), names, (self.similar)(&text))
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.names)().into_iter().map(PossibleValue::new)))
    }
}
