//! Names of torch: what `torch.load(weights_only=True)` accepts, used as `torch.save` uses it.

use super::kind::{Args, Call, Check, Entry, Is, Kind};

const UTILS: &[&str] = &["torch._utils"];
const TENSOR: Is = Is::A(Kind::Tensor);
const STORAGE: Is = Is::A(Kind::Storage);
const DTYPE: Is = Is::A(Kind::Dtype);
const LAYOUT: Is = Is::A(Kind::Layout);
const DEVICE: Is = Is::Either(&[Is::A(Kind::Device), Is::Str]);
const METADATA: Is = Is::Either(&[Is::None, Is::Attributes]);

/// A call that returns a tensor.
const REBUILDS: Call = Call { gives: Kind::Tensor, ..Call::VALUE };

/// State of `__setstate__`: attributes, or a tuple of attributes of `__dict__` and of slots.
const STATE: Is = Is::Either(&[Is::None, Is::Attributes, Is::Tuple(&[METADATA, METADATA])]);

const STORAGES: &[&str] = &[
    "BFloat16Storage",
    "BoolStorage",
    "ByteStorage",
    "CharStorage",
    "ComplexDoubleStorage",
    "ComplexFloatStorage",
    "DoubleStorage",
    "FloatStorage",
    "HalfStorage",
    "IntStorage",
    "LongStorage",
    "QInt32Storage",
    "QInt8Storage",
    "QUInt2x4Storage",
    "QUInt4x2Storage",
    "QUInt8Storage",
    "ShortStorage",
    "TypedStorage",
    "UntypedStorage",
];

const TENSORS: &[&str] = &[
    "BFloat16Tensor",
    "BoolTensor",
    "ByteTensor",
    "CharTensor",
    "DoubleTensor",
    "FloatTensor",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "ShortTensor",
];

const DTYPES: &[&str] = &[
    "bcomplex32",
    "bfloat16",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
    "bits8",
    "bool",
    "complex128",
    "complex32",
    "complex64",
    "float16",
    "float32",
    "float4_e2m1fn_x2",
    "float64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "int1",
    "int16",
    "int2",
    "int3",
    "int32",
    "int4",
    "int5",
    "int6",
    "int64",
    "int7",
    "int8",
    "qint32",
    "qint8",
    "quint2x4",
    "quint4x2",
    "quint8",
    "uint1",
    "uint16",
    "uint2",
    "uint3",
    "uint32",
    "uint4",
    "uint5",
    "uint6",
    "uint64",
    "uint7",
    "uint8",
];

