//! Reads NumPy scalars, which learning-rate schedulers leave in checkpoints, as plain numbers.

use super::python::bytes;
use crate::metadata::PyValue;
use crate::pickle::{Id, Pickle};

/// Returns the result of `numpy.core.multiarray.scalar(dtype, bytes)`. `None` if the value is not such a call, or not a
/// boolean, an integer that fits 64 bits with a sign, or a float.
pub(super) fn scalar(pickle: &Pickle, id: Id) -> Option<PyValue> {
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

/// Returns the type code of `numpy.dtype('f8', …)`, and whether its state is big-endian.
fn dtype_code(pickle: &Pickle, id: Id) -> Option<(String, bool)> {
    let (name, args, object) = pickle.call(id)?;
    if !name.is("numpy", "dtype") {
        return None;
    }
    let code = pickle.word(*args.first()?)?.to_owned();
    // Without a state, the dtype is native and hence little-endian.
    let state = object.state.last().and_then(|&state| pickle.tuple(state));
    let order = state.and_then(|state| state.get(1)).and_then(|&order| pickle.word(order));
    Some((code, order == Some(">")))
}

/// Decodes a little-endian value of a type code.
fn decode(code: &str, value: &[u8]) -> Option<PyValue> {
    Some(match code {
        "b1" => PyValue::Bool(*value.first()? != 0),
        "i1" => PyValue::Int(i8::from_le_bytes(value.try_into().ok()?).into()),
        "u1" => PyValue::Int(u8::from_le_bytes(value.try_into().ok()?).into()),
        "i2" => PyValue::Int(i16::from_le_bytes(value.try_into().ok()?).into()),
        "u2" => PyValue::Int(u16::from_le_bytes(value.try_into().ok()?).into()),
        "i4" => PyValue::Int(i32::from_le_bytes(value.try_into().ok()?).into()),
        "u4" => PyValue::Int(u32::from_le_bytes(value.try_into().ok()?).into()),
        "i8" => PyValue::Int(i64::from_le_bytes(value.try_into().ok()?)),
        "u8" => PyValue::Int(u64::from_le_bytes(value.try_into().ok()?).try_into().ok()?),
        "f2" => PyValue::Float(half::f16::from_le_bytes(value.try_into().ok()?).to_f64()),
        "f4" => PyValue::Float(f32::from_le_bytes(value.try_into().ok()?).into()),
        "f8" => PyValue::Float(f64::from_le_bytes(value.try_into().ok()?)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_every_width() {
        assert_eq!(decode("f8", &0.1375_f64.to_le_bytes()), Some(PyValue::Float(0.1375)));
        assert_eq!(decode("f4", &1.5_f32.to_le_bytes()), Some(PyValue::Float(1.5)));
        assert_eq!(decode("i8", &(-3_i64).to_le_bytes()), Some(PyValue::Int(-3)));
        assert_eq!(decode("u8", &u64::MAX.to_le_bytes()), None);
        assert_eq!(decode("b1", &[1]), Some(PyValue::Bool(true)));
        assert_eq!(decode("f8", &[0; 4]), None);
        assert_eq!(decode("M8", &[0; 8]), None);
    }
}
