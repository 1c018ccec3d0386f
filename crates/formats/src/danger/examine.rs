//! Examines a pickle: judges every global name, every call with its arguments, and every construct that hides names.

use std::collections::HashMap;
use std::sync::Arc;

use super::bomb::{Bomb, find_bomb};
use super::names::{Judgement, Level, judge};
use crate::limits;
use crate::pickle::{Id, Name, Node, Object, OddUse, Oddity, Pickle};

/// What a pickle does with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Usage {
    /// Imports it without calling it.
    Imports,
    /// Calls it, or sets its attributes.
    Calls,
    /// Contains it: a value, not a name.
    Contains,
}

impl Usage {
    /// The verb in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Usage::Imports => "imports",
            Usage::Calls => "calls",
            Usage::Contains => "contains",
        }
    }
}

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
    let mut examiner = Examiner { pickle, findings: Vec::new(), indices: HashMap::new(), listed: HashMap::new() };
    for global in pickle.globals() {
        examiner.named(&global.name, global.offset);
    }
    for node in pickle.nodes() {
        if let Node::Object(object) = node {
            examiner.called(object);
        }
    }
    for odd in pickle.oddities() {
        examiner.odd(*odd);
    }
    if let Some(bomb) = find_bomb(pickle) {
        let what = match bomb {
            Bomb::Wide => "a value that expands to more than 2^36 elements",
            Bomb::Deep => "a value nested more than 20,000 levels deep",
        };
        examiner.unnamed(
            what,
            Judgement::dangerous("exhausts the memory or the stack of programs that traverse it"),
            Usage::Contains,
            0,
        );
    }
    let mut findings = examiner.findings;
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.offset));
    findings
}

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
        let name = name();
        self.findings.push(Finding { name, level, reason, usage: Usage::Imports, arguments: None, offset, count: 0 });
        self.findings.last_mut()
    }

    fn named(&mut self, name: &Arc<Name>, offset: u64) {
        let key = FindingKey::Name(Arc::as_ptr(name));
        if let Some(finding) = self.find(key, || name.to_string(), || judge(name), offset) {
            finding.count += 1;
        }
    }

    /// Adds something that has no name.
    fn unnamed(&mut self, what: &'static str, judgement: Judgement, usage: Usage, offset: u64) {
        if let Some(finding) = self.find(FindingKey::Unnamed(what), || what.to_owned(), || judgement, offset) {
            finding.count += 1;
            finding.usage = finding.usage.max(usage);
        }
    }

    fn called(&mut self, object: &Object) {
        let pickle = self.pickle;
        let Some(name) = callable(pickle, object.callable) else {
            let judgement = Judgement::dangerous("cannot be judged");
            return self.unnamed("the result of another call", judgement, Usage::Calls, object.offset);
        };
        let by_arguments = pickle.tuple(object.args).and_then(|args| by_arguments(pickle, name, args));
        let key = FindingKey::Name(Arc::as_ptr(name));
        let Some(finding) = self.find(key, || name.to_string(), || judge(name), object.offset) else { return };
        let is_first = finding.usage == Usage::Imports;
        finding.usage = Usage::Calls;
        let worse = by_arguments.filter(|judgement| judgement.level > finding.level);
        if let Some(Judgement { level, reason }) = worse {
            (finding.level, finding.reason) = (level, reason);
        }
        if is_first || worse.is_some() {
            finding.arguments = Some(show_call(pickle, object.args));
        }
    }

    fn odd(&mut self, odd: OddUse) {
        let pickle = self.pickle;
        match odd.oddity {
            Oddity::ComputedName => {
                let judgement = Judgement::dangerous("cannot be judged");
                self.unnamed("a name that it computes", judgement, Usage::Imports, odd.offset);
            }
            Oddity::Extension(_) => {
                let judgement = Judgement::dangerous("refers to a name that is not in the file");
                self.unnamed("an entry of the extension registry", judgement, Usage::Imports, odd.offset);
            }
            Oddity::Buffer => {
                let judgement = Judgement::unknown("is not in the file");
                self.unnamed("an out-of-band buffer", judgement, Usage::Contains, odd.offset);
            }
            Oddity::Reserve => {
                let judgement = Judgement::dangerous("makes Python allocate gigabytes of memory");
                self.unnamed("a memo index too large for any real file", judgement, Usage::Contains, odd.offset);
            }
            Oddity::Straddle => {
                let judgement = Judgement::dangerous("may make Python import names other than those shown here");
                self.unnamed("an opcode that straddles the end of its frame", judgement, Usage::Contains, odd.offset);
            }
            Oddity::State(target) => match callable(pickle, target) {
                Some(name) => {
                    let key = FindingKey::Name(Arc::as_ptr(name));
                    if let Some(finding) = self.find(key, || name.to_string(), || judge(name), odd.offset) {
                        (finding.level, finding.reason) =
                            (Level::Dangerous, "has its attributes changed for the whole program");
                    }
                }
                None => {
                    let judgement = Judgement::unknown("is not the result of a call");
                    self.unnamed("__setstate__ of a value", judgement, Usage::Calls, odd.offset);
                }
            },
            Oddity::Persistent(target) => {
                let tag = pickle.tuple(target).and_then(|parts| pickle.word(*parts.first()?));
                if !matches!(tag, Some("storage" | "module")) && pickle.int(target).is_none() {
                    let judgement = Judgement::dangerous("makes its reader load something other than a storage");
                    self.unnamed("a persistent id", judgement, Usage::Contains, odd.offset);
                }
            }
        }
    }
}

