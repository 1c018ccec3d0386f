//! LLM.int8 of bitsandbytes: each row of a weight times its largest magnitude, divided by 127.

use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::tensor::{Blocks, Codes, Dtype, LazyTensor, Overflow, Shape};

/// The factor of `int8_vectorwise_dequant`, which multiplies by a rounded 1/127.
const RECIPROCAL: f32 = 7.874_015_718_698_502e-3_f64 as f32;

/// Returns the values of a weight in F32. `layout` is the tensor `weight_format`, if there is one.
pub(super) fn values(weight: &LazyTensor, row_max: &LazyTensor, layout: Option<&LazyTensor>) -> Result<LazyTensor> {
    let &[rows, columns] = weight.shape().dims() else {
        return Err(Error::unsupported(format!("an 8-bit weight of shape {}, expected a matrix", weight.shape())));
    };
    if weight.dtype() != Dtype::I8 || row_max.dtype() != Dtype::F32 || row_max.shape().elements() != rows {
        let (dtype, found, shape) = (weight.dtype(), row_max.dtype(), row_max.shape());
        let found = format!("{dtype} with row magnitudes {found} {shape}, expected I8 with F32 [{rows}]");
        return Err(Error::unsupported(found));
    }
    if let Some(layout) = layout
        && (layout.bytes() > 8 || layout.to_bytes()?.iter().any(|&byte| byte != 0))
    {
        return Err(Error::unsupported("the weight_format of the 8-bit weight is not row-major"));
    }
    let table: Vec<f32> = (0..=u8::MAX).map(|byte| f32::from(byte as i8)).collect();
    let signed = weight.clone().decoded(Codes::Bytes, table, weight.shape().clone())?;
    let scaled = signed.scaled(row_max.clone(), Blocks::Runs(columns.max(1)), Overflow::Refuse)?;
    let reciprocal = LazyTensor::owned(Dtype::F32, Shape::new([1])?, RECIPROCAL.to_le_bytes())?;
    scaled.scaled(reciprocal, Blocks::Runs(weight.shape().elements().max(1)), Overflow::Refuse)
}
