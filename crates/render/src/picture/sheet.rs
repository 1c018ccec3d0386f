//! The contact sheet: two pictures and their difference side by side, with captions.

use font8x8::{BASIC_FONTS, BOX_FONTS, GREEK_FONTS, HIRAGANA_FONTS, LATIN_FONTS, UnicodeFonts};

use super::Picture;

/// Amplification of the difference. Makes a difference of 1 in 255 visible.
const AMPLIFIED: u8 = 8;

/// The space between and around the pictures, in pixels.
const GAP: usize = 8;

/// The width and the height of a letter in pixels.
const LETTER: usize = 8;

/// The line height in pixels.
const LINE: usize = LETTER + 4;

/// Maximum number of lines of a caption. Further lines are dropped.
const LINES: usize = 6;

/// The glyph for characters that the fonts lack.
const QUESTION_MARK: [u8; 8] = [0x1e, 0x33, 0x30, 0x18, 0x0c, 0x00, 0x0c, 0x00];

const PAPER: [u8; 3] = [24, 24, 24];
const INK: [u8; 3] = [230, 230, 230];

/// Draws `a`, `b` and their amplified difference from left to right, each with a caption below. Captions wrap at the width
/// of their picture; characters that the font lacks become question marks.
///
/// Both pictures must have the same size.
pub fn contact_sheet(a: &Picture, b: &Picture, captions: [&str; 3]) -> Picture {
    let differences = a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b).saturating_mul(AMPLIFIED));
    let difference = Picture { width: a.width, height: a.height, rgb: differences.collect() };
    // Leave enough space for captions under small pictures.
    let column = a.width.max(192);
    let captions = captions.map(|caption| lines(caption, column / LETTER));
    let most = captions.iter().map(Vec::len).fold(0, usize::max);
    let (width, height) = (3 * column + 4 * GAP, a.height + most * LINE + 2 * GAP + GAP / 2);
    let mut sheet = Picture { width, height, rgb: PAPER.repeat(width * height) };
    for (index, (picture, caption)) in [a, b, &difference].into_iter().zip(captions).enumerate() {
        let left = GAP + index * (column + GAP);
        sheet.paste(picture, left, GAP);
        for (line, text) in caption.iter().enumerate() {
            sheet.write(text, left, GAP + a.height + GAP / 2 + line * LINE);
        }
    }
    sheet
}

/// Wraps a text into lines of at most `width` characters, between words if possible.
fn lines(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let mut word: Vec<char> = word.chars().collect();
            let taken = line.chars().count();
            if taken > 0 && taken + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
            } else if taken > 0 {
                line.push(' ');
            }
            while word.len() > width {
                let rest = word.split_off(width);
                lines.push(word.into_iter().collect());
                word = rest;
            }
            line.extend(word);
        }
        lines.push(line);
    }
    lines.truncate(LINES);
    lines
}

impl Picture {
    /// Copies a picture to this position. Drops parts that are outside of the sheet.
    fn paste(&mut self, other: &Picture, left: usize, top: usize) {
        let (row, width) = (3 * self.width, 3 * other.width);
        for (line, pixels) in other.rgb.chunks_exact(width.max(1)).enumerate() {
            let begin = (top + line) * row + 3 * left;
            if let Some(target) = self.rgb.get_mut(begin..begin + width) {
                target.copy_from_slice(pixels);
            }
        }
    }

    /// Draws a line of text at this position. Drops parts that are outside of the sheet.
    fn write(&mut self, text: &str, left: usize, top: usize) {
        for (index, letter) in text.chars().enumerate() {
            for (row, bits) in glyph(letter).into_iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                    let begin = 3 * ((top + row) * self.width + left + index * LETTER + column);
                    if let Some(pixel) = self.rgb.get_mut(begin..begin + 3) {
                        pixel.copy_from_slice(&INK);
                    }
                }
            }
        }
    }
}

/// Returns the eight rows of a letter. The lowest bit is leftmost.
fn glyph(letter: char) -> [u8; 8] {
    let found = BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter)).or_else(|| GREEK_FONTS.get(letter));
    let found = found.or_else(|| HIRAGANA_FONTS.get(letter)).or_else(|| BOX_FONTS.get(letter));
    found.unwrap_or(QUESTION_MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: u8) -> Picture {
        Picture { width: 64, height: 32, rgb: vec![value; 64 * 32 * 3] }
    }

    fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
        let begin = 3 * (y * picture.width + x);
        picture.rgb[begin..begin + 3].try_into().unwrap()
    }

    #[test]
    fn draws_pictures_and_their_difference_side_by_side() {
        let sheet = contact_sheet(&plain(100), &plain(103), ["A", "B", "difference"]);
        assert_eq!(sheet.rgb.len(), 3 * sheet.width * sheet.height);
        let found = [0, 1, 2].map(|index| pixel(&sheet, GAP + index * 200, GAP));
        assert_eq!(found, [[100; 3], [103; 3], [24; 3]]);
        assert_eq!(pixel(&contact_sheet(&plain(0), &plain(200), ["", "", ""]), GAP + 400, GAP), [255; 3]);
        assert_eq!(pixel(&sheet, 0, 0), PAPER);
    }

    #[test]
    fn draws_letters_from_left_to_right() {
        // The letter L.
        let rows =
            glyph('L').map(|bits| (0..8).map(|column| if bits >> column & 1 == 1 { '#' } else { '.' }).collect());
        let rows: [String; 8] = rows;
        assert_eq!(rows[0], "####....");
        assert_eq!(rows[6], "#######.");
        assert_eq!(glyph('猫'), glyph('?'));
    }

    #[test]
    fn wraps_captions_between_words_if_possible() {
        assert_eq!(lines("a cat and a dog", 9), ["a cat and", "a dog"]);
        assert_eq!(lines("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(lines("one\ntwo", 9), ["one", "two"]);
        assert_eq!(lines(&"x ".repeat(100), 1).len(), LINES);
    }
}
