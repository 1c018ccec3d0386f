//! Pickles, one behind another, and those within them.

use super::nested::{loads_only_what_is_here, nested};
use super::{Placed, Scanner, way};
use crate::danger::{self, Finding, Level};
use crate::error::{Error, Kind};
use crate::limits;
use crate::pickle::{Survey, op, survey};

/// Pickles at the start of a legacy file: what stands there is loaded as pickles, whatever it looks like.
const OF_LEGACY: usize = 5;

impl Scanner {
    /// Looks through the pickles that `bytes` begins with; false if it begins with none. `is_pickle` says that somebody
    /// would load it as one.
    pub(super) fn pickles(&mut self, bytes: &[u8], place: &str, is_pickle: bool, depth: usize) -> bool {
        let mut begin = 0;
        for index in 0.. {
            let rest = bytes.get(begin..).unwrap_or_default();
            if rest.is_empty() {
                return index > 0;
            }
            if index == limits::SCAN_STACKED {
                break;
            }
            let has_head = matches!(rest, [op::PROTO, 0..=9, ..]);
            let is_certain = has_head && index < OF_LEGACY && depth == 0 && place.is_empty();
            let window = rest.get(..rest.len().min(limits::PICKLE_BYTES as usize + 1)).unwrap_or_default();
            let seen = survey(window);
            self.looked_through += seen.pickle.bytes().len() as u64;
            self.values += seen.pickle.nodes().len();
            if self.is_exhausted() {
                let (bytes, values) = (limits::SCAN_BYTES, limits::SCAN_VALUES);
                let found =
                    format!("more than {bytes} bytes or {values} values of pickles; the rest was not looked at");
                self.fail(Error::limit(found), place);
                return true;
            }
            let findings = danger::examine(&seen.pickle);
            // A file called a pickle is one as soon as it names something.
            let is_certain =
                is_certain || is_pickle && index == 0 && (has_head || !place.is_empty() || names_first(&seen));
            if !is_certain && !is_pickle_by_itself(&seen, &findings) {
                return index > 0;
            }
            self.pickles += 1;
            let first = self.findings.len();
            self.take(&seen, findings, place, begin as u64);
            self.within(&seen, first, place, depth);
            if !seen.complete {
                return true;
            }
            begin += seen.pickle.bytes().len();
        }
        self.fail(Error::limit(format!("more than {} pickles one behind another", limits::SCAN_STACKED)), place);
        true
    }

    /// Notes what one pickle does, and where it breaks.
    fn take(&mut self, seen: &Survey, findings: Vec<Finding>, place: &str, begin: u64) {
        let end = seen.broken.as_ref().map_or(u64::MAX, |error| error.offset().unwrap_or_default());
        for mut finding in findings {
            // Behind a break nothing is known but names: what is called there is unknown for that reason alone.
            if finding.offset >= end && !is_name(&finding.name) {
                continue;
            }
            finding.offset += begin;
            // Beyond the first half only what is dangerous counts, so that a flood of names hides nothing.
            let most = if finding.level == Level::Dangerous { MOST_LISTED } else { MOST_LISTED / 2 };
            if self.findings.len() < most {
                self.findings.push(Placed { place: place.to_owned(), finding });
            }
        }
        if let Some(error) = &seen.broken {
            let error = Error::new(error.kind(), error.message()).at(begin + error.offset().unwrap_or_default());
            self.fail(error, place);
        }
    }

    /// Looks through the pickles within a pickle: bytes that look like one, and those that it would have loaded.
    /// `first` is the first finding of this pickle.
    fn within(&mut self, seen: &Survey, first: usize, place: &str, depth: usize) {
        let mut is_clean = loads_only_what_is_here(&seen.pickle);
        for part in nested(&seen.pickle) {
            let findings = self.findings.len();
            let way = way(place, &format!("bytes at {}", part.offset));
            let what = self.part(&part.bytes, &way, part.is_loaded, depth + 1);
            let found = self.findings.get(findings..).unwrap_or_default();
            is_clean &= found.iter().all(|placed| placed.finding.level < Level::Dangerous);
            is_clean &= what.is_some() || !part.is_loaded;
        }
        // All bytes that torch would load were looked through, to their end: what is in them is known now.
        if is_clean && self.problem.is_none() {
            self.seen_through(first, place);
        }
    }

    /// Tells of the call that loads bytes within its pickle that there is nothing dangerous in them.
    fn seen_through(&mut self, first: usize, place: &str) {
        let name = format!("{}.{}", LOADER.0, LOADER.1);
        let loads = |placed: &&mut Placed| placed.place == place && placed.finding.name == name;
        if let Some(placed) = self.findings.iter_mut().skip(first).find(loads) {
            placed.finding.level = Level::Suspicious;
            placed.finding.reason = "loads the tensors within, which were looked through";
        }
    }
}

/// Findings of one file that are listed.
const MOST_LISTED: usize = 4 * limits::FINDINGS;

/// What a pickle of a tensor, made without `torch.save`, calls for its storage.
pub(super) const LOADER: (&str, &str) = ("torch.storage", "_load_from_bytes");

/// Whether this is a name as Python has them, not the words that stand in for one.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}

/// Whether a pickle names something before it breaks.
fn names_first(seen: &Survey) -> bool {
    let end = seen.broken.as_ref().map_or(u64::MAX, |error| error.offset().unwrap_or_default());
    seen.pickle.globals().first().is_some_and(|global| global.offset < end)
}

/// Whether bytes that nobody said are a pickle are one: they end as one, or name something dangerous before they break.
/// The elements of a tensor may begin like a pickle, and so may text.
fn is_pickle_by_itself(seen: &Survey, findings: &[Finding]) -> bool {
    let is_something = seen.pickle.bytes().len() > 1;
    let end = seen.broken.as_ref().map_or(u64::MAX, |error| error.offset().unwrap_or_default());
    let is_listed =
        |finding: &Finding| finding.level == Level::Dangerous && finding.offset < end && is_name(&finding.name);
    let ends_as_one = seen.complete && seen.broken.is_none();
    let at_limit = seen.broken.as_ref().is_some_and(|error| error.kind() == Kind::Limit) && !findings.is_empty();
    is_something && (ends_as_one || at_limit || findings.iter().any(is_listed))
}
