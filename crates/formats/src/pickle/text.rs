//! Decodes the text of protocol 0 opcodes.

use std::ffi::CStr;

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::value::Node;

/// Decodes the argument of STRING: a quoted Python 2 `repr` with backslash escapes.
pub(super) fn string_repr(line: &[u8]) -> Result<Box<[u8]>> {
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return Err(Error::malformed("a STRING is not quoted")),
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let escaped = bytes.next().ok_or_else(|| Error::malformed("a STRING ends in a backslash"))?;
        match escaped {
            b'\\' | b'\'' | b'"' => out.push(escaped),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'a' => out.push(0x07),
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'v' => out.push(0x0b),
            b'x' => out.push(hex(&mut bytes, 2)? as u8),
            b'0'..=b'7' => {
                let mut value = u32::from(escaped - b'0');
                for _ in 0..2 {
                    let Some(digit @ b'0'..=b'7') = bytes.clone().next() else { break };
                    value = value * 8 + u32::from(digit - b'0');
                    bytes.next();
                }
                out.push(value as u8);
            }
            other => out.extend([b'\\', other]),
        }
    }
    Ok(out.into())
}

/// Decodes the argument of UNICODE: Latin-1 with `\uXXXX` and `\UXXXXXXXX`. Returns UTF-8 that may contain lone
/// surrogates.
pub(super) fn raw_unicode_escape(line: &[u8]) -> Result<Box<[u8]>> {
    let mut out = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        let digits = match (byte, bytes.clone().next()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            // As in Python, the second of two backslashes does not start an escape.
            (b'\\', Some(other)) => {
                bytes.next();
                push_code_point(&mut out, u32::from(byte));
                push_code_point(&mut out, u32::from(other));
                continue;
            }
            _ => {
                push_code_point(&mut out, u32::from(byte));
                continue;
            }
        };
        bytes.next();
        let code = hex(&mut bytes, digits)?;
        if code > 0x0010_ffff {
            return Err(Error::malformed(format!("the code point {code:#x}, which is not in Unicode")));
        }
        push_code_point(&mut out, code);
    }
    Ok(out.into())
}

/// Decodes the argument of INT: a decimal number, or a boolean as `00` or `01`.
pub(super) fn int(line: &[u8]) -> Result<Node> {
    match line {
        b"00" => Ok(Node::Bool(false)),
        b"01" => Ok(Node::Bool(true)),
        _ => decimal(line),
    }
}

/// Decodes the argument of LONG: a decimal number, with or without the `L` of Python 2.
pub(super) fn long(line: &[u8]) -> Result<Node> {
    decimal(line.strip_suffix(b"L").unwrap_or(line))
}

fn decimal(line: &[u8]) -> Result<Node> {
    let not_decimal = || Error::malformed("an integer that is not decimal digits");
    let text = std::str::from_utf8(line).map_err(|_| not_decimal())?.trim();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(not_decimal());
    }
    if digits.len() > limits::INTEGER_DIGITS {
        return Err(Error::limit(format!(
            "an integer of {} digits, the limit is {}",
            digits.len(),
            limits::INTEGER_DIGITS
        )));
    }
    Ok(text.parse().map_or(Node::BigInt { len: digits.len() }, Node::Int))
}

/// Decodes the argument of FLOAT.
pub(super) fn float(line: &[u8]) -> Result<Node> {
    let value = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
    value.map(Node::Float).ok_or_else(|| Error::malformed("a FLOAT that is not a number"))
}

/// Reads a memo index as leniently as Python. An index above `u64::MAX` becomes `u64::MAX`, which is above any limit.
pub(super) fn index_of_python(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(before_nul(line)).ok()?.trim();
    let digits: String = text.strip_prefix(['+', '-']).unwrap_or(text).chars().filter(|&digit| digit != '_').collect();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let index = digits.parse().ok().or(is_number.then_some(u64::MAX));
    // `-0` is an index, other negative numbers are not.
    index.filter(|&index| is_number && (index == 0 || !text.starts_with('-')))
}

/// Returns the line up to the first NUL. Python's C implementation ignores the rest of a number.
fn before_nul(line: &[u8]) -> &[u8] {
    CStr::from_bytes_until_nul(line).map_or(line, CStr::to_bytes)
}

/// Whether Python may read this as a number: in another base, with underscores or surrounding space, or empty, which
/// means 0. May return true for a line that Python rejects, but never false for one that it accepts.
pub(super) fn is_number_of_python(line: &[u8]) -> bool {
    let text = before_nul(line).trim_ascii();
    let text = text.strip_suffix(b"L").unwrap_or(text);
    let has_digit = text.iter().any(u8::is_ascii_digit);
    (has_digit || text.is_empty())
        && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.'))
}

