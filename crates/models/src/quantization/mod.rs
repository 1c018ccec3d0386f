//! Quantized weights: scaled fp8 of ComfyUI, and the 4-bit and 8-bit formats of bitsandbytes.
//!
//! A quantizer stores companions beside a weight: scales, tables, a description. Copies keep weight and companions as they
//! are. A cast, and a folder, needs the values themselves: `dequantize` computes them on reading, and drops the companions.
//! What it cannot compute exactly as the quantizer does is an error that names the companion.

mod by_value;
mod codebooks;
mod config;
mod dequantize;
mod int8;
mod keys;
mod layers;
mod nibbles;
mod record;
mod scaled;
mod small;
mod survey;

pub use by_value::{ByValue, values};
pub(crate) use config::without_config;
pub use dequantize::Wanted;
pub(crate) use dequantize::dequantize;
pub use keys::{is_companion, is_marker};
pub(crate) use keys::{marks, weight_of};
pub(crate) use record::Record;
pub use survey::{Method, Survey};
