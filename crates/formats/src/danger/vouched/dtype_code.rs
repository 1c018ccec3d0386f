//! Codes of NumPy dtypes, such as `f8` and `<U5`.

/// Largest item of a dtype, in bytes.
const LARGEST_ITEM: u64 = 1 << 20;

/// Splits the code of a dtype, such as `f8` or `<U5`, into its letter and number. Returns `None` for any other text.
pub(in super::super) fn split_dtype_code(code: &str) -> Option<(char, u64)> {
    let code = code.strip_prefix(['<', '>', '=', '|']).unwrap_or(code);
    let letter = code.chars().next()?;
    let digits = code.strip_prefix(letter)?;
    let is_number = digits.len() <= 7 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !"biufcSUVmMO".contains(letter) || !is_number {
        return None;
    }
    let number = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    // Without one of these sizes, `c` is a string of one character.
    (letter != 'c' || matches!(number, 8 | 16 | 32)).then_some((letter, number))
}

/// Whether this is the code of a dtype without fields.
pub(super) fn is_dtype_code(code: &str) -> bool {
    split_dtype_code(code).is_some_and(|(letter, number)| number * if letter == 'U' { 4 } else { 1 } <= LARGEST_ITEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_codes_of_plain_dtypes() {
        assert!(["f8", "<i4", "U5", "O8", "b1", "M8", "|S10", "c16"].into_iter().all(is_dtype_code));
        assert!(!["", "V99999999", "i4,i4", "object", "U999999", "2f8", "c", "c1"].into_iter().any(is_dtype_code));
    }
}
