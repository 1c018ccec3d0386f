//! Shortens long strings in JSON before they are parsed.

use std::cell::Cell;
use std::io::{self, Read};

/// Whether a string was shortened since this was last taken.
pub(super) type Cut = Cell<bool>;

/// Passes JSON on, but leaves out the end of strings that are longer than some number of bytes: a parser would hold them
/// whole, and several copies of them.
pub(super) struct ShortStrings<'a, R> {
    inner: R,
    most: usize,
    cut: &'a Cut,
    is_string: bool,
    /// Bytes of the string so far.
    len: usize,
    /// Bytes that still belong to an escape.
    escape: usize,
    /// Whether the byte before is a character of its own. Only then is it safe to leave out what follows.
    is_plain: bool,
    is_left_out: bool,
}

impl<'a, R> ShortStrings<'a, R> {
    pub(super) fn new(inner: R, most: usize, cut: &'a Cut) -> Self {
        let (is_string, is_plain, is_left_out) = (false, false, false);
        ShortStrings { inner, most, cut, is_string, len: 0, escape: 0, is_plain, is_left_out }
    }

    /// Returns whether the next byte is passed on.
    fn is_passed(&mut self, byte: u8) -> bool {
        if !self.is_string {
            (self.is_string, self.len, self.is_plain, self.is_left_out) = (byte == b'"', 0, false, false);
            return true;
        }
        self.len += 1;
        let is_plain = match (self.escape, byte) {
            // The first byte of an escape tells how many belong to it.
            (1, b'u') => {
                self.escape = 5;
                false
            }
            (0, b'\\') => {
                self.escape = 2;
                false
            }
            (0, b'"') => {
                self.is_string = false;
                return true;
            }
            (0, _) => byte.is_ascii(),
            _ => false,
        };
        self.escape = self.escape.saturating_sub(1);
        // A string without a plain byte for that long is no text. Its parsing fails.
        if !self.is_left_out && (self.len > self.most && self.is_plain && is_plain || self.len > 2 * self.most) {
            self.is_left_out = true;
            self.cut.set(true);
        }
        self.is_plain = is_plain;
        !self.is_left_out
    }
}

impl<R: Read> Read for ShortStrings<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.inner.read(out)?;
            if count == 0 {
                return Ok(0);
            }
            let mut kept = 0;
            for at in 0..count {
                let Some(&byte) = out.get(at) else { break };
                if self.is_passed(byte)
                    && let Some(place) = out.get_mut(kept)
                {
                    *place = byte;
                    kept += 1;
                }
            }
            // No bytes would mean the end.
            if kept > 0 {
                return Ok(kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(json: &str) -> (String, bool) {
        let (mut text, cut) = (String::new(), Cut::default());
        ShortStrings::new(json.as_bytes(), 4, &cut).read_to_string(&mut text).unwrap();
        (text, cut.get())
    }

    #[test]
    fn leaves_out_the_end_of_long_strings() {
        for json in ["{}", r#"{"a": ["bcde", 1234567]}"#, r#""\"\"""#, r#""\u1234""#, r#""\\\\""#] {
            assert_eq!(short(json), (json.to_owned(), false));
        }
        assert_eq!(short(r#"["abcdefgh", "ab"]"#), (r#"["abcd", "ab"]"#.to_owned(), true));
        assert_eq!(short(r#""abcd\"efgh\\" 1"#), (r#""abcd\"e" 1"#.to_owned(), true));
        // Neither an escape nor a character is cut in two.
        assert_eq!(short(r#""ab\ud83d\ude00""#).0, r#""ab\ud83d""#);
        assert_eq!(short(r#""猫猫ab猫""#), (r#""猫猫a""#.to_owned(), true));
    }
}
