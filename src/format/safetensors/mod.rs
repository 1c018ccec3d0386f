//! safetensors: eight bytes of length, a JSON header, the tensors without gaps.
//!
//! The header types and the final validation are the `safetensors` crate's. The header itself is parsed here,
//! because the crate forgets the order of the keys, keeps the last of two equal names and says little of the place.

mod read;
mod write;

use safetensors::tensor::Dtype as Name;

pub use read::{data_offset, read};
pub(super) use write::frame;

use crate::tensor::Dtype;

/// Our dtype for the crate's; `None` for those smaller than a byte, which no Stable Diffusion file uses.
fn dtype_of(name: Name) -> Option<Dtype> {
    Some(match name {
        Name::BOOL => Dtype::Bool,
        Name::U8 => Dtype::U8,
        Name::I8 => Dtype::I8,
        Name::F8_E4M3 => Dtype::F8E4M3,
        Name::F8_E5M2 => Dtype::F8E5M2,
        Name::F8_E8M0 => Dtype::F8E8M0,
        Name::F8_E4M3FNUZ => Dtype::F8E4M3Fnuz,
        Name::F8_E5M2FNUZ => Dtype::F8E5M2Fnuz,
        Name::I16 => Dtype::I16,
        Name::U16 => Dtype::U16,
        Name::F16 => Dtype::F16,
        Name::BF16 => Dtype::BF16,
        Name::I32 => Dtype::I32,
        Name::U32 => Dtype::U32,
        Name::F32 => Dtype::F32,
        Name::C64 => Dtype::C64,
        Name::F64 => Dtype::F64,
        Name::I64 => Dtype::I64,
        Name::U64 => Dtype::U64,
        _ => return None,
    })
}

/// The crate's dtype for ours; `None` for what the format cannot say.
fn name_of(dtype: Dtype) -> Option<Name> {
    Some(match dtype {
        Dtype::Bool => Name::BOOL,
        Dtype::U8 => Name::U8,
        Dtype::I8 => Name::I8,
        Dtype::F8E4M3 => Name::F8_E4M3,
        Dtype::F8E5M2 => Name::F8_E5M2,
        Dtype::F8E8M0 => Name::F8_E8M0,
        Dtype::F8E4M3Fnuz => Name::F8_E4M3FNUZ,
        Dtype::F8E5M2Fnuz => Name::F8_E5M2FNUZ,
        Dtype::I16 => Name::I16,
        Dtype::U16 => Name::U16,
        Dtype::F16 => Name::F16,
        Dtype::BF16 => Name::BF16,
        Dtype::I32 => Name::I32,
        Dtype::U32 => Name::U32,
        Dtype::F32 => Name::F32,
        Dtype::C64 => Name::C64,
        Dtype::F64 => Name::F64,
        Dtype::I64 => Name::I64,
        Dtype::U64 => Name::U64,
        Dtype::C128 => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_dtype_tables_are_inverse_and_agree_on_sizes() {
        for &dtype in Dtype::ALL {
            let Some(name) = name_of(dtype) else { continue };
            assert_eq!(dtype_of(name), Some(dtype));
            assert_eq!(name.bitsize(), dtype.size() * 8);
            assert_eq!(name.to_string(), dtype.name());
        }
    }
}
