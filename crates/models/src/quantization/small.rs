//! Reads the small companions that a plan needs: descriptions and tables.

use serde_json::{Map, Value};

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::limits;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};

/// Reads a JSON object that is stored as the bytes of a U8 tensor.
pub(super) fn json(tensor: &LazyTensor) -> Result<Map<String, Value>> {
    if tensor.dtype() != Dtype::U8 {
        return Err(Error::malformed(format!("{}, expected JSON in U8", tensor.dtype())));
    }
    refuse_large(tensor)?;
    match serde_json::from_slice(&tensor.to_bytes()?) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Error::malformed("the JSON is not an object")),
        Err(error) => Err(Error::malformed(format!("not JSON: {error}"))),
    }
}

/// Reads the elements of a floating-point tensor.
pub(super) fn numbers(tensor: &LazyTensor) -> Result<Vec<f32>> {
    refuse_large(tensor)?;
    let bytes = tensor.clone().cast(Dtype::F32, Overflow::Saturate)?.to_bytes()?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn refuse_large(tensor: &LazyTensor) -> Result<()> {
    if tensor.bytes() > limits::QUANTIZATION_BYTES {
        let (found, most) = (tensor.bytes(), limits::QUANTIZATION_BYTES);
        return Err(Error::limit(format!("{found} bytes that describe a quantized weight, the limit is {most}")));
    }
    Ok(())
}
