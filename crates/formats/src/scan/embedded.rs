//! Finds pickles at any offset of bytes of an unknown kind, such as a database.

use super::evidence::acts;
use super::role::Role;
use super::scanner::{Scanner, nested_place};
use crate::danger::{self, Level};
use crate::error::Error;
use crate::limits;
use crate::pickle::{Chain, LenientParse, first_call, op, parse_lenient};

/// Bytes of the file that are searched at a time.
const CHUNK: usize = 1 << 20;

/// Bytes that a place where a pickle could begin counts for at least.
const START: usize = 64;

/// Bytes of a line with a module or a name, at most. Real ones are shorter.
const LINE: usize = 200;

/// Bytes before INST in which its MARK is looked for: those of its arguments.
const ARGUMENTS: usize = 1024;

/// Marks that are tried for an INST.
const MARKS: usize = 8;

/// What a search has cost so far, in bytes, and may cost.
struct Budget {
    spent: usize,
    most: usize,
}

impl Budget {
    fn spend(&mut self, bytes: usize) {
        self.spent = self.spent.saturating_add(bytes);
    }

    fn is_spent(&self) -> bool {
        self.spent > self.most
    }
}

impl Scanner<'_> {
    /// Scans pickles that begin with PROTO (protocols 2 to 5), and calls of dangerous names that are written as text
    /// (protocols 0 and 1). Neither random bytes nor text are taken for them. `begin` is the offset of the bytes.
    pub(super) fn embedded(&mut self, bytes: &[u8], place: &str, begin: usize, depth: usize) {
        // Following all opcodes once costs as much as there are bytes.
        let most = bytes.len() + bytes.len().max(limits::SCAN_BYTES as usize);
        let mut budget = Budget { spent: 0, most };
        let mut chain = Chain::new(bytes);
        // Up to where the opcodes of the chain were parsed.
        let mut parsed = 0;
        for from in (0..bytes.len()).step_by(CHUNK) {
            let chunk = bytes.get(from..).unwrap_or_default();
            let chunk = chunk.get(..CHUNK).unwrap_or(chunk);
            self.touch(chunk.len());
            for at in memchr::memchr2_iter(op::PROTO, b'\n', chunk) {
                let at = from + at;
                let found = bytes.get(at..).unwrap_or_default();
                if budget.is_spent() || self.data_values > limits::SCAN_VALUES {
                    let found = "too many bytes that begin like pickles; the rest was not scanned";
                    return self.fail(Error::limit(found), place);
                }
                match found {
                    // The second of two is as good as the first.
                    [op::PROTO, 2..=5, op::PROTO, 2..=5, ..] => {}
                    [op::PROTO, 2..=5, ..] => {
                        let is_known = chain.go_to(at);
                        let before = chain.followed();
                        let names = chain.names_something();
                        budget.spend(chain.followed() - before);
                        if !is_known {
                            budget.spend(START);
                            parsed = 0;
                        }
                        if !names || at < parsed {
                            continue;
                        }
                        let attempt = parse_lenient(found.get(..limits::PICKLE_BYTES as usize).unwrap_or(found));
                        let len = attempt.pickle.bytes().len();
                        budget.spend(len);
                        // What begins there has been parsed, up to its first error.
                        parsed = at + attempt.broken.as_ref().map_or(len, |broken| broken.offset as usize);
                        if acts(&attempt) {
                            self.embedded_pickle(found, place, begin + at, depth);
                        }
                    }
                    [b'\n', ..] => {
                        if let Some(at) = self.call_in_text(bytes, at, &mut budget) {
                            self.embedded_pickle(bytes.get(at..).unwrap_or_default(), place, begin + at, depth);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn embedded_pickle(&mut self, bytes: &[u8], place: &str, at: usize, depth: usize) {
        let place = nested_place(place, &format!("bytes at {at}"));
        self.pickles(bytes, &place, Role::Embedded, depth + 1);
    }

    /// Returns where a pickle begins that calls something dangerous whose module ends at the line break `at`. A pickle that
    /// begins before it may be anything.
    fn call_in_text(&self, bytes: &[u8], at: usize, budget: &mut Budget) -> Option<usize> {
        let behind = bytes.get(at + 1..)?;
        let name = behind.iter().take(LINE).take_while(|&&byte| is_of_name(byte)).count();
        if name == 0
            || behind.get(name) != Some(&b'\n')
            || behind.get(name + 1).is_none_or(|&code| op::name(code).is_none())
        {
            return None;
        }
        let before = bytes.get(..at)?;
        let run = before.iter().rev().take(LINE).take_while(|&&byte| is_of_name(byte)).count();
        let opcodes =
            (at - run..at.saturating_sub(1)).filter(|&at| matches!(bytes.get(at), Some(&(op::GLOBAL | op::INST))));
        opcodes.flat_map(|opcode| starts(bytes, opcode)).find(|&start| {
            let found = bytes.get(start..).unwrap_or_default();
            let found = found.get(..CHUNK).unwrap_or(found);
            let (len, calls) = first_call(found);
            budget.spend(len);
            if !calls || budget.is_spent() {
                return false;
            }
            let attempt = parse_lenient(found);
            budget.spend(START + attempt.pickle.bytes().len());
            self.calls_something_dangerous(&attempt)
        })
    }

    fn calls_something_dangerous(&self, attempt: &LenientParse) -> bool {
        let is_reached = |offset: u64| attempt.broken.as_ref().is_none_or(|broken| offset < broken.offset);
        let findings = || danger::examine_allowing(&attempt.pickle, &self.allowed).into_iter();
        acts(attempt) && findings().any(|found| found.level == Level::Dangerous && is_reached(found.offset))
    }
}

/// Where a pickle may begin whose GLOBAL or INST is at an offset: there, or at the MARK of the arguments.
fn starts(bytes: &[u8], opcode: usize) -> impl Iterator<Item = usize> {
    let is_global = bytes.get(opcode) == Some(&op::GLOBAL);
    let (longest, most) = if is_global { (1, 1) } else { (ARGUMENTS, MARKS) };
    let arguments = opcode.saturating_sub(longest)..opcode;
    let before = bytes.get(arguments.clone()).unwrap_or_default();
    let marks = memchr::memrchr_iter(op::MARK, before).take(most).map(move |at| arguments.start + at);
    is_global.then_some(opcode).into_iter().chain(marks)
}

/// Whether a byte occurs in the names of Python.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')
}
