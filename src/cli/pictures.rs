//! Small copies of pictures, for pages.

use std::fmt::Write;
use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageReader, Limits};

/// The width and height of the largest picture that is read, and the memory for it in bytes.
const MOST_PIXELS: u32 = 8192;
const MOST_BYTES: u64 = 96 << 20;

/// The size of the largest file that is read.
const MOST_FILE: u64 = 64 << 20;

const QUALITY: u8 = 80;

/// Returns a picture, made smaller to at most `side` pixels in width and height, as a `data:` address. `None` if it is no
/// picture, or too large a one.
pub(super) fn data_address(path: &Path, side: u32) -> Option<String> {
    if path.metadata().ok()?.len() > MOST_FILE {
        return None;
    }
    let mut reader = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_PIXELS);
    limits.max_image_height = Some(MOST_PIXELS);
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let small = reader.decode().ok()?.thumbnail(side, side).to_rgb8();
    let mut jpeg = Cursor::new(Vec::new());
    small.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, QUALITY)).ok()?;
    Some(format!("data:image/jpeg;base64,{}", base64(jpeg.get_ref())))
}

/// The alphabet of base64.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0_u32, |number, &byte| number << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let index = (number >> (18 - 6 * place) & 63) as usize;
            let letter = LETTERS.get(index).filter(|_| place <= group.len());
            let _ = write!(out, "{}", letter.map_or('=', |&letter| char::from(letter)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_rfc_4648_does() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