/// Returns the name of a value that is called. Old files refer to a module class by the persistent id
/// `('module', class, file, source)`.
fn callable(pickle: &Pickle, id: Id) -> Option<&Arc<Name>> {
    match pickle.node(id) {
        Node::Global(name) => Some(name),
        Node::Persistent(target) => {
            let &[tag, class, ..] = pickle.tuple(*target)? else { return None };
            match pickle.node(class) {
                Node::Global(name) if pickle.word(tag) == Some("module") => Some(name),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Judges a call by its arguments. Returns `None` if they do not matter.
fn by_arguments(pickle: &Pickle, name: &Name, args: &[Id]) -> Option<Judgement> {
    match (name.module.as_str(), name.name.as_str(), args) {
        ("_codecs", "encode", &[_, ref rest @ ..]) => {
            let is_plain = match rest {
                [] => true,
                &[codec, ..] => pickle
                    .word(codec)
                    .is_some_and(|codec| matches!(codec, "latin1" | "latin-1" | "utf-8" | "utf8" | "ascii")),
            };
            (!is_plain).then_some(Judgement::dangerous("hides its text behind a codec"))
        }
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2", &[func, ..]) => {
            let level = match pickle.node(func) {
                Node::Global(func) => judge(func).level,
                _ => Level::Dangerous,
            };
            Some(Judgement { level, reason: "calls the function in its arguments" })
        }
        ("copyreg" | "copy_reg", "_reconstructor" | "__newobj__" | "__newobj_ex__", &[class, ..]) => {
            callable(pickle, class).is_none().then_some(Judgement::dangerous("calls the result of another call"))
        }
        ("builtins" | "__builtin__", "bytearray" | "bytes", &[size]) => {
            let is_bomb = match pickle.node(size) {
                // Negative sizes fail in Python. They count as huge here.
                Node::Int(size) => *size as u64 > limits::VIEW_BYTES,
                node => matches!(node, Node::BigInt),
            };
            is_bomb.then_some(Judgement::dangerous("allocates too much memory"))
        }
        _ => None,
    }
}

/// Length at which the arguments of a call are cut, in bytes.
const SHOWN: usize = 100;

/// Formats the arguments of a call as Python source code, cut to the length of a line.
fn show_call(pickle: &Pickle, args: Id) -> String {
    let mut out = String::new();
    if let Some(args) = pickle.tuple(args) {
        list(pickle, args, ('(', ')'), 0, &mut out);
    } else {
        out.push_str("(*");
        show(pickle, args, 0, &mut out);
        out.push(')');
    }
    out
}

fn list(pickle: &Pickle, items: &[Id], brackets: (char, char), depth: usize, out: &mut String) {
    out.push(brackets.0);
    for (index, &item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        if out.len() >= SHOWN || depth > 2 {
            out.push('…');
            break;
        }
        show(pickle, item, depth + 1, out);
    }
    out.push(brackets.1);
}

fn show(pickle: &Pickle, id: Id, depth: usize, out: &mut String) {
    let quoted = |bytes: &[u8]| {
        let left = SHOWN.saturating_sub(out.len()).max(8);
        let cut = bytes.get(..left).unwrap_or(bytes);
        format!("'{}{}'", String::from_utf8_lossy(cut), if cut.len() < bytes.len() { "…" } else { "" })
    };
    match pickle.node(id) {
        Node::None => out.push_str("None"),
        Node::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
        Node::Int(value) => out.push_str(&value.to_string()),
        Node::Float(value) => out.push_str(&value.to_string()),
        Node::Str(text) => out.push_str(&quoted(pickle.text(text))),
        Node::Bytes(text) => {
            let shown = quoted(pickle.text(text));
            out.push('b');
            out.push_str(&shown);
        }
        Node::Global(name) => out.push_str(&name.to_string()),
        Node::Tuple(items) => list(pickle, items, ('(', ')'), depth, out),
        Node::List(items) => list(pickle, items, ('[', ']'), depth, out),
        Node::Object(object) => {
            if let Node::Global(name) = pickle.node(object.callable) {
                out.push_str(&name.to_string());
            }
            out.push_str("(…)");
        }
        _ => out.push('…'),
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
    fn many_names_hide_no_dangerous_one() {
        let names = (0..limits::FINDINGS * 3).flat_map(|index| format!("cx\nC{index}\n0").into_bytes());
        let bytes: Vec<u8> = names.chain(*b"cos\nsystem\n.").collect();
        let findings = found(&bytes);
        assert_eq!(findings.len(), limits::FINDINGS + 1);
        assert_eq!(findings[0].name, "os.system");
    }
}
