//! A pickle examined: every name and every call in it, judged where it stands.

use std::collections::HashMap;
use std::sync::Arc;

use super::unfold::{Bomb, bomb};
use super::{Judgement, Level, judge};
use crate::limits;
use crate::pickle::{Id, Name, Node, Object, OddUse, Oddity, Pickle};

/// What a pickle does with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// Has it imported.
    Names,
    /// Has it called, or sets its attributes.
    Calls,
    /// Has it in itself.
    Holds,
}

impl Act {
    /// The verb.
    pub fn name(self) -> &'static str {
        match self {
            Act::Names => "names",
            Act::Calls => "calls",
            Act::Holds => "holds",
        }
    }
}

/// One name of a pickle, or one way around names, with what it could do to whoever loads it with Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Module and name, or what it is that has none.
    pub name: String,
    /// How bad it is.
    pub level: Level,
    /// Why; continues "which …".
    pub reason: &'static str,
    /// What becomes of it.
    pub act: Act,
    /// The arguments of its first call, as far as they fit a line.
    pub arguments: Option<String>,
    /// The offset of its first mention in the pickle.
    pub offset: u64,
    /// How often it is mentioned.
    pub count: usize,
}

impl Finding {
    /// `calls posix.system('id'), which runs commands`.
    pub fn to_text(&self) -> String {
        let arguments = self.arguments.as_deref().unwrap_or_default();
        format!("{} {}{arguments}, which {}", self.act.name(), self.name, self.reason)
    }
}

/// Judges every name and call of a pickle, and what goes around names. The worst come first, then by offset.
pub fn examine(pickle: &Pickle) -> Vec<Finding> {
    let mut examiner = Examiner { pickle, findings: Vec::new(), places: HashMap::new(), listed: [0; 3] };
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
    if let Some(bomb) = bomb(pickle) {
        let what = match bomb {
            Bomb::Wide => "a value that unfolds into more than 2^36",
            Bomb::Deep => "values nested deeper than 20,000",
        };
        examiner.unnamed(what, Judgement::dangerous("ends programs that walk over it"), Act::Holds, 0);
    }
    let mut findings = examiner.findings;
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.offset));
    findings
}

/// What tells one finding from another: the name, which is in the arena once, or what stands in for one.
#[derive(PartialEq, Eq, Hash)]
enum Place {
    Name(*const Name),
    Other(&'static str),
}

struct Examiner<'a> {
    pickle: &'a Pickle,
    findings: Vec<Finding>,
    /// Where each is; `None` for those that are over the limit.
    places: HashMap<Place, Option<usize>>,
    /// How many there are of each level.
    listed: [usize; 3],
}

impl Examiner<'_> {
    fn find(
        &mut self,
        place: Place,
        name: impl FnOnce() -> String,
        judgement: impl FnOnce() -> Judgement,
        at: u64,
    ) -> Option<&mut Finding> {
        if let Some(place) = self.places.get(&place) {
            return self.findings.get_mut((*place)?);
        }
        let Judgement { level, reason } = judgement();
        let index = self.findings.len();
        let listed = self.listed.get_mut(level as usize)?;
        *listed += 1;
        // The limit counts for each level, so that a thousand harmless names hide nothing.
        let is_listed = *listed <= limits::FINDINGS;
        self.places.insert(place, is_listed.then_some(index));
        if !is_listed {
            return None;
        }
        let name = name();
        self.findings.push(Finding { name, level, reason, act: Act::Names, arguments: None, offset: at, count: 0 });
        self.findings.get_mut(index)
    }

    fn named(&mut self, name: &Arc<Name>, offset: u64) {
        let place = Place::Name(Arc::as_ptr(name));
        if let Some(finding) = self.find(place, || name.to_string(), || judge(name), offset) {
            finding.count += 1;
        }
    }

    /// Something that stands in for a name.
    fn unnamed(&mut self, what: &'static str, judgement: Judgement, act: Act, offset: u64) {
        if let Some(finding) = self.find(Place::Other(what), || what.to_owned(), || judgement, offset) {
            finding.count += 1;
            finding.act = finding.act.max(act);
        }
    }

    fn called(&mut self, object: &Object) {
        let pickle = self.pickle;
        let Some(name) = callable(pickle, object.callable) else {
            let judgement = Judgement::dangerous("no list can know");
            return self.unnamed("what another call made", judgement, Act::Calls, object.offset);
        };
        let args = pickle.tuple(object.args).unwrap_or_default();
        let by_arguments = by_arguments(pickle, name, args);
        let place = Place::Name(Arc::as_ptr(name));
        let Some(finding) = self.find(place, || name.to_string(), || judge(name), object.offset) else { return };
        let is_first = finding.act == Act::Names;
        finding.act = Act::Calls;
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
                let judgement = Judgement::dangerous("no list can know");
                self.unnamed("a name that it computes", judgement, Act::Names, odd.offset);
            }
            Oddity::Extension(_) => {
                let judgement = Judgement::dangerous("stands for a name that is not in the file");
                self.unnamed("an entry of the extension registry", judgement, Act::Names, odd.offset);
            }
            Oddity::Buffer => {
                let judgement = Judgement::suspicious("is not in the file");
                self.unnamed("an out-of-band buffer", judgement, Act::Names, odd.offset);
            }
            Oddity::Reserve => {
                let judgement = Judgement::dangerous("makes Python reserve gigabytes for the entries before it");
                self.unnamed("a memo entry of a number that no file reaches", judgement, Act::Holds, odd.offset);
            }
            Oddity::Straddle => {
                let judgement = Judgement::dangerous("makes Python read other names than stand there");
                self.unnamed("an opcode that its frame cuts in two", judgement, Act::Holds, odd.offset);
            }
            Oddity::State(target) => match callable(pickle, target) {
                Some(name) => {
                    let place = Place::Name(Arc::as_ptr(name));
                    if let Some(finding) = self.find(place, || name.to_string(), || judge(name), odd.offset) {
                        (finding.level, finding.reason) =
                            (Level::Dangerous, "has its attributes changed for the whole program");
                    }
                }
                None => {
                    let judgement = Judgement::suspicious("no call made");
                    self.unnamed("__setstate__ of a value that", judgement, Act::Calls, odd.offset);
                }
            },
            Oddity::Persistent(target) => {
                let tag = pickle.tuple(target).and_then(|parts| pickle.word(*parts.first()?));
                if !matches!(tag, Some("storage" | "module")) && pickle.int(target).is_none() {
                    let judgement = Judgement::dangerous("makes its reader fetch something that is no storage");
                    self.unnamed("a persistent id", judgement, Act::Names, odd.offset);
                }
            }
        }
    }
}

