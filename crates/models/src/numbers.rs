use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::tensor::{Dtype, Overflow, cast};

/// Replaces `found` with little-endian elements as numbers; NaN for complex ones.
pub(crate) fn numbers(dtype: Dtype, bytes: &[u8], found: &mut Vec<f64>) -> Result<()> {
    fn each<const N: usize>(bytes: &[u8], found: &mut Vec<f64>, number: impl Fn([u8; N]) -> f64) {
        found.extend(bytes.as_chunks::<N>().0.iter().map(|&element| number(element)));
    }
    found.clear();
    match dtype {
        Dtype::F64 => each(bytes, found, f64::from_le_bytes),
        Dtype::F32 => each(bytes, found, |it| f32::from_le_bytes(it).into()),
        Dtype::F16 => each(bytes, found, |it| half::f16::from_le_bytes(it).into()),
        Dtype::BF16 => each(bytes, found, |it| half::bf16::from_le_bytes(it).into()),
        Dtype::Bool | Dtype::U8 => each(bytes, found, |it| u8::from_le_bytes(it).into()),
        Dtype::I8 => each(bytes, found, |it| i8::from_le_bytes(it).into()),
        Dtype::U16 => each(bytes, found, |it| u16::from_le_bytes(it).into()),
        Dtype::I16 => each(bytes, found, |it| i16::from_le_bytes(it).into()),
        Dtype::U32 => each(bytes, found, |it| u32::from_le_bytes(it).into()),
        Dtype::I32 => each(bytes, found, |it| i32::from_le_bytes(it).into()),
        Dtype::U64 => each(bytes, found, |it| u64::from_le_bytes(it) as f64),
        Dtype::I64 => each(bytes, found, |it| i64::from_le_bytes(it) as f64),
        small if small.is_float() => {
            let mut wide = vec![0; bytes.len() / small.size() * Dtype::F32.size()];
            cast::cast(small, bytes, Dtype::F32, &mut wide, Overflow::Saturate, 0)?;
            each(&wide, found, |it| f32::from_le_bytes(it).into());
        }
        complex => found.resize(bytes.len() / complex.size(), f64::NAN),
    }
    Ok(())
}
