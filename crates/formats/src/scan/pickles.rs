//! Scans pickles that follow one another, and the pickles within them.

use super::nested::{LOADER, loads_only_own_bytes, nested};
use super::scanner::{LocatedFinding, Scanner, nested_place};
use crate::danger::{self, Finding, Level};
use crate::error::{Error, Kind};
use crate::limits;
use crate::pickle::{LenientParse, Pickle, op, parse_lenient};

/// Number of pickles that torch loads from the start of a legacy file, whatever they look like.
const LEGACY_PICKLES: usize = 5;

/// Findings of one file to list.
const MOST_FINDINGS: usize = 4 * limits::FINDINGS;

impl Scanner {
    /// Scans the pickles at the start of `bytes`. `is_pickle` means that a loader would treat them as a pickle whatever
    /// they look like. Returns false if there is no pickle.
    pub(super) fn pickles(&mut self, bytes: &[u8], place: &str, is_pickle: bool, depth: usize) -> bool {
        let mut rest = bytes;
        let mut begin = 0;
        for index in 0..limits::SCAN_STACKED {
            if rest.is_empty() {
                return index > 0;
            }
            // One byte more than allowed, so that a longer pickle exceeds the limit rather than being cut short.
            let window = rest.get(..limits::PICKLE_BYTES as usize + 1).unwrap_or(rest);
            let parsed = parse_lenient(window);
            let len = parsed.pickle.bytes().len();
            self.scanned_bytes += len as u64;
            self.values += parsed.pickle.nodes().len();
            if self.is_exhausted() {
                let (bytes, values) = (limits::SCAN_BYTES, limits::SCAN_VALUES);
                let found = format!("more than {bytes} bytes or {values} values of pickles; the rest was not scanned");
                self.fail(Error::limit(found), place);
                return true;
            }
            let has_protocol = matches!(rest, [op::PROTO, 0..=9, ..]);
            let is_legacy = has_protocol && index < LEGACY_PICKLES && depth == 0 && place.is_empty();
            // A file with the extension of pickles counts as one only if it names something: other formats share it.
            let is_loaded = is_pickle && index == 0 && (has_protocol || !place.is_empty() || names_something(&parsed));
            let findings = danger::examine_allowing(&parsed.pickle, &self.allowed);
            if !is_legacy && !is_loaded && !looks_like_pickle(&parsed, &findings) {
                return index > 0;
            }
            self.pickles += 1;
            let LenientParse { pickle, is_complete, broken, .. } = parsed;
            let first = self.findings.len();
            let end = broken.as_ref().map(|broken| broken.offset);
            self.add_findings(findings, place, begin, end);
            if let Some(broken) = broken {
                self.fail(broken.error.move_to(begin + broken.offset), place);
            }
            self.nested(&pickle, first, place, depth);
            if !is_complete {
                return true;
            }
            let Some((_, behind)) = rest.split_at_checked(len) else { return true };
            rest = behind;
            begin += len as u64;
        }
        if !rest.is_empty() {
            let found = format!("more than {} pickles in succession", limits::SCAN_STACKED);
            self.fail(Error::limit(found), place);
        }
        true
    }

    /// Adds the findings of a pickle that begins at `begin` and has its first error at `end`, an offset in the pickle.
    fn add_findings(&mut self, findings: Vec<Finding>, place: &str, begin: u64, end: Option<u64>) {
        for mut finding in findings {
            // Behind an error only names count. Everything else may be an artifact of the lenient parse.
            if end.is_some_and(|end| finding.offset >= end) && !is_name(&finding.name) {
                continue;
            }
            finding.offset += begin;
            // Many safe names must not hide an unknown one, nor many unknown names a dangerous one.
            let most = match finding.level {
                Level::Safe => MOST_FINDINGS / 4,
                Level::Unknown => MOST_FINDINGS / 2,
                Level::Dangerous => MOST_FINDINGS,
            };
            if self.findings.len() < most {
                self.findings.push(LocatedFinding { place: place.to_owned(), finding });
            }
        }
    }

    /// Scans the pickles within a pickle. `first` is the index of this pickle's first finding.
    fn nested(&mut self, pickle: &Pickle, first: usize, place: &str, depth: usize) {
        let mut is_clean = loads_only_own_bytes(pickle);
        for nested in nested(pickle) {
            let findings = self.findings.len();
            let place = nested_place(place, &format!("bytes at {}", nested.offset));
            let content = self.part(&nested.bytes, &place, nested.is_loaded, depth + 1);
            is_clean &= self.findings.iter().skip(findings).all(|found| found.finding.level < Level::Dangerous);
            is_clean &= content.is_some() || !nested.is_loaded;
        }
        // The scan saw all bytes that torch would load, up to their end.
        if is_clean && self.problem.is_none() {
            self.downgrade_loader(first, place);
        }
    }

    /// Lowers the level of the call that loads bytes within its pickle, after a scan of these bytes found nothing
    /// dangerous.
    fn downgrade_loader(&mut self, first: usize, place: &str) {
        let name = format!("{}.{}", LOADER.0, LOADER.1);
        let loads = |found: &&mut LocatedFinding| found.place == place && found.finding.name == name;
        if let Some(found) = self.findings.iter_mut().skip(first).find(loads) {
            found.finding.level = Level::Safe;
            found.finding.reason = "loads tensors within the pickle; these were scanned too";
        }
    }
}

/// Whether this is a Python name rather than the description of something that has none.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}

/// Whether an offset in a pickle lies before its first error.
fn is_before_break(parsed: &LenientParse, offset: u64) -> bool {
    parsed.broken.as_ref().is_none_or(|broken| offset < broken.offset)
}

/// Whether a pickle contains a global name before its first error.
fn names_something(parsed: &LenientParse) -> bool {
    parsed.pickle.globals().first().is_some_and(|global| is_before_break(parsed, global.offset))
}

/// Whether bytes of unknown type are a pickle: they end like one, or name something dangerous before the first error.
/// Tensors and text may begin like a pickle.
fn looks_like_pickle(parsed: &LenientParse, findings: &[Finding]) -> bool {
    let names_danger = |finding: &Finding| {
        finding.level == Level::Dangerous && is_before_break(parsed, finding.offset) && is_name(&finding.name)
    };
    let is_valid = parsed.is_complete && parsed.broken.is_none();
    let exceeds_limit = parsed.broken.as_ref().is_some_and(|broken| broken.error.kind() == Kind::Limit);
    let is_empty = parsed.pickle.bytes().len() <= 1;
    !is_empty && (is_valid || exceeds_limit && !findings.is_empty() || findings.iter().any(names_danger))
}