pub(super) const ENTRIES: &[Entry] = &[
    Entry::named(&["torch"], DTYPES, Kind::Dtype),
    Entry::named(
        &["torch"],
        &[
            "channels_last",
            "channels_last_3d",
            "contiguous_format",
            "preserve_format",
            "sparse_bsc",
            "sparse_bsr",
            "sparse_coo",
            "sparse_csc",
            "sparse_csr",
            "strided",
        ],
        Kind::Layout,
    ),
    Entry::named(
        &["torch"],
        &[
            "per_channel_affine",
            "per_channel_affine_float_qparams",
            "per_channel_symmetric",
            "per_tensor_affine",
            "per_tensor_symmetric",
        ],
        Kind::QuantizationScheme,
    ),
    Entry::named(&["torch", "torch.cuda"], STORAGES, Kind::StorageClass),
    Entry::named(
        &["torch.storage"],
        &["TypedStorage", "UntypedStorage", "_TypedStorage", "_UntypedStorage"],
        Kind::StorageClass,
    ),
    Entry::named(&["torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse"], TENSORS, Kind::TensorClass),
    Entry::named(&["torch"], &["Tensor"], Kind::TensorClass),
    Entry {
        modules: &["torch.nn.parameter"],
        names: &["Buffer", "Parameter"],
        is: Kind::TensorClass,
        call: Some(Call { args: &[Args::Exactly(&[TENSOR]), Args::Exactly(&[TENSOR, Is::Bool])], ..REBUILDS }),
    },
    // The container of a textual inversion. BUILD sets the attributes of a module, and nothing calls its methods.
    Entry::class(
        &["torch.nn.modules.container"],
        &["ParameterDict", "ParameterList"],
        Call { gives: Kind::Module, state: Some(Is::Attributes), ..Call::VALUE },
    ),
    Entry::class(
        &["torch"],
        &["Size"],
        Call { args: &[Args::Exactly(&[Is::Ints])], gives: Kind::Size, key: true, ..Call::VALUE },
    ),
    Entry::class(
        &["torch"],
        &["device"],
        Call {
            args: &[Args::Exactly(&[Is::Str]), Args::Exactly(&[Is::Str, Is::Count])],
            gives: Kind::Device,
            key: true,
            ..Call::VALUE
        },
    ),
    Entry::class(
        &["torch._C"],
        &["Generator"],
        Call {
            args: &[Args::Exactly(&[Is::A(Kind::Device)])],
            state: Some(Is::Tuple(&[Is::Any, Is::Any, TENSOR])),
            ..Call::VALUE
        },
    ),
    Entry::function(
        &["torch.serialization"],
        &["_get_layout"],
        Call { args: &[Args::Exactly(&[Is::Str])], gives: Kind::Layout, ..Call::VALUE },
    ),
    // Level and reason come from the list of dangerous names, until a scan of the bytes finds nothing dangerous.
    Entry::function(
        &["torch.storage"],
        &["_load_from_bytes"],
        Call { args: &[Args::Exactly(&[Is::Bytes])], gives: Kind::Storage, ..Call::VALUE },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_tensor"],
        Call {
            args: &[Args::Exactly(&[STORAGE, Is::Count, Is::Ints, Is::Ints])],
            check: Check::FitsStorage,
            ..REBUILDS
        },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_tensor_v2"],
        Call {
            args: &[
                Args::Exactly(&[STORAGE, Is::Count, Is::Ints, Is::Ints, Is::Bool, Is::NoHooks]),
                Args::Exactly(&[STORAGE, Is::Count, Is::Ints, Is::Ints, Is::Bool, Is::NoHooks, METADATA]),
            ],
            check: Check::FitsStorage,
            ..REBUILDS
        },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_tensor_v3"],
        Call {
            args: &[
                Args::Exactly(&[STORAGE, Is::Count, Is::Ints, Is::Ints, Is::Bool, Is::NoHooks, DTYPE]),
                Args::Exactly(&[STORAGE, Is::Count, Is::Ints, Is::Ints, Is::Bool, Is::NoHooks, DTYPE, METADATA]),
            ],
            check: Check::FitsStorage,
            ..REBUILDS
        },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_qtensor"],
        Call {
            args: &[Args::Exactly(&[STORAGE, Is::Count, Is::Ints, Is::Ints, QUANTIZER, Is::Bool, Is::NoHooks])],
            check: Check::FitsStorageWhole,
            ..REBUILDS
        },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_parameter"],
        Call { args: &[Args::Exactly(&[TENSOR, Is::Bool, Is::NoHooks])], ..REBUILDS },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_parameter_with_state"],
        Call { args: &[Args::Exactly(&[TENSOR, Is::Bool, Is::NoHooks, STATE])], ..REBUILDS },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor"],
        Call {
            args: &[Args::Exactly(&[
                LAYOUT,
                Is::Either(&[
                    Is::Tuple(&[TENSOR, TENSOR, Is::Ints]),
                    Is::Tuple(&[TENSOR, TENSOR, Is::Ints, Is::Bool]),
                    Is::Tuple(&[TENSOR, TENSOR, TENSOR, Is::Ints]),
                ]),
            ])],
            ..REBUILDS
        },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_meta_tensor_no_storage"],
        Call { args: &[Args::Exactly(&[DTYPE, Is::Ints, Is::Ints, Is::Bool])], ..REBUILDS },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_device_tensor_from_numpy"],
        Call { args: &[Args::Exactly(&[Is::A(Kind::Array), DTYPE, DEVICE, Is::Bool])], ..REBUILDS },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_device_tensor_from_cpu_tensor"],
        Call { args: &[Args::Exactly(&[TENSOR, DTYPE, DEVICE, Is::Bool])], check: Check::TakesWhole, ..REBUILDS },
    ),
    Entry::function(
        UTILS,
        &["_rebuild_wrapper_subclass"],
        Call {
            args: &[Args::Exactly(&[
                Is::A(Kind::TensorClass),
                DTYPE,
                Is::Ints,
                Is::Ints,
                Is::Count,
                LAYOUT,
                DEVICE,
                Is::Bool,
            ])],
            ..REBUILDS
        },
    ),
    // Calls its first argument with the third, sets the class of the result and then its attributes.
    Entry::function(
        &["torch._tensor", "torch.tensor"],
        &["_rebuild_from_type", "_rebuild_from_type_v2"],
        Call {
            args: &[Args::Exactly(&[Is::A(Kind::Function), Is::A(Kind::TensorClass), Is::List, STATE])],
            check: Check::RebuildsType,
            ..REBUILDS
        },
    ),
];

/// A scheme with the scale and zero point of the tensor, or with those of each channel and the axis.
const QUANTIZER: Is = Is::Either(&[
    Is::Tuple(&[Is::A(Kind::QuantizationScheme), Is::Number, Is::Int]),
    Is::Tuple(&[Is::A(Kind::QuantizationScheme), TENSOR, TENSOR, Is::Int]),
]);