/// The name behind a value that is called. Old files refer to a module's class by `('module', class, file, source)`.
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

/// What the arguments of a call say beyond its name.
fn by_arguments(pickle: &Pickle, name: &Name, args: &[Id]) -> Option<Judgement> {
    match (name.module.as_str(), name.name.as_str(), args) {
        ("_codecs", "encode", &[_, ref rest @ ..]) => {
            let is_plain = match rest {
                [] => true,
                &[codec, ..] => pickle
                    .word(codec)
                    .is_some_and(|codec| matches!(codec, "latin1" | "latin-1" | "utf-8" | "utf8" | "ascii")),
            };
            (!is_plain).then_some(Judgement::dangerous("hides what it says behind a codec"))
        }
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2", &[func, ..]) => {
            let level = match pickle.node(func) {
                Node::Global(func) => judge(func).level,
                _ => Level::Dangerous,
            };
            Some(Judgement { level, reason: "calls the function that it is given" })
        }
        ("copyreg" | "copy_reg", "_reconstructor" | "__newobj__" | "__newobj_ex__", &[class, ..]) => {
            callable(pickle, class).is_none().then_some(Judgement::dangerous("calls what another call made"))
        }
        ("builtins" | "__builtin__", "bytearray" | "bytes", &[size]) => {
            let is_bomb = match pickle.node(size) {
                Node::Int(size) => *size as u64 > limits::VIEW_BYTES,
                node => matches!(node, Node::BigInt),
            };
            is_bomb.then_some(Judgement::dangerous("takes more memory than there is"))
        }
        _ => None,
    }
}

/// Characters of a call's arguments that are shown.
const SHOWN: usize = 100;

/// The arguments of a call as Python would write them, cut where they fill a line.
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
    use crate::pickle::survey;

    fn found(bytes: &[u8]) -> Vec<Finding> {
        examine(&survey(bytes).pickle)
    }

    fn worst(bytes: &[u8]) -> (Level, String) {
        found(bytes).first().map_or((Level::Harmless, String::new()), |finding| (finding.level, finding.to_text()))
    }

    #[test]
    fn a_call_is_shown_with_its_arguments() {
        let findings = found(b"\x80\x02N0ctorch\nFloatStorage\n0cposix\nsystem\nX\x02\x00\x00\x00id\x85R.");
        assert_eq!(findings[0].to_text(), "calls posix.system('id'), which runs commands");
        assert_eq!((findings[0].offset, findings[0].count), (25, 1));
        assert_eq!((findings[1].level, findings[1].act), (Level::Harmless, Act::Names));
    }

    #[test]
    fn every_way_of_calling_is_seen() {
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
    fn ways_around_names_are_dangerous() {
        for (bytes, word) in [
            (&b"cx\ny\n)R)R."[..], "what another call made"),
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
    fn a_flood_of_names_hides_nothing() {
        let names = (0..limits::FINDINGS * 3).flat_map(|index| format!("cx\nC{index}\n0").into_bytes());
        let bytes: Vec<u8> = names.chain(*b"cos\nsystem\n.").collect();
        let findings = found(&bytes);
        assert_eq!(findings.len(), limits::FINDINGS + 1);
        assert_eq!(findings[0].name, "os.system");
    }
}
