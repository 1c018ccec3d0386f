use std::borrow::Cow;
use std::sync::Arc;

use crate::pickle::survey::OddUse;

/// A value's number in its pickle's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(super) u32);

impl Id {
    /// Its place in the arena.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A string's or bytes object's content: usually a range of the pickle itself.
#[derive(Debug, Clone)]
pub enum Text {
    /// `start..start + len` of the pickle's bytes.
    Span {
        /// First byte.
        start: u32,
        /// Bytes.
        len: u32,
    },
    /// Bytes that were escaped in the pickle.
    Owned(Box<[u8]>),
}

/// A name that a pickle wants imported.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The module, `torch._utils`.
    pub module: String,
    /// The name within it, `_rebuild_tensor_v2`.
    pub name: String,
}

impl Name {
    /// Whether it is `module.name`.
    pub fn is(&self, module: &str, name: &str) -> bool {
        self.module == module && self.name == name
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}

/// One mention of a global name, recorded where its opcode stands, whatever becomes of the value.
#[derive(Debug, Clone)]
pub struct GlobalUse {
    /// What is named.
    pub name: Arc<Name>,
    /// The opcode's offset in the pickle.
    pub offset: u64,
}

/// A value. References to other values may form any graph, cycles included.
#[derive(Debug, Clone)]
pub enum Node {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// A larger integer, not interpreted.
    BigInt,
    /// A float.
    Float(f64),
    /// Text; UTF-8 that may hold lone surrogates.
    Str(Text),
    /// Bytes, or a bytearray.
    Bytes(Text),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A set or frozenset.
    Set(Vec<Id>),
    /// A dict: all assignments in order, a key perhaps several times.
    Dict(Vec<(Id, Id)>),
    /// A global name; nothing is looked up.
    Global(Arc<Name>),
    /// A reference to something outside the pickle, by this value.
    Persistent(Id),
    /// What a call would have made; nothing is called.
    Object(Box<Object>),
    /// What a survey could not follow; no parsed pickle has it.
    Unknown,
}

/// A call that a pickle asks for, with everything done to its result.
#[derive(Debug, Clone)]
pub struct Object {
    /// What would be called, or instantiated.
    pub callable: Id,
    /// Its positional arguments: a tuple, as a rule.
    pub args: Id,
    /// Its named arguments.
    pub kwargs: Option<Id>,
    /// Arguments of `__setstate__`, in order.
    pub state: Vec<Id>,
    /// Items appended or added.
    pub items: Vec<Id>,
    /// Items assigned by key.
    pub pairs: Vec<(Id, Id)>,
    /// The calling opcode's offset in the pickle.
    pub offset: u64,
}

/// A parsed pickle.
#[derive(Debug, Clone)]
pub struct Pickle {
    pub(super) bytes: Vec<u8>,
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
    pub(super) globals: Vec<GlobalUse>,
    pub(super) oddities: Vec<OddUse>,
}

impl Pickle {
    /// Bytes of the pickle, the final STOP included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value it stands for.
    pub fn root(&self) -> Id {
        self.root
    }

    /// Every value that was built, reachable or not.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The numbers of all values.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.nodes.len() as u32).map(Id)
    }

    /// Every mention of a global name.
    pub fn globals(&self) -> &[GlobalUse] {
        &self.globals
    }

    /// What no reader of plain pickles needs, in the order it stands there; of a parsed pickle, its persistent ids.
    pub fn oddities(&self) -> &[OddUse] {
        &self.oddities
    }

    /// A value by its number.
    pub fn node(&self, id: Id) -> &Node {
        // Ids are made by the machine only, as positions in this arena.
        self.nodes.get(id.0 as usize).unwrap_or(&Node::None)
    }

    /// The bytes of a string or bytes object.
    pub fn text<'a>(&'a self, text: &'a Text) -> &'a [u8] {
        match text {
            Text::Span { start, len } => {
                let start = *start as usize;
                self.bytes.get(start..start + *len as usize).unwrap_or_default()
            }
            Text::Owned(bytes) => bytes,
        }
    }

    /// Where in the pickle the bytes of a string or bytes object begin; 0 for those that were escaped there.
    pub fn offset_of(&self, text: &Text) -> u64 {
        match text {
            Text::Span { start, .. } => u64::from(*start),
            Text::Owned(_) => 0,
        }
    }

    /// The string at `id`; `None` if it is no string or holds lone surrogates.
    pub fn str(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(text) => std::str::from_utf8(self.text(text)).ok(),
            _ => None,
        }
    }

    /// The string at `id` if it is a word, as tags and type codes are. A long text costs nothing here, however often a
    /// pickle refers to it where a word belongs.
    pub fn word(&self, id: Id) -> Option<&str> {
        const LONGEST: usize = 128;
        match self.node(id) {
            Node::Str(text) if self.text(text).len() <= LONGEST => self.str(id),
            _ => None,
        }
    }

    /// The string at `id` for a message, whatever it is.
    pub fn str_lossy(&self, id: Id) -> Option<Cow<'_, str>> {
        match self.node(id) {
            Node::Str(text) => Some(String::from_utf8_lossy(self.text(text))),
            _ => None,
        }
    }

    /// The integer at `id`.
    pub fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The items of the tuple at `id`.
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The global name at `id`.
    pub fn global(&self, id: Id) -> Option<&Name> {
        match self.node(id) {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    /// The call at `id`.
    pub fn object(&self, id: Id) -> Option<&Object> {
        match self.node(id) {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The call at `id` with the name it calls and its positional arguments.
    pub fn call(&self, id: Id) -> Option<(&Name, &[Id], &Object)> {
        let object = self.object(id)?;
        Some((self.global(object.callable)?, self.tuple(object.args)?, object))
    }
}
