//! What is vouched for: names, and what a pickle may do with each. Everything that is not in these tables is unknown or
//! dangerous.
//!
//! An entry vouches for a name in one module. It says what the name is, with which arguments it may be called, what
//! BUILD may set on the result, whether the result takes items, and whether it may be a key. The patterns also bound
//! what a call allocates.

mod dtype_code;
mod kind;
mod python;
mod third_party;
mod torch;

pub(super) use dtype_code::split_dtype_code;
pub(super) use kind::{Args, Call, Check, Entry, Is, Kind};

use crate::pickle::Name;

/// Returns the entry of a name, if it is vouched for under this module.
pub(super) fn entry(name: &Name) -> Option<&'static Entry> {
    [python::ENTRIES, torch::ENTRIES, third_party::ENTRIES]
        .into_iter()
        .flatten()
        .find(|entry| entry.modules.contains(&name.module.as_str()) && entry.names.contains(&name.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vouches_for_each_name_once() {
        let tables = [python::ENTRIES, torch::ENTRIES, third_party::ENTRIES];
        let pairs = tables.into_iter().flatten().flat_map(|entry| {
            entry.modules.iter().flat_map(|module| entry.names.iter().map(move |name| format!("{module}.{name}")))
        });
        let mut names: Vec<String> = pairs.collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
