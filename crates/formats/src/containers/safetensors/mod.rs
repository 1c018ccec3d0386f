//! The safetensors format: the length of the header in eight bytes, a JSON header, the tensors without gaps.
//!
//! The header types and the final validation come from the `safetensors` crate. The header is parsed here because the
//! crate does not keep the order of the keys, accepts duplicate keys and reports no offsets.

mod header;
mod read;
mod strings;
mod write;

use safetensors::tensor::Dtype as HeaderDtype;

pub use read::data_offset;
pub(super) use read::read;
pub(super) use write::layout;

use crate::tensor::Dtype;

/// Converts a dtype of the `safetensors` crate. `None` for dtypes smaller than a byte, which no Stable Diffusion file uses.
fn from_header(dtype: HeaderDtype) -> Option<Dtype> {
    Some(match dtype {
        HeaderDtype::BOOL => Dtype::Bool,
        HeaderDtype::U8 => Dtype::U8,
        HeaderDtype::I8 => Dtype::I8,
        HeaderDtype::F8_E4M3 => Dtype::F8E4M3,
        HeaderDtype::F8_E5M2 => Dtype::F8E5M2,
        HeaderDtype::F8_E8M0 => Dtype::F8E8M0,
        HeaderDtype::F8_E4M3FNUZ => Dtype::F8E4M3Fnuz,
        HeaderDtype::F8_E5M2FNUZ => Dtype::F8E5M2Fnuz,
        HeaderDtype::I16 => Dtype::I16,
        HeaderDtype::U16 => Dtype::U16,
        HeaderDtype::F16 => Dtype::F16,
        HeaderDtype::BF16 => Dtype::BF16,
        HeaderDtype::I32 => Dtype::I32,
        HeaderDtype::U32 => Dtype::U32,
        HeaderDtype::F32 => Dtype::F32,
        HeaderDtype::C64 => Dtype::C64,
        HeaderDtype::F64 => Dtype::F64,
        HeaderDtype::I64 => Dtype::I64,
        HeaderDtype::U64 => Dtype::U64,
        _ => return None,
    })
}

/// Converts a dtype to that of the `safetensors` crate. `None` if the format has no such dtype.
fn to_header(dtype: Dtype) -> Option<HeaderDtype> {
    Some(match dtype {
        Dtype::Bool => HeaderDtype::BOOL,
        Dtype::U8 => HeaderDtype::U8,
        Dtype::I8 => HeaderDtype::I8,
        Dtype::F8E4M3 => HeaderDtype::F8_E4M3,
        Dtype::F8E5M2 => HeaderDtype::F8_E5M2,
        Dtype::F8E8M0 => HeaderDtype::F8_E8M0,
        Dtype::F8E4M3Fnuz => HeaderDtype::F8_E4M3FNUZ,
        Dtype::F8E5M2Fnuz => HeaderDtype::F8_E5M2FNUZ,
        Dtype::I16 => HeaderDtype::I16,
        Dtype::U16 => HeaderDtype::U16,
        Dtype::F16 => HeaderDtype::F16,
        Dtype::BF16 => HeaderDtype::BF16,
        Dtype::I32 => HeaderDtype::I32,
        Dtype::U32 => HeaderDtype::U32,
        Dtype::F32 => HeaderDtype::F32,
        Dtype::C64 => HeaderDtype::C64,
        Dtype::F64 => HeaderDtype::F64,
        Dtype::I64 => HeaderDtype::I64,
        Dtype::U64 => HeaderDtype::U64,
        Dtype::C128 => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dtype_tables_are_inverse_and_agree_on_sizes() {
        for &dtype in Dtype::ALL {
            let Some(name) = to_header(dtype) else { continue };
            assert_eq!(from_header(name), Some(dtype));
            assert_eq!(name.bitsize(), dtype.size() * 8);
            assert_eq!(name.to_string(), dtype.name());
        }
    }
}
