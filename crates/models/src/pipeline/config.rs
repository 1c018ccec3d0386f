use serde_json::Value;

use crate::constants::HEAD;

/// A function that returns the dimensions of a tensor by its key in its component.
pub(crate) type Dims<'a> = &'a dyn Fn(&str) -> Option<Vec<u64>>;

/// Formats JSON as diffusers does: indented, with a final newline.
pub(super) fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Adds fields to a configuration, or replaces them.
pub(super) fn add<const N: usize>(config: &mut Value, fields: [(&str, Value); N]) {
    for (name, value) in fields {
        config[name] = value;
    }
}

/// Returns a dimension of a tensor, or the `published` size without such a tensor.
pub(super) fn dim(dims: Dims<'_>, key: &str, axis: usize, published: u64) -> u64 {
    dims(key).and_then(|dims| dims.get(axis).copied()).unwrap_or(published)
}

/// Returns the greatest common divisor of the `published` number of heads or groups and all widths: that
/// number itself for published models, fewer for small test models.
pub(super) fn divisor(widths: &[u64], published: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    widths.iter().copied().fold(published, gcd)
}

/// Returns the number of attention heads of size 64, as in SD v2, SDXL and all text encoders; fewer if these do not
/// divide the width.
pub(super) fn heads(width: u64) -> u64 {
    /// More than any published width has.
    const MOST: u64 = 1024;
    (1..=(width / HEAD).min(MOST)).rev().find(|&heads| width.is_multiple_of(heads)).unwrap_or(1)
}
