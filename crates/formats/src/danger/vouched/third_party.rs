//! Names of packages whose objects occur in checkpoints: NumPy, OmegaConf and PyTorch Lightning.

use super::dtype_code::is_dtype_code;
use super::kind::{Args, Call, Check, Entry, Is, Kind};

const MULTIARRAY: &[&str] = &["numpy.core.multiarray", "numpy._core.multiarray"];
const NUMERIC: &[&str] = &["numpy.core.numeric", "numpy._core.numeric"];
const RANDOM: &[&str] = &["numpy.random._pickle"];
const LIGHTNING: &[&str] = &["pytorch_lightning.callbacks", "lightning.pytorch.callbacks"];

/// An object without arguments whose attributes BUILD sets.
const CONFIGURATION: Call = Call { state: Some(Is::TypedAttributes), ..Call::VALUE };

/// The NumPy dtype as an argument.
const DTYPE: Is = Is::A(Kind::NumpyDtype);

pub(super) const ENTRIES: &[Entry] = &[
    Entry::named(&["numpy"], &["ndarray"], Kind::ArrayClass),
    Entry::named(
        &["numpy"],
        &[
            "bool_",
            "complex128",
            "complex64",
            "float16",
            "float32",
            "float64",
            "int16",
            "int32",
            "int64",
            "int8",
            "str_",
            "uint16",
            "uint32",
            "uint64",
            "uint8",
        ],
        Kind::Class,
    ),
    Entry::named(
        &["numpy.dtypes"],
        &[
            "BoolDType",
            "Complex128DType",
            "Complex64DType",
            "Float16DType",
            "Float32DType",
            "Float64DType",
            "Int16DType",
            "Int32DType",
            "Int64DType",
            "Int8DType",
            "UInt16DType",
            "UInt32DType",
            "UInt64DType",
            "UInt8DType",
        ],
        Kind::Class,
    ),
    Entry::class(
        &["numpy"],
        &["dtype"],
        Call {
            args: &[Args::Exactly(&[Is::Word(is_dtype_code)]), Args::Exactly(&[Is::Word(is_dtype_code), FLAG, FLAG])],
            check: Check::DtypeState,
            gives: Kind::NumpyDtype,
            state: Some(Is::Any),
            ..Call::VALUE
        },
    ),
    // joblib reads the elements of an array from behind the attributes that describe it.
    Entry::class(
        &["joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle"],
        &["NumpyArrayWrapper"],
        Call { check: Check::JoblibArray, state: Some(Is::Dict), ..Call::VALUE },
    ),
    Entry::function(
        MULTIARRAY,
        &["scalar"],
        Call { args: &[Args::Exactly(&[DTYPE, RAW])], check: Check::ScalarDtype, key: true, ..Call::VALUE },
    ),
    Entry::function(
        MULTIARRAY,
        &["_reconstruct"],
        Call {
            args: &[Args::Exactly(&[Is::A(Kind::ArrayClass), Is::Ints, RAW])],
            check: Check::ArrayState,
            gives: Kind::Array,
            state: Some(Is::Any),
            ..Call::VALUE
        },
    ),
    Entry::function(
        NUMERIC,
        &["_frombuffer"],
        Call { args: &[Args::Exactly(&[Is::Bytes, DTYPE, Is::Ints, Is::Str])], gives: Kind::Array, ..Call::VALUE },
    ),
    Entry::named(&["numpy.random._mt19937"], &["MT19937"], Kind::BitGeneratorClass),
    Entry::named(&["numpy.random._pcg64"], &["PCG64", "PCG64DXSM"], Kind::BitGeneratorClass),
    Entry::named(&["numpy.random._philox"], &["Philox"], Kind::BitGeneratorClass),
    Entry::named(&["numpy.random._sfc64"], &["SFC64"], Kind::BitGeneratorClass),
    Entry::function(
        RANDOM,
        &["__bit_generator_ctor"],
        Call {
            args: &[Args::Exactly(&[Is::Either(&[Is::Word(is_bit_generator), Is::A(Kind::BitGeneratorClass)])])],
            gives: Kind::BitGenerator,
            state: Some(Is::Either(&[
                Is::Attributes,
                Is::Tuple(&[Is::Attributes, Is::Either(&[Is::None, Is::A(Kind::SeedSequence)])]),
            ])),
            ..Call::VALUE
        },
    ),
    Entry::function(
        RANDOM,
        &["__generator_ctor", "__randomstate_ctor"],
        Call {
            args: &[Args::Exactly(&[Is::Either(&[Is::Word(is_bit_generator), Is::A(Kind::BitGenerator)])])],
            state: Some(Is::Either(&[Is::None, Is::Attributes])),
            ..Call::VALUE
        },
    ),
    Entry::named(&["numpy.random.bit_generator"], &["SeedSequence"], Kind::SeedSequenceClass),
    // Cython's version of `_reconstructor`. The number identifies the attributes that BUILD sets.
    Entry::function(
        &["numpy.random.bit_generator"],
        &["__pyx_unpickle_SeedSequence"],
        Call {
            args: &[Args::Exactly(&[Is::A(Kind::SeedSequenceClass), Is::Int, Is::None])],
            gives: Kind::SeedSequence,
            state: Some(Is::Tuple(&[Is::Any, Is::Count, Is::A(Kind::Array), Is::Count, Is::Ints])),
            ..Call::VALUE
        },
    ),
    Entry::class(&["omegaconf.dictconfig"], &["DictConfig"], CONFIGURATION),
    Entry::class(&["omegaconf.listconfig"], &["ListConfig"], CONFIGURATION),
    Entry::class(&["omegaconf.base"], &["ContainerMetadata", "Metadata"], CONFIGURATION),
    Entry::class(
        &["omegaconf.nodes"],
        &["AnyNode", "BooleanNode", "BytesNode", "FloatNode", "IntegerNode", "PathNode", "StringNode"],
        CONFIGURATION,
    ),
    Entry::class(
        &[
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "pytorch_lightning.utilities.parsing",
            "lightning.pytorch.utilities.parsing",
        ],
        &["AttributeDict"],
        Call { pairs: true, ..Call::VALUE },
    ),
    // Lightning 1.4 keys the states of callbacks by class.
    Entry::named(
        LIGHTNING,
        &["EarlyStopping", "LearningRateMonitor", "ModelCheckpoint", "StochasticWeightAveraging", "Timer"],
        Kind::Class,
    ),
    Entry::named(
        &["pytorch_lightning.callbacks.model_checkpoint", "lightning.pytorch.callbacks.model_checkpoint"],
        &["ModelCheckpoint"],
        Kind::Class,
    ),
    Entry::named(
        &["pytorch_lightning.callbacks.early_stopping", "lightning.pytorch.callbacks.early_stopping"],
        &["EarlyStopping"],
        Kind::Class,
    ),
    Entry::named(
        &["pytorch_lightning.callbacks.lr_monitor", "lightning.pytorch.callbacks.lr_monitor"],
        &["LearningRateMonitor"],
        Kind::Class,
    ),
    Entry::named(&["pytorch_lightning.callbacks.timer"], &["Timer"], Kind::Class),
];

/// Bytes, which Python 2 writes as a string.
const RAW: Is = Is::Either(&[Is::Bytes, Is::Text]);

/// A flag of a dtype: a bool or an integer.
const FLAG: Is = Is::Either(&[Is::Bool, Is::Int]);

/// Whether this is the name of one of NumPy's bit generators.
fn is_bit_generator(name: &str) -> bool {
    matches!(name, "MT19937" | "PCG64" | "PCG64DXSM" | "Philox" | "SFC64")
}
