//! Examines a pickle: judges every global name, every call with its arguments, and every construct that hides names.

use std::collections::HashMap;
use std::sync::Arc;

use super::allowed::Allowed;
use super::bomb::{Bomb, find_bomb};
use super::hashes::collide;
use super::names::{Judgement, Level, judge};
use super::oddities::judge_oddity;
use super::shown::show_call;
use super::usage::Usage;
use super::uses::{Copies, judge_call};
use super::values::{BadKey, Values, arguments};
use super::vouched::Kind;
use super::zones::{is_lookup, looks_up_zones_only, makes_zone};
use crate::limits;
use crate::pickle::{Id, Name, Node, Object, OddUse, Oddity, Pickle};

/// A global name of a pickle, or a construct that hides names, with its level.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The module and name, or a description of what has no name.
    pub name: String,
    /// The level.
    pub level: Level,
    /// The reason for the level. Continues a sentence after "which".
    pub reason: &'static str,
    /// What the pickle does with it.
    pub usage: Usage,
    /// The arguments of the first call, or of the first call that determines the level. Cut to the length of a line.
    pub arguments: Option<String>,
    /// The offset of the first occurrence in the pickle.
    pub offset: u64,
    /// The number of occurrences.
    pub count: usize,
    /// The pattern of [`Allowed`] that vouches for the name.
    pub allowed_by: Option<Arc<str>>,
}

impl Finding {
    /// Describes the finding, such as `calls posix.system('id'), which runs commands`.
    pub fn to_text(&self) -> String {
        let arguments = self.arguments.as_deref().unwrap_or("");
        format!("{} {}{arguments}, which {}", self.usage.name(), self.name, self.reason)
    }
}

/// Examines a pickle. Sorts the findings by level, the worst first, then by offset. Lists at most [`limits::FINDINGS`] of
/// each level.
pub fn examine(pickle: &Pickle) -> Vec<Finding> {
    examine_allowing(pickle, &Allowed::new())
}

/// Examines a pickle as [`examine`]. Allowed names are safe, whatever the pickle does with them.
pub fn examine_allowing(pickle: &Pickle, allowed: &Allowed) -> Vec<Finding> {
    let values = Values::new(pickle, allowed);
    let mut examiner = Examiner {
        pickle,
        values: &values,
        copies: Copies::default(),
        findings: Vec::new(),
        indices: HashMap::new(),
        listed: HashMap::new(),
    };
    for global in pickle.globals() {
        examiner.named(&global.name, global.offset);
    }
    for node in pickle.nodes() {
        match node {
            Node::Object(object) => {
                examiner.called(object);
                examiner.hashed(object);
                examiner.copies.add(&values, object);
            }
            Node::Dict(pairs) => examiner.keys(pairs.iter().map(|(key, _)| key)),
            Node::Set(items) => examiner.keys(items.iter()),
            _ => {}
        }
    }
    for odd in pickle.oddities() {
        examiner.odd(*odd);
    }
    if examiner.copies.are_too_many(pickle.bytes().len()) {
        let judgement = Judgement::unknown("makes Python copy or compare far more than the pickle contains");
        examiner.unnamed("a value that is used many times", judgement, Usage::Contains, 0);
    }
    if let Some(bomb) = find_bomb(pickle) {
        let what = match bomb {
            Bomb::Wide => "a value that expands to more than 2^28 elements",
            Bomb::Deep => "a value nested more than 20,000 levels deep",
        };
        let judgement = Judgement::dangerous("exhausts the memory or the stack of programs that traverse it");
        examiner.unnamed(what, judgement, Usage::Contains, 0);
    }
    let mut findings = examiner.findings;
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.offset));
    findings
}

/// What a time zone does.
const ZONES: &str = "reads a file of the time zone database";