/// Decodes a little-endian two's complement integer of any length. No bytes mean 0.
pub(super) fn twos_complement(bytes: &[u8]) -> Node {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let (low, high) = bytes.split_at(bytes.len().min(8));
    let mut word = [fill; 8];
    for (word, byte) in word.iter_mut().zip(low) {
        *word = *byte;
    }
    let value = i64::from_le_bytes(word);
    // If the higher bytes do more than repeat the sign, the number does not fit into 64 bits.
    if high.iter().all(|&byte| byte == fill) && (value < 0) == negative {
        Node::Int(value)
    } else {
        Node::BigInt { len: bytes.len() }
    }
}

/// Whether the bytes are UTF-8 that may contain lone surrogates, as Python's `surrogatepass` encodes them.
pub(super) fn is_utf8_with_surrogates(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Err(error) = std::str::from_utf8(rest) {
        match rest.get(error.valid_up_to()..) {
            Some([0xed, 0xa0..=0xbf, 0x80..=0xbf, behind @ ..]) => rest = behind,
            _ => return false,
        }
    }
    true
}

fn hex(bytes: &mut impl Iterator<Item = u8>, digits: usize) -> Result<u32> {
    let mut value = 0_u32;
    for _ in 0..digits {
        let digit = bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let digit = digit.ok_or_else(|| Error::malformed("an escape without its hexadecimal digits"))?;
        value = (value << 4) | digit;
    }
    Ok(value)
}

fn push_code_point(out: &mut Vec<u8>, code: u32) {
    if let Some(character) = char::from_u32(code) {
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        // A lone surrogate, encoded as Python's `surrogatepass` does.
        out.extend([0xe0 | (code >> 12) as u8, 0x80 | (code >> 6 & 0x3f) as u8, 0x80 | (code & 0x3f) as u8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_extends_integers() {
        let int = |bytes: &[u8]| match twos_complement(bytes) {
            Node::Int(value) => Some(value),
            _ => None,
        };
        assert_eq!(int(&[]), Some(0));
        assert_eq!(int(&[0xff]), Some(-1));
        assert_eq!(int(&[0xff, 0]), Some(255));
        assert_eq!(int(&[0, 0, 0, 0, 0, 0, 0, 0x80]), Some(i64::MIN));
        assert_eq!(int(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0]), None);
        assert_eq!(int(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff]), Some(i64::MIN));
        assert_eq!(int(&[0xff; 20]), Some(-1));
    }

    #[test]
    fn accepts_numbers_of_python_source_code() {
        for number in ["0x1f", "-0b1", "0o17", "1_000", "0xffL", " 7 ", "1_0.5e1_0", "", "\0x", "7\0x"] {
            assert!(is_number_of_python(number.as_bytes()), "{number}");
        }
        for (line, index) in
            [("7", 7), (" 1_0", 10), ("+5", 5), ("-0", 0), ("3\0x", 3), ("99999999999999999999", u64::MAX)]
        {
            assert_eq!(index_of_python(line.as_bytes()), Some(index), "{line}");
        }
        for line in ["", "-1", "x", "1x"] {
            assert_eq!(index_of_python(line.as_bytes()), None, "{line}");
        }
        for other in ["x", "import os", "a=1"] {
            assert!(!is_number_of_python(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn unescapes_python_2_strings() {
        assert_eq!(&*string_repr(br"'a\'b\n\x41\101\q'").unwrap(), b"a'b\nAA\\q");
        assert!(string_repr(b"'open").is_err());
        assert!(string_repr(b"'").is_err());
    }

    #[test]
    fn accepts_lone_surrogates_in_utf8() {
        assert!(is_utf8_with_surrogates("aé漢".as_bytes()));
        assert!(is_utf8_with_surrogates(b"a\xed\xa0\x80b\xed\xb0\x80"));
        assert!(!is_utf8_with_surrogates(b"a\xff"));
        assert!(!is_utf8_with_surrogates(b"\xc0\x80"));
        assert!(!is_utf8_with_surrogates(b"\xed\xa0"));
    }

    #[test]
    fn unescapes_unicode_strings() {
        assert_eq!(&*raw_unicode_escape(b"\xe9\\u00e9").unwrap(), "éé".as_bytes());
        assert_eq!(&*raw_unicode_escape(b"\\ud800").unwrap(), b"\xed\xa0\x80");
        assert_eq!(&*raw_unicode_escape(b"\\\\u0041\\n\\").unwrap(), b"\\\\u0041\\n\\");
        assert!(raw_unicode_escape(b"\\U00110000").is_err());
    }
}
