//! Scans pickles that follow one another, and the pickles within them.

use super::content::recognize_archive;
use super::evidence::{is_pickle, is_whole, may_be_magic};
use super::nested::{LOADER, loads_only_own_bytes, nested};
use super::role::Role;
use super::scanner::{LocatedFinding, Scanner, nested_place};
use crate::containers;
use crate::danger::{self, Finding, Level};
use crate::error::{Error, Kind};
use crate::limits;
use crate::pickle::{LenientParse, Pickle, parse_lenient, parse_lenient_without_arrays};

/// Number of pickles that torch loads from the start of a legacy file, whatever they look like.
const LEGACY_PICKLES: usize = 5;

/// Bytes of data in which a whole pickle is looked for.
const DATA_BYTES: usize = 1 << 20;

/// The same, in a file whose data took too long.
const DATA_HEAD: usize = 4096;

/// Findings of one file to list.
const MOST_FINDINGS: usize = 4 * limits::FINDINGS;

impl Scanner<'_> {
    /// Scans the pickles at the start of `bytes`. Returns the offset behind them, or `None` if there is no pickle.
    pub(super) fn pickles(&mut self, bytes: &[u8], place: &str, role: Role, depth: usize) -> Option<usize> {
        let mut rest = bytes;
        let mut begin = 0;
        let mut end = None;
        let mut is_legacy = false;
        let of_file = matches!(role, Role::File { .. });
        for index in 0.. {
            if rest.is_empty() {
                break;
            }
            if index == limits::SCAN_STACKED {
                let found = format!("more than {} pickles in succession", limits::SCAN_STACKED);
                self.fail(Error::limit(found), place);
                break;
            }
            let role = match index {
                0 => role,
                // torch.load unpickles these, whatever they look like. What follows them are storages.
                1..LEGACY_PICKLES if is_legacy => Role::Loaded,
                LEGACY_PICKLES.. if is_legacy => Role::Data,
                _ => Role::Found,
            };
            let parsed = parse_lenient(rest.get(..self.window(role)).unwrap_or(rest));
            let len = parsed.pickle.bytes().len();
            self.touch(len);
            if matches!(role, Role::Data | Role::Embedded) {
                self.data_values += parsed.pickle.nodes().len();
            } else {
                self.scanned_bytes += len as u64;
                self.values += parsed.pickle.nodes().len();
            }
            if self.is_exhausted() {
                let (bytes, values) = (limits::SCAN_BYTES, limits::SCAN_VALUES);
                let found = format!("more than {bytes} bytes or {values} values of pickles; the rest was not scanned");
                self.fail(Error::limit(found), place);
                return end;
            }
            if is_pickle(&parsed, role) {
                end = Some(begin + len);
            } else if role != Role::Data && is_whole(&parsed) {
                // It has nothing to report, but a loader may go on with what follows.
                rest = rest.get(len..).unwrap_or_default();
                begin += len;
                continue;
            } else {
                self.note_limit(parsed, place, begin as u64, role);
                if of_file && end == Some(begin) && !is_legacy {
                    self.behind(rest, place, begin, depth);
                }
                break;
            }
            self.pickles += 1;
            if index == 0 {
                is_legacy = matches!(role, Role::Loaded | Role::File { .. }) && may_be_magic(&parsed);
            }
            if std::mem::take(&mut self.storages_wanted) {
                self.storages = containers::storage_sizes(&parsed.pickle);
            }
            let findings = danger::examine_allowing(&parsed.pickle, &self.allowed);
            let LenientParse { pickle, is_complete, broken, arrays, .. } = parsed;
            let first = self.findings.len();
            let break_offset = broken.as_ref().map(|broken| broken.offset);
            self.add_findings(findings, place, begin as u64, break_offset, role);
            if let Some(broken) = broken {
                self.fail(broken.error.move_to(begin as u64 + broken.offset), place);
            }
            if !arrays.is_empty() {
                self.without_arrays(rest, place, begin as u64, first);
            }
            self.nested(&pickle, first, place, depth);
            // joblib takes them for data. Other loaders take them for opcodes.
            for array in arrays {
                let place = nested_place(place, &format!("elements at {}", array.start));
                self.part(rest.get(array).unwrap_or_default(), &place, Role::Data, depth + 1);
            }
            if !is_complete {
                return Some(bytes.len());
            }
            rest = rest.get(len..).unwrap_or_default();
            begin += len;
        }
        end
    }

    /// Adds what a pickle does if a loader other than joblib takes the elements of its arrays for opcodes. `first` is the index
    /// of this pickle's first finding.
    fn without_arrays(&mut self, bytes: &[u8], place: &str, begin: u64, first: usize) {
        let parsed = parse_lenient_without_arrays(bytes.get(..limits::PICKLE_BYTES as usize).unwrap_or(bytes));
        self.scanned_bytes += parsed.pickle.bytes().len() as u64;
        self.values += parsed.pickle.nodes().len();
        let known: Vec<(String, Level)> =
            self.findings.iter().skip(first).map(|found| (found.finding.name.clone(), found.finding.level)).collect();
        let mut findings = danger::examine_allowing(&parsed.pickle, &self.allowed);
        findings.retain(|found| !known.iter().any(|(name, level)| *name == found.name && *level >= found.level));
        self.add_findings(findings, place, begin, parsed.broken.map(|broken| broken.offset), Role::Found);
    }

    /// Scans what follows the pickles of a file and is not one. Some loaders go to an offset: `shelve` pads its values.
    fn behind(&mut self, bytes: &[u8], place: &str, begin: usize, depth: usize) {
        let is_padding = |&byte: &u8| byte == 0 || byte.is_ascii_whitespace();
        if bytes.iter().all(is_padding) || recognize_archive(bytes).is_some() {
            return;
        }
        self.embedded(bytes, place, begin, depth);
        let found = format!("the bytes from offset {begin} on, behind its pickles, are no pickle and were not scanned");
        self.fail(Error::unsupported(found), place);
    }

    /// Bytes to parse at most. Storages of one repeated byte can be long runs of opcodes, and must not use up the limits
    /// for pickles.
    fn window(&self, role: Role) -> usize {
        match role {
            Role::Data if self.data_values > limits::SCAN_VALUES => DATA_HEAD,
            Role::Data => DATA_BYTES,
            // One byte more than allowed, so that a longer pickle exceeds the limit rather than being cut short.
            _ => limits::PICKLE_BYTES as usize + 1,
        }
    }

    /// Records that bytes could still be a pickle where parsing them exceeded a limit.
    fn note_limit(&mut self, parsed: LenientParse, place: &str, begin: u64, role: Role) {
        let broken = parsed.broken.filter(|broken| broken.error.kind() == Kind::Limit && role != Role::Data);
        if let Some(broken) = broken {
            self.fail(broken.error.move_to(begin + broken.offset), place);
        }
    }

    /// Adds the findings of a pickle that begins at `begin` and has its first error at `end`, an offset in the pickle.
    fn add_findings(&mut self, findings: Vec<Finding>, place: &str, begin: u64, end: Option<u64>, role: Role) {
        // Behind an error only names count, and only if another unpickler may get there. Everything else may be an
        // artifact of the lenient parse.
        let may_continue = matches!(role, Role::Loaded | Role::File { .. });
        for mut finding in findings {
            if end.is_some_and(|end| finding.offset >= end) && !(may_continue && is_name(&finding.name)) {
                continue;
            }
            finding.offset += begin;
            if self.is_script && is_script_name(&finding.name) {
                (finding.level, finding.reason) = (Level::Unknown, "is a part of the TorchScript program");
            }
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
        let mut is_known = loads_only_own_bytes(pickle);
        let mut worst = Level::Safe;
        for nested in nested(pickle) {
            let findings = self.findings.len();
            let place = nested_place(place, &format!("bytes at {}", nested.offset));
            let role = if nested.is_loaded { Role::Loaded } else { Role::Found };
            let content = self.part(&nested.bytes, &place, role, depth + 1);
            let levels = self.findings.iter().skip(findings).map(|found| found.finding.level);
            worst = levels.fold(worst, Level::max);
            is_known &= content.is_some() || !nested.is_loaded;
        }
        // The scan saw all bytes that torch would load, up to their end.
        if is_known && worst < Level::Dangerous && self.problem.is_none() {
            self.lower_loader(first, place, worst);
        }
    }

    /// Lowers the level of the call that loads bytes within its pickle to that of these bytes, after a scan of them.
    fn lower_loader(&mut self, first: usize, place: &str, level: Level) {
        let name = format!("{}.{}", LOADER.0, LOADER.1);
        let loads = |found: &&mut LocatedFinding| found.place == place && found.finding.name == name;
        if let Some(found) = self.findings.iter_mut().skip(first).find(loads) {
            found.finding.level = level;
            found.finding.reason = "loads tensors within the pickle; these were scanned too";
        }
    }
}

/// Whether a name in the pickles of a TorchScript program refers to its code, or is one that the program's loader
/// replaces. Python finds no module `__torch__`.
fn is_script_name(name: &str) -> bool {
    name.starts_with("__torch__.") || name.starts_with("torch.jit._pickle.")
}

/// Whether this is a Python name rather than the description of something that has none.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}
