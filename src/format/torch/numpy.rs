//! NumPy scalars, which learning-rate schedulers leave in checkpoints, as plain numbers.

use super::plain::bytes;
use crate::metadata::Plain;
use crate::pickle::{Id, Pickle};

/// The number that `numpy.core.multiarray.scalar(dtype, bytes)` would make; `None` if the value is no such call or
/// of another type than booleans, integers of up to 64 bits and floats.
pub(super) fn scalar(pickle: &Pickle, id: Id) -> Option<Plain> {
    let (name, args, _) = pickle.call(id)?;
    let module = name.module.as_str();
    if name.name != "scalar" || !matches!(module, "numpy.core.multiarray" | "numpy._core.multiarray") {
        return None;
    }
    let &[dtype, value] = args else { return None };
    let (code, big_endian) = dtype_code(pickle, dtype)?;
    let mut value = bytes(pickle, value)?;
    if big_endian {
        value.reverse();
    }
    decode(&code, &value)
}

/// `numpy.dtype('f8', …)` with the byte order that its state carries.
fn dtype_code(pickle: &Pickle, id: Id) -> Option<(String, bool)> {
    let (name, args, object) = pickle.call(id)?;
    if !name.is("numpy", "dtype") {
        return None;
    }
    let code = pickle.word(*args.first()?)?.to_owned();
    let state = object.state.last().and_then(|&state| pickle.tuple(state)).unwrap_or_default();
    let order = state.get(1).and_then(|&order| pickle.word(order));
    Some((code, order == Some(">")))
}

fn decode(code: &str, value: &[u8]) -> Option<Plain> {
    Some(match code {
        "b1" => Plain::Bool(*value.first()? != 0),
        "i1" => Plain::Int(i8::from_le_bytes(value.try_into().ok()?).into()),
        "u1" => Plain::Int(u8::from_le_bytes(value.try_into().ok()?).into()),
        "i2" => Plain::Int(i16::from_le_bytes(value.try_into().ok()?).into()),
        "u2" => Plain::Int(u16::from_le_bytes(value.try_into().ok()?).into()),
        "i4" => Plain::Int(i32::from_le_bytes(value.try_into().ok()?).into()),
        "u4" => Plain::Int(u32::from_le_bytes(value.try_into().ok()?).into()),
        "i8" => Plain::Int(i64::from_le_bytes(value.try_into().ok()?)),
        "u8" => Plain::Int(u64::from_le_bytes(value.try_into().ok()?).try_into().ok()?),
        "f2" => Plain::Float(half::f16::from_le_bytes(value.try_into().ok()?).to_f64()),
        "f4" => Plain::Float(f32::from_le_bytes(value.try_into().ok()?).into()),
        "f8" => Plain::Float(f64::from_le_bytes(value.try_into().ok()?)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_every_width() {
        assert_eq!(decode("f8", &0.1375_f64.to_le_bytes()), Some(Plain::Float(0.1375)));
        assert_eq!(decode("f4", &1.5_f32.to_le_bytes()), Some(Plain::Float(1.5)));
        assert_eq!(decode("i8", &(-3_i64).to_le_bytes()), Some(Plain::Int(-3)));
        assert_eq!(decode("u8", &u64::MAX.to_le_bytes()), None);
        assert_eq!(decode("b1", &[1]), Some(Plain::Bool(true)));
        assert_eq!(decode("f8", &[0; 4]), None);
        assert_eq!(decode("M8", &[0; 8]), None);
    }
}
