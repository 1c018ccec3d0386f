//! PyTorch's names for dtypes and storage classes.

use crate::pickle::Name;
use crate::tensor::Dtype;

/// The elements of a storage, as its class describes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    /// The elements have this dtype.
    Typed(Dtype),
    /// Bytes; each tensor has its own dtype.
    Untyped,
    /// Quantized elements of this many bytes. Their values depend on a scale that is stored elsewhere.
    Quantized(u64),
}

impl Elements {
    /// Bytes per element.
    pub(super) fn size(self) -> u64 {
        match self {
            Elements::Typed(dtype) => dtype.size() as u64,
            Elements::Untyped => 1,
            Elements::Quantized(size) => size,
        }
    }
}

const QUANTIZED: &[(&str, u64)] =
    &[("QInt8Storage", 1), ("QUInt8Storage", 1), ("QInt32Storage", 4), ("QUInt4x2Storage", 1), ("QUInt2x4Storage", 1)];

/// `(storage class, name of the dtype, Dtype)`.
const NAMES: &[(&str, &str, Dtype)] = &[
    ("BoolStorage", "bool", Dtype::Bool),
    ("ByteStorage", "uint8", Dtype::U8),
    ("CharStorage", "int8", Dtype::I8),
    ("ShortStorage", "int16", Dtype::I16),
    ("HalfStorage", "float16", Dtype::F16),
    ("BFloat16Storage", "bfloat16", Dtype::BF16),
    ("IntStorage", "int32", Dtype::I32),
    ("FloatStorage", "float32", Dtype::F32),
    ("LongStorage", "int64", Dtype::I64),
    ("DoubleStorage", "float64", Dtype::F64),
    ("ComplexFloatStorage", "complex64", Dtype::C64),
    ("ComplexDoubleStorage", "complex128", Dtype::C128),
    // Dtypes without a storage class, saved in untyped storages with `_rebuild_tensor_v3`.
    ("", "uint16", Dtype::U16),
    ("", "uint32", Dtype::U32),
    ("", "uint64", Dtype::U64),
    ("", "float8_e4m3fn", Dtype::F8E4M3),
    ("", "float8_e5m2", Dtype::F8E5M2),
    ("", "float8_e4m3fnuz", Dtype::F8E4M3Fnuz),
    ("", "float8_e5m2fnuz", Dtype::F8E5M2Fnuz),
    ("", "float8_e8m0fnu", Dtype::F8E8M0),
];

/// Returns the elements of a storage class such as `torch.FloatStorage` or `torch.cuda.FloatStorage`; `None` for any other
/// class.
pub(super) fn storage_class(class: &Name) -> Option<Elements> {
    match (class.module.as_str(), class.name.as_str()) {
        ("torch.storage", "UntypedStorage" | "_UntypedStorage") | ("torch", "UntypedStorage") => {
            Some(Elements::Untyped)
        }
        ("torch" | "torch.cuda", "") => None,
        ("torch" | "torch.cuda", name) => {
            let quantized = QUANTIZED.iter().find(|(class, _)| *class == name);
            let typed = NAMES.iter().find(|(class, ..)| *class == name);
            typed
                .map(|&(.., dtype)| Elements::Typed(dtype))
                .or_else(|| quantized.map(|&(_, size)| Elements::Quantized(size)))
        }
        _ => None,
    }
}

/// Returns the dtype of a name such as `torch.float16`.
pub(super) fn dtype(name: &Name) -> Option<Dtype> {
    let found = NAMES.iter().find(|(_, dtype, _)| name.is("torch", dtype));
    found.map(|&(.., dtype)| dtype)
}

/// Returns the storage class to write for a dtype. `None` if the restricted unpickler of some WebUI rejects the class.
pub(super) fn writable_class(dtype: Dtype) -> Option<&'static str> {
    use Dtype::{BF16, F16, F32, F64, I32, I64, U8};
    let allowed = matches!(dtype, F32 | F16 | BF16 | F64 | I64 | I32 | U8);
    NAMES.iter().find(|&&(_, _, known)| allowed && known == dtype).map(|&(class, ..)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_exactly_one_name() {
        for &dtype in Dtype::ALL {
            assert_eq!(NAMES.iter().filter(|(.., known)| *known == dtype).count(), 1, "{dtype}");
        }
    }

    #[test]
    fn recognizes_storage_classes_by_module_and_name() {
        let class = |module: &str, name: &str| storage_class(&Name { module: module.into(), name: name.into() });
        assert_eq!(class("torch", "HalfStorage"), Some(Elements::Typed(Dtype::F16)));
        assert_eq!(class("torch.cuda", "LongStorage"), Some(Elements::Typed(Dtype::I64)));
        assert_eq!(class("torch.storage", "UntypedStorage"), Some(Elements::Untyped));
        assert_eq!(class("os", "HalfStorage"), None);
        assert_eq!(class("torch", ""), None);
    }
}
