//! The vocabulary of the tables: kinds of values, and patterns for arguments and states.

/// What a name refers to, or what a call of it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    /// `torch.float32`.
    Dtype,
    /// `torch.strided`, `torch.contiguous_format`.
    Layout,
    /// `torch.per_tensor_affine`.
    QuantizationScheme,
    /// A class of storages, the second part of a persistent id.
    StorageClass,
    /// A class of tensors or parameters.
    TensorClass,
    /// A class of plain Python values, such as `dict`. May be a default factory.
    PlainClass,
    /// `typing.Any`.
    AnyType,
    /// `numpy.ndarray`.
    ArrayClass,
    /// Any other class, which is callable.
    Class,
    /// A function.
    Function,
    /// A torch storage.
    Storage,
    /// A tensor or parameter.
    Tensor,
    /// An `OrderedDict`.
    OrderedDict,
    /// Bytes.
    Bytes,
    /// A `torch.Size`.
    Size,
    /// A `torch.device`.
    Device,
    /// A `numpy.dtype`.
    NumpyDtype,
    /// A NumPy array.
    Array,
    /// A class of NumPy's bit generators.
    BitGeneratorClass,
    /// A NumPy bit generator.
    BitGenerator,
    /// `numpy.random.SeedSequence`.
    SeedSequenceClass,
    /// What NumPy's bit generators are seeded from.
    SeedSequence,
    /// A module of a network. It can be called, and runs its hooks then.
    Module,
    /// Any other value that is not callable.
    Value,
}

impl Kind {
    /// Whether something that holds a value of this kind might call it.
    pub(in super::super) fn is_callable(self) -> bool {
        match self {
            Kind::StorageClass | Kind::TensorClass | Kind::ArrayClass | Kind::BitGeneratorClass => true,
            Kind::SeedSequenceClass => true,
            Kind::PlainClass | Kind::AnyType | Kind::Class | Kind::Function | Kind::Module => true,
            Kind::Dtype | Kind::Layout | Kind::QuantizationScheme | Kind::Storage | Kind::Tensor => false,
            Kind::OrderedDict | Kind::Bytes | Kind::Size | Kind::Device | Kind::NumpyDtype => false,
            Kind::Array | Kind::BitGenerator | Kind::SeedSequence | Kind::Value => false,
        }
    }
}

/// A pattern for a value.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Is {
    /// Any value. Whatever it is, its own names and calls are judged too.
    Any,
    /// `None`.
    None,
    /// `True` or `False`.
    Bool,
    /// An integer that fits into 64 bits.
    Int,
    /// An integer of any size.
    AnyInt,
    /// An integer from 0 to 2^40.
    Count,
    /// An integer or a float.
    Number,
    /// A string of at most 4096 bytes.
    Str,
    /// A string of any length.
    Text,
    /// A string that a function accepts. Strings over 128 bytes never match.
    Word(fn(&str) -> bool),
    /// Bytes, or a call that returns bytes.
    Bytes,
    /// A value of this kind.
    A(Kind),
    /// At most 64 integers: a tuple or a `torch.Size`.
    Ints,
    /// `None`, or an empty dict.
    NoHooks,
    /// A tuple of exactly these values.
    Tuple(&'static [Is]),
    /// A list, tuple or set of values that may be keys.
    Keys,
    /// A list of pairs, each a key and any value.
    Pairs,
    /// A list or tuple.
    List,
    /// A dict.
    Dict,
    /// A dict of attributes by name, none of which can be called.
    Attributes,
    /// As `Attributes`, but plain classes are allowed as values.
    TypedAttributes,
    /// One of these.
    Either(&'static [Is]),
}

/// A pattern for the arguments of a call.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Args {
    /// Exactly these.
    Exactly(&'static [Is]),
    /// Any number of values.
    Each(Is),
}

/// A condition on a call that patterns cannot express. See [`super::super::checks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Check {
    /// No condition.
    Nothing,
    /// A date or time has a state of few bytes.
    FewBytes,
    /// BUILD sets the number of a UUID, which is its hash.
    NumberState,
    /// `_reconstructor` makes an object as a call without arguments does.
    Reconstructs,
    /// A tensor lies within its storage.
    FitsStorage,
    /// A tensor lies within its storage and has no more elements.
    FitsStorageWhole,
    /// `_rebuild_from_type_v2` calls a function that is vouched for.
    RebuildsType,
    /// BUILD sets the state that belongs to the code of a NumPy dtype.
    DtypeState,
    /// The first argument is a tensor with no more elements than its storage.
    TakesWhole,
    /// A NumPy scalar is not an object.
    ScalarDtype,
    /// A NumPy array is made empty, and its content fits its shape.
    ArrayState,
    /// An array of joblib has numbers as elements, which follow in the file.
    JoblibArray,
}

/// How a name may be called, and what may be done with the result.
#[derive(Clone, Copy)]
pub(in super::super) struct Call {
    /// The arguments: one of these patterns.
    pub args: &'static [Args],
    /// A condition that relates arguments to each other and to the state.
    pub check: Check,
    /// What the call returns.
    pub gives: Kind,
    /// What BUILD may set, once.
    pub state: Option<Is>,
    /// Whether items may be appended or added.
    pub items: bool,
    /// Whether items may be assigned by key.
    pub pairs: bool,
    /// Whether the result may be a key of a dict or a member of a set.
    pub key: bool,
}

impl Call {
    /// A call without arguments that returns a value and allows nothing else.
    pub(in super::super) const VALUE: Call = Call {
        args: &[Args::Exactly(&[])],
        check: Check::Nothing,
        gives: Kind::Value,
        state: None,
        items: false,
        pairs: false,
        key: false,
    };
}

/// Names that may be used in the same way.
#[derive(Clone, Copy)]
pub(in super::super) struct Entry {
    /// The modules, each of which has all names.
    pub modules: &'static [&'static str],
    /// The names.
    pub names: &'static [&'static str],
    /// What each name is.
    pub is: Kind,
    /// How it may be called. `None` if it may only be named.
    pub call: Option<Call>,
}

impl Entry {
    /// Names that may only be named.
    pub(in super::super) const fn named(
        modules: &'static [&'static str],
        names: &'static [&'static str],
        is: Kind,
    ) -> Entry {
        Entry { modules, names, is, call: None }
    }

    /// Functions.
    pub(in super::super) const fn function(
        modules: &'static [&'static str],
        names: &'static [&'static str],
        call: Call,
    ) -> Entry {
        Entry { modules, names, is: Kind::Function, call: Some(call) }
    }

    /// Classes.
    pub(in super::super) const fn class(
        modules: &'static [&'static str],
        names: &'static [&'static str],
        call: Call,
    ) -> Entry {
        Entry { modules, names, is: Kind::Class, call: Some(call) }
    }
}
