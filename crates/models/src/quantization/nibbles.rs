//! NF4 and FP4 of bitsandbytes: 4-bit codes, times the largest magnitude of their block. The magnitudes may be quantized
//! themselves. The product is an f32, rounded once to the dtype of the weight, as in its CUDA kernels.

use serde_json::{Map, Value};

use super::codebooks;
use super::small;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::{Blocks, Codes, Dtype, LazyTensor, Overflow, Shape};

/// The companions of a 4-bit weight.
pub(super) struct Parts<'a> {
    /// The packed codes.
    pub weight: &'a LazyTensor,
    /// The largest magnitude of each block, or its code.
    pub abs_max: &'a LazyTensor,
    /// The values of the 16 codes, if the file has them.
    pub quant_map: Option<&'a LazyTensor>,
    /// The largest magnitude of each block of magnitudes, and the values of their 256 codes.
    pub nested: Option<(&'a LazyTensor, &'a LazyTensor)>,
    /// The parameters, as JSON.
    pub state: &'a LazyTensor,
    /// Whether the parameters are those of NF4. Otherwise they are those of FP4.
    pub is_nf4: bool,
}

/// Returns the values of a weight in the dtype that bitsandbytes dequantizes it to.
///
/// Fails if the companions contradict each other, or if the file has another table of codes than bitsandbytes.
pub(super) fn values(parts: &Parts<'_>, overflow: Overflow) -> Result<LazyTensor> {
    let state = small::json(parts.state)?;
    let (name, table) = if parts.is_nf4 { ("nf4", &codebooks::NF4) } else { ("fp4", &codebooks::FP4) };
    if text(&state, "quant_type")? != name {
        return Err(Error::malformed(format!("the quant_type is not {name}")));
    }
    if let Some(found) = parts.quant_map
        && !codebooks::is_same(&small::numbers(found)?, table)
    {
        return Err(Error::unsupported(format!("the quant_map is not the table of {name}")));
    }
    let dtype = match text(&state, "dtype")? {
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        other => return Err(Error::unsupported(format!("the weight was {other}, expected a float dtype"))),
    };
    let shape = shape(&state)?;
    let block = integer(&state, "blocksize")?;
    if parts.weight.dtype() != Dtype::U8 {
        let found = parts.weight.dtype();
        return Err(Error::unsupported(format!("4-bit codes packed in {found}, expected U8")));
    }
    let count = shape.elements();
    let abs_max = magnitudes(parts, &state, overflow)?;
    let values = parts.weight.clone().decoded(Codes::Nibbles, *table, shape)?;
    if count == 0 {
        return values.cast(dtype, overflow);
    }
    values.scaled(abs_max, Blocks::Runs(block), overflow)?.cast(dtype, overflow)
}

/// Returns the largest magnitude of each block.
fn magnitudes(parts: &Parts<'_>, state: &Map<String, Value>, overflow: Overflow) -> Result<LazyTensor> {
    let Some((nested, map)) = parts.nested else {
        if state.contains_key("nested_blocksize") || parts.abs_max.dtype() != Dtype::F32 {
            let found = parts.abs_max.dtype();
            return Err(Error::missing(format!(
                "the magnitudes are {found}; nested_absmax or nested_quant_map is missing"
            )));
        }
        return Ok(parts.abs_max.clone());
    };
    let codes = parts.abs_max.shape().clone();
    if parts.abs_max.dtype() != Dtype::U8 || nested.dtype() != Dtype::F32 {
        let (outer, inner) = (parts.abs_max.dtype(), nested.dtype());
        let found = format!("magnitudes {outer} with nested magnitudes {inner}, expected U8 with F32");
        return Err(Error::unsupported(found));
    }
    let offset = state.get("nested_offset").and_then(Value::as_f64);
    let offset = offset.ok_or_else(|| Error::malformed("the state has no nested_offset"))? as f32;
    let block = integer(state, "nested_blocksize")?;
    let decoded = parts.abs_max.clone().decoded(Codes::Bytes, small::numbers(map)?, codes)?;
    if decoded.shape().elements() == 0 {
        return Ok(decoded);
    }
    decoded.scaled(nested.clone(), Blocks::Runs(block), overflow)?.shifted(offset)
}

fn text<'a>(state: &'a Map<String, Value>, field: &str) -> Result<&'a str> {
    let found = state.get(field).and_then(Value::as_str);
    found.ok_or_else(|| Error::malformed(format!("the state has no {field}")))
}

fn integer(state: &Map<String, Value>, field: &str) -> Result<u64> {
    let found = state.get(field).and_then(Value::as_u64).filter(|&found| found > 0);
    found.ok_or_else(|| Error::malformed(format!("the state has no {field}")))
}

fn shape(state: &Map<String, Value>) -> Result<Shape> {
    let dims = state.get("shape").and_then(Value::as_array);
    let dims = dims.and_then(|dims| dims.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
    Shape::new(dims.ok_or_else(|| Error::malformed("the state has no shape"))?)
}
