use std::borrow::Cow;
use std::sync::Arc;

/// The index of a value in its pickle's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(super) u32);

impl Id {
    /// The index as a number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The content of a string or bytes object. [`Pickle::text`] returns the bytes.
#[derive(Debug, Clone)]
pub struct Text(pub(super) Content);

impl Text {
    /// Returns the bytes. `pickle` are those of the pickle that the text belongs to, at least up to the text's end.
    #[expect(clippy::indexing_slicing, reason = "only the parser creates spans, of bytes that it has read")]
    pub(super) fn bytes<'a>(&'a self, pickle: &'a [u8]) -> &'a [u8] {
        match &self.0 {
            Content::Span { start, len } => &pickle[*start as usize..][..*len as usize],
            Content::Unescaped(bytes) => bytes,
        }
    }
}

/// Where the bytes of a [`Text`] are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// `start..start + len` of the pickle's bytes.
    Span { start: u32, len: u32 },
    /// Bytes that were escaped in the pickle.
    Unescaped(Box<[u8]>),
}

/// A global name, which Python would import.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The module, such as `torch._utils`.
    pub module: String,
    /// The name in the module, such as `_rebuild_tensor_v2`.
    pub name: String,
}

impl Name {
    /// Whether this is `module.name`.
    pub fn is(&self, module: &str, name: &str) -> bool {
        self.module == module && self.name == name
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}

/// One occurrence of a global name, whether or not the value is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GlobalUse {
    /// The name.
    pub name: Arc<Name>,
    /// The offset of the opcode in the pickle.
    pub offset: u64,
}

/// Something that hides what a pickle does, or makes its reader do more than build values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oddity {
    /// STACK_GLOBAL of a name that the pickle computes.
    ComputedName,
    /// An entry of the extension registry, by its code.
    Extension(u32),
    /// An out-of-band buffer, which the reader must supply.
    Buffer,
    /// A memo index that is too large for any real pickle.
    Reserve,
    /// An opcode or a frame that extends past the end of the enclosing frame. Python's C implementation reads one frame
    /// at a time and drops the bytes before that end, so it may import a different name.
    Straddle,
    /// BUILD on this value, which is not the result of a call.
    State(Id),
    /// Items appended, added or assigned to a value that does not take them by this opcode. Python calls a method of the
    /// value.
    Items,
    /// An array of joblib whose elements are not in the file, or not all.
    MissingElements,
    /// A persistent id: the reader interprets this value.
    Persistent(Id),
}

/// An oddity and its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OddUse {
    /// The oddity.
    pub oddity: Oddity,
    /// The offset of the opcode in the pickle.
    pub offset: u64,
}

/// A value. References to other values may form any graph, including cycles.
///
/// Deliberately exhaustive: code that walks a pickle must not overlook a kind of value.
#[derive(Debug, Clone)]
pub enum Node {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer that fits into 64 bits.
    Int(i64),
    /// A larger integer. Its value is not kept.
    BigInt {
        /// The bytes or the digits that the pickle has for it.
        len: usize,
    },
    /// A float.
    Float(f64),
    /// A string: UTF-8 that may contain lone surrogates, or any bytes if Python 2 wrote it.
    Str(Text),
    /// A bytes object or a bytearray.
    Bytes(Text),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A set or frozenset.
    Set(Vec<Id>),
    /// A dict: all assignments in order. A key may occur several times.
    Dict(Vec<(Id, Id)>),
    /// A global name. Nothing is imported.
    Global(Arc<Name>),
    /// A reference to an object outside the pickle, identified by this value.
    Persistent(Id),
    /// The result of a call. Nothing is called.
    Object(Box<Object>),
    /// A value that a lenient parse could not determine. [`parse`](super::parse) never returns it.
    Unknown,
}

/// A call in a pickle, with all changes to its result.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Object {
    /// The function or class to call.
    pub callable: Id,
    /// The positional arguments, normally a tuple.
    pub args: Id,
    /// The keyword arguments.
    pub kwargs: Option<Id>,
    /// Arguments of `__setstate__` calls, in order.
    pub state: Vec<Id>,
    /// Items appended or added.
    pub items: Vec<Id>,
    /// Items assigned by key.
    pub pairs: Vec<(Id, Id)>,
    /// The calling opcode, such as [`REDUCE`](super::op::REDUCE).
    pub opcode: u8,
    /// The offset of the calling opcode in the pickle.
    pub offset: u64,
}

impl Object {
    /// Returns a call without changes to its result.
    pub(crate) fn called(callable: Id, args: Id, kwargs: Option<Id>, opcode: u8, offset: u64) -> Self {
        Object { callable, args, kwargs, state: Vec::new(), items: Vec::new(), pairs: Vec::new(), opcode, offset }
    }
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
    /// The bytes of the pickle, including the final STOP.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value that the pickle represents.
    pub fn root(&self) -> Id {
        self.root
    }

    /// All values, including those that are not reachable from the root.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The ids of all values.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.nodes.len() as u32).map(Id)
    }

    /// All occurrences of global names.
    pub fn globals(&self) -> &[GlobalUse] {
        &self.globals
    }

    /// All oddities, in file order. After [`parse`](super::parse), only persistent ids.
    pub fn oddities(&self) -> &[OddUse] {
        &self.oddities
    }

    /// The value with this id.
    ///
    /// # Panics
    ///
    /// Panics if the id belongs to another pickle and is too large for this one.
    #[expect(clippy::indexing_slicing, reason = "only the parser creates ids, as indices into this arena")]
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.index()]
    }

    /// The bytes of a string or bytes object.
    ///
    /// # Panics
    ///
    /// Panics if the text belongs to another pickle and lies outside this one.
    pub fn text<'a>(&'a self, text: &'a Text) -> &'a [u8] {
        text.bytes(&self.bytes)
    }

    /// The offset in the pickle of the content of a string or bytes object. `None` if the pickle escapes it.
    pub(crate) fn offset_of(&self, text: &Text) -> Option<u64> {
        match text.0 {
            Content::Span { start, .. } => Some(start.into()),
            Content::Unescaped(_) => None,
        }
    }

    /// The string with this id. `None` if the value is not a string or is not valid UTF-8.
    pub fn str(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(text) => std::str::from_utf8(self.text(text)).ok(),
            _ => None,
        }
    }

    /// The string with this id, if it has at most 128 bytes, as tags and type codes do. Longer strings are not validated,
    /// so a pickle that refers to one many times costs little time.
    pub fn word(&self, id: Id) -> Option<&str> {
        const LONGEST: usize = 128;
        match self.node(id) {
            Node::Str(text) if self.text(text).len() <= LONGEST => self.str(id),
            _ => None,
        }
    }

    /// The string with this id, for messages. Invalid UTF-8 is replaced.
    pub(crate) fn str_lossy(&self, id: Id) -> Option<Cow<'_, str>> {
        match self.node(id) {
            Node::Str(text) => Some(String::from_utf8_lossy(self.text(text))),
            _ => None,
        }
    }

    /// The integer with this id.
    pub fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The items of the tuple with this id.
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The global name with this id.
    pub fn global(&self, id: Id) -> Option<&Name> {
        match self.node(id) {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    /// The call with this id.
    pub fn object(&self, id: Id) -> Option<&Object> {
        match self.node(id) {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The call with this id, the global name that it calls, and its positional arguments.
    pub fn call(&self, id: Id) -> Option<(&Name, &[Id], &Object)> {
        let object = self.object(id)?;
        Some((self.global(object.callable)?, self.tuple(object.args)?, object))
    }
}
