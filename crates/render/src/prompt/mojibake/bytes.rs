//! Decodes damaged UTF-8: spaces instead of byte 0xa0, lost bytes, surrogates.

/// Replaces a space with byte 0xa0 if that completes a UTF-8 character.
pub(super) fn restore_spaces(bytes: &[u8]) -> Vec<u8> {
    // After an `à` at the end of a word, the space stands for both its second byte and a space, so keep a space too.
    // After an `à` that starts a Portuguese word, the space stands for the second byte only.
    let bytes = replaced(bytes, |rest| match rest {
        [0xc3, b' ', behind @ ..] => {
            let words: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
            (!words.iter().any(|word| behind.starts_with(word))).then(|| (2, vec![0xc3, 0xa0, b' ']))
        }
        _ => None,
    });
    replaced(&bytes, |rest| {
        let length = match rest {
            // Only lead bytes that start a likely character.
            [0xc2 | 0xc3 | 0xc5 | 0xce | 0xd0 | 0xd9, b' ', ..] => 2,
            [0xe2 | 0xe3, b' ', third, ..] if is_sure(*third) => 3,
            [0xe0..=0xe3, second, b' ', ..] if is_sure(*second) => 3,
            [0xf0, b' ', 0x80..=0xbf, 0x80..=0xbf, ..]
            | [0xf0, 0x80..=0xbf, b' ', 0x80..=0xbf, ..]
            | [0xf0, 0x80..=0xbf, 0x80..=0xbf, b' ', ..] => 4,
            _ => return None,
        };
        let found = rest.iter().take(length);
        Some((length, found.map(|&it| if it == b' ' { 0xa0 } else { it }).collect()))
    })
}

/// Whether a byte is a continuation byte, but not one that is an ellipsis or a space in Windows-1252: those are often
/// followed by a real space.
fn is_sure(byte: u8) -> bool {
    is_continuation(byte) && byte != 0x85 && byte != 0xa0
}

fn is_continuation(byte: u8) -> bool {
    (0x80..=0xbf).contains(&byte)
}

/// Replaces each UTF-8 character that has lost a byte with U+FFFD. Byte 0x1a or a question mark stands for a lost byte.
pub(super) fn mark_lost(bytes: &[u8]) -> Vec<u8> {
    replaced(bytes, |rest| {
        let length = match rest {
            [0xc2..=0xdf, 0x1a, ..] | [0xc2 | 0xc3, b'?', ..] => 2,
            [0xed, 0xa0..=0xaf, third, 0xed, 0xb0..=0xbf, last, ..]
                if [third, last].iter().all(|it| is_lost(**it) || is_continuation(**it))
                    && (is_lost(*third) || is_lost(*last)) =>
            {
                6
            }
            [0xe0..=0xef, behind @ ..] if has_lost(behind, 2) => 3,
            [0xf0..=0xf4, behind @ ..] if has_lost(behind, 3) => 4,
            [0x1a, ..] => 1,
            _ => return None,
        };
        Some((length, "\u{fffd}".as_bytes().to_vec()))
    })
}

fn is_lost(byte: u8) -> bool {
    matches!(byte, 0x1a | b'?')
}

/// Whether the first `continuations` bytes are continuation bytes, at least one of them lost and at most one replaced
/// by a question mark.
fn has_lost(bytes: &[u8], continuations: usize) -> bool {
    let Some(bytes) = bytes.get(..continuations) else { return false };
    bytes.iter().all(|it| is_lost(*it) || is_continuation(*it))
        && bytes.iter().any(|it| is_lost(*it))
        && bytes.iter().filter(|it| **it == b'?').count() <= 1
}

/// Replaces sequences of bytes. `by` takes the rest of the bytes, and returns the length to replace and the replacement.
fn replaced(bytes: &[u8], by: impl Fn(&[u8]) -> Option<(usize, Vec<u8>)>) -> Vec<u8> {
    let mut done = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        if let Some((length, replacement)) = by(rest) {
            done.extend(replacement);
            // A length beyond the end consumes the rest.
            (_, rest) = rest.split_at(length.min(rest.len()));
        } else {
            done.push(*first);
            rest = behind;
        }
    }
    done
}

/// Decodes UTF-8 including Java's variants: a zero as two bytes, and a character as two surrogates of three bytes each.
pub(super) fn decode(bytes: &[u8]) -> Option<String> {
    let bytes = replaced(bytes, |rest| match *rest {
        [0xc0, 0x80, ..] => Some((2, vec![0])),
        [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d @ 0x80..=0xbf, ..] => {
            let bits = |byte: u8, mask: u8| u32::from(byte & mask);
            let code = 0x1_0000 + (bits(a, 0xf) << 16) + (bits(b, 0x3f) << 10) + (bits(c, 0xf) << 6) + bits(d, 0x3f);
            Some((6, char::from_u32(code)?.to_string().into_bytes()))
        }
        _ => None,
    });
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restores_spaces() {
        let restored = |text: &[u8]| String::from_utf8(restore_spaces(text)).unwrap();
        assert_eq!(restored(b"voil\xc3 le"), "voilà le");
        assert_eq!(restored(b"\xc3 quele, \xc3 s , a\xc3  b"), "àquele, às , aà b");
        assert_eq!(restored(b"\xf0\x9f\x92 "), "\u{1f4a0}");
        assert_eq!(restore_spaces(b"\xe2\x85 "), b"\xe2\x85 ");
    }

    #[test]
    fn marks_lost_bytes() {
        let marked = |text: &[u8]| String::from_utf8(mark_lost(text)).unwrap();
        assert_eq!(marked(b"a\xe2\x80\x1ab\xc3?c\xf0\x1a\x1a?d\x1a"), "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}");
        assert_eq!(marked(b"\xed\xa0?\xed\xb0?."), "\u{fffd}.");
        assert_eq!(mark_lost(b"\xe2??"), b"\xe2??");
    }

    #[test]
    fn decodes_variants_of_utf8() {
        assert_eq!(decode(b"\xed\xa0\xbd\xed\xb8\x80 \xc0\x80\xc3\xa9").as_deref(), Some("😀 \0é"));
        assert_eq!(decode(b"\xed\xa0\xbd"), None);
        assert_eq!(decode(b"\xc0\x81"), None);
    }
}