/// The identity of a finding.
#[derive(PartialEq, Eq, Hash)]
enum FindingKey {
    /// A global name, by its address: the pickle interns names.
    Name(*const Name),
    /// A description of what has no name.
    Unnamed(&'static str),
}

struct Examiner<'a> {
    pickle: &'a Pickle,
    values: &'a Values<'a>,
    copies: Copies,
    findings: Vec<Finding>,
    /// Indices into `findings`; `None` for those over the limit.
    indices: HashMap<FindingKey, Option<usize>>,
    /// The number of findings of each level, including those over the limit.
    listed: HashMap<Level, usize>,
}

impl Examiner<'_> {
    /// Returns the finding for a key, after adding it if it is new. Returns `None` if it is over the limit.
    #[expect(clippy::indexing_slicing, reason = "the map holds indices of findings, and findings are never removed")]
    fn find(
        &mut self,
        key: FindingKey,
        name: impl FnOnce() -> String,
        judgement: impl FnOnce() -> Judgement,
        offset: u64,
    ) -> Option<&mut Finding> {
        if let Some(index) = self.indices.get(&key) {
            return index.map(|index| &mut self.findings[index]);
        }
        let Judgement { level, reason } = judgement();
        let listed = self.listed.entry(level).or_insert(0);
        *listed += 1;
        // Each level has its own limit, so that a thousand safe names hide nothing.
        let is_listed = *listed <= limits::FINDINGS;
        let index = self.findings.len();
        self.indices.insert(key, is_listed.then_some(index));
        if !is_listed {
            return None;
        }
        let (name, usage) = (name(), Usage::Imports);
        self.findings.push(Finding { name, level, reason, usage, arguments: None, offset, count: 0, allowed_by: None });
        self.findings.last_mut()
    }

    /// Returns the finding for a name.
    fn find_name(&mut self, name: &Arc<Name>, offset: u64) -> Option<&mut Finding> {
        let pattern = self.values.pattern(name).cloned();
        let judgement = || match pattern {
            Some(_) => Judgement::safe("is allowed"),
            None if is_lookup(name) && looks_up_zones_only(self.pickle) => Judgement::unknown(ZONES),
            None => judge(name),
        };
        let finding = self.find(FindingKey::Name(Arc::as_ptr(name)), || name.to_string(), judgement, offset)?;
        finding.allowed_by = pattern;
        Some(finding)
    }

    fn named(&mut self, name: &Arc<Name>, offset: u64) {
        if let Some(finding) = self.find_name(name, offset) {
            finding.count += 1;
        }
    }

    /// Raises the level of a name, unless the user vouches for it. Returns the finding if its level rose.
    fn raise(&mut self, name: &Arc<Name>, judgement: Judgement, offset: u64) -> Option<&mut Finding> {
        if self.values.pattern(name).is_some() {
            return None;
        }
        let key = FindingKey::Name(Arc::as_ptr(name));
        // A name over the limit of its level is not over that of the next one.
        if self.indices.get(&key) == Some(&None) {
            if judge(name).level >= judgement.level {
                return None;
            }
            self.indices.remove(&key);
            return self.find(key, || name.to_string(), || judgement, offset);
        }
        let finding = self.find_name(name, offset).filter(|finding| finding.level < judgement.level)?;
        (finding.level, finding.reason) = (judgement.level, judgement.reason);
        Some(finding)
    }

    /// Adds something that has no name.
    fn unnamed(&mut self, what: &'static str, judgement: Judgement, usage: Usage, offset: u64) {
        if let Some(finding) = self.find(FindingKey::Unnamed(what), || what.to_owned(), || judgement, offset) {
            finding.count += 1;
            finding.usage = finding.usage.max(usage);
            if finding.level < judgement.level {
                (finding.level, finding.reason) = (judgement.level, judgement.reason);
            }
        }
    }

    fn called(&mut self, object: &Object) {
        let pickle = self.pickle;
        let Some(name) = self.values.name(object.callable) else {
            if makes_zone(pickle, object) {
                return self.unnamed(
                    "a method of zoneinfo.ZoneInfo",
                    Judgement::unknown(ZONES),
                    Usage::Calls,
                    object.offset,
                );
            }
            let judgement = Judgement::dangerous("cannot be judged");
            return self.unnamed("the result of another call", judgement, Usage::Calls, object.offset);
        };
        if let Some(judgement) = judge_call(self.values, name, object)
            && let Some(finding) = self.raise(name, judgement, object.offset)
        {
            (finding.usage, finding.arguments) = (Usage::Calls, Some(show_call(pickle, object.args)));
        }
        if let Some(finding) = self.find_name(name, object.offset)
            && finding.usage == Usage::Imports
        {
            (finding.usage, finding.arguments) = (Usage::Calls, Some(show_call(pickle, object.args)));
        }
    }

    /// Judges what a call result has as keys or members.
    fn hashed(&mut self, object: &Object) {
        self.keys(object.pairs.iter().map(|(key, _)| key));
        let entry = self.values.global(object.callable);
        if entry.is_some_and(|entry| entry.is == Kind::PlainClass && entry.call.is_some_and(|call| call.items)) {
            self.keys(object.items.iter());
        }
        let items = arguments(self.pickle, object).first().and_then(|&first| self.values.items(first));
        let key = |&item: &Id| self.values.items(item).and_then(|pair| pair.first().copied());
        match entry.and_then(|entry| entry.call.map(|call| (entry.is, call.gives))).zip(items) {
            Some(((_, Kind::OrderedDict), pairs)) => {
                self.collisions(pairs.iter().filter_map(key).collect::<Vec<_>>().iter())
            }
            Some(((Kind::PlainClass, _), items)) => self.collisions(items.iter()),
            _ => {}
        }
    }

    fn collisions<'k>(&mut self, keys: impl ExactSizeIterator<Item = &'k Id>) {
        if collide(self.pickle, keys) {
            let judgement =
                Judgement::unknown("Python compares with each other, in a time that grows with their square");
            self.unnamed("more than a thousand keys that may have one hash", judgement, Usage::Contains, 0);
        }
    }

    fn keys<'k>(&mut self, keys: impl ExactSizeIterator<Item = &'k Id> + Clone) {
        self.collisions(keys.clone());
        for &key in keys {
            self.copies.add_key(self.values, key);
            match self.values.bad_key(key) {
                None => {}
                Some(BadKey::Object(name)) => {
                    let judgement =
                        Judgement::unknown("is vouched for, but not as a key of a dict or a member of a set");
                    let _ = self.raise(&name, judgement, 0);
                }
                Some(BadKey::Other) => {
                    let judgement = Judgement::unknown("may take long to hash, or runs code for it");
                    self.unnamed("a key of a dict or a member of a set", judgement, Usage::Contains, 0);
                }
            }
        }
    }

    fn odd(&mut self, odd: OddUse) {
        let pickle = self.pickle;
        if let Some((what, judgement, usage)) = judge_oddity(odd.oddity) {
            return self.unnamed(what, judgement, usage, odd.offset);
        }
        match odd.oddity {
            Oddity::State(target) => match self.values.name(target) {
                Some(name) => {
                    let judgement = Judgement::dangerous("has its attributes changed for the whole program");
                    let _ = self.raise(name, judgement, odd.offset);
                }
                None => {
                    let judgement = Judgement::unknown("is not the result of a call");
                    self.unnamed("__setstate__ of a value", judgement, Usage::Calls, odd.offset);
                }
            },
            Oddity::Persistent(target) if self.values.is_storage(target) || self.values.is_module(target) => {}
            Oddity::Persistent(target) => {
                let tag = pickle.tuple(target).and_then(|parts| pickle.word(*parts.first()?));
                let judgement = match tag {
                    Some("storage") => Judgement::unknown("has not the form that torch.save writes"),
                    Some("module") => Judgement::unknown("refers to a class that is not vouched for"),
                    _ => Judgement::dangerous("makes its reader load something other than a storage"),
                };
                self.unnamed("a persistent id", judgement, Usage::Contains, odd.offset);
            }
            // `judge_oddity` judges all others.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::parse_lenient;

    fn found(bytes: &[u8]) -> Vec<Finding> {
        examine(&parse_lenient(bytes).pickle)
    }

    fn worst(bytes: &[u8]) -> (Level, String) {
        found(bytes).first().map_or((Level::Safe, String::new()), |finding| (finding.level, finding.to_text()))
    }

    #[test]
    fn shows_a_call_with_its_arguments() {
        let findings = found(b"\x80\x02N0ctorch\nFloatStorage\n0cposix\nsystem\nX\x02\x00\x00\x00id\x85R.");
        assert_eq!(findings[0].to_text(), "calls posix.system('id'), which runs commands");
        assert_eq!((findings[0].offset, findings[0].count), (25, 1));
        assert_eq!((findings[1].level, findings[1].usage), (Level::Safe, Usage::Imports));
    }

    #[test]
    fn finds_calls_by_every_opcode() {
        for bytes in [
            &b"(S'id'\nios\nsystem\n."[..],
            b"(cos\nsystem\nS'id'\no.",
            b"cos\nsystem\n(S'id'\nt\x81.",
            b"cos\nsystem\n(S'id'\nt}\x92.",
            b"cos\nsystem\n(S'id'\ntR0N.",
            b"(S'os'\np1\n0S'system'\np2\n0g1\ng2\n\x93(S'id'\ntR.",
            b"(X\x06\0\0\0modulecos\nsystem\nNNtQ(S'id'\ntR.",
        ] {
            let (level, text) = worst(bytes);
            assert_eq!((level, text.as_str()), (Level::Dangerous, "calls os.system('id'), which runs commands"));
        }
    }

    #[test]
    fn hiding_names_is_dangerous() {
        for (bytes, word) in [
            (&b"cx\ny\n)R)R."[..], "the result of another call"),
            (b"cx\ny\n)RX\x01\0\0\0a\x93.", "computes"),
            (b"\x82\x01.", "extension registry"),
            (b"Pevil\n.", "persistent id"),
            (b"cx\nY\n}b.", "attributes changed"),
            (b"c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0rot13tR.", "codec"),
            (b"ctorch._tensor\n_rebuild_from_type_v2\n(cx\ny\n)RNNNtR.", "calls the function"),
            (b"c__builtin__\nbytearray\n(L99999999999L\ntR.", "memory"),
        ] {
            let (level, text) = worst(bytes);
            assert_eq!(level, Level::Dangerous, "{text}");
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn bounds_what_keys_and_copies_cost() {
        // Each set contains the one before twice, so comparing it with an equal one takes 2^depth steps.
        let sets = |depth| [b"\x80\x04}(K\x01\x91", &b"q\x000(h\0(h\0\x91\x91".repeat(depth)[..], b"Ns."].concat();
        assert_eq!((worst(&sets(5)).0, worst(&sets(10)).0), (Level::Safe, Level::Unknown));
        let storage =
            b"\x80\x02ctorch._utils\n_rebuild_tensor\n((X\x07\0\0\0storagectorch\nFloatStorage\nVk\nVcpu\nM\0\x80";
        let tensor = [&storage[..], b"tQK\0M\0\x80\x85K\x01\x85tRq\0ctorch\nfloat32\nq\x01"].concat();
        let copy = b"ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n(h\0h\x01Vcpu\n\x89tR";
        let copies = |count| [&tensor[..], &copy.repeat(count)[..], b"."].concat();
        assert_eq!((worst(&copies(16)).0, worst(&copies(17)).0), (Level::Safe, Level::Unknown));
    }

    #[test]
    fn many_names_hide_no_dangerous_one() {
        let names = (0..limits::FINDINGS * 3).flat_map(|index| format!("cx\nC{index}\n0").into_bytes());
        let findings = found(&names.chain(*b"cos\nsystem\n.").collect::<Vec<u8>>());
        assert_eq!(findings.len(), limits::FINDINGS + 1);
        assert_eq!(findings[0].name, "os.system");
    }
}
