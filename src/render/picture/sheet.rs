//! The contact sheet: two pictures and their difference side by side, each with a caption.

use font8x8::{BASIC_FONTS, BOX_FONTS, GREEK_FONTS, HIRAGANA_FONTS, LATIN_FONTS, UnicodeFonts};

use super::Picture;

/// How much the difference is amplified: one of 1 of 255 can be seen then.
const AMPLIFIED: u8 = 8;

/// Pixels between and around the pictures.
const GAP: usize = 8;

/// A letter is so many pixels wide and high.
const LETTER: usize = 8;

/// Lines are so far apart.
const LINE: usize = LETTER + 4;

/// Lines of a caption at most; what does not fit is left out.
const LINES: usize = 6;

const PAPER: [u8; 3] = [24, 24, 24];
const INK: [u8; 3] = [230, 230, 230];

/// `a`, `b` and the amplified difference of the two, from left to right, each with a caption under it. A caption is
/// broken at the width of its picture; letters that the font lacks become question marks.
///
/// Both pictures are of one size.
pub fn contact_sheet(a: &Picture, b: &Picture, captions: [&str; 3]) -> Picture {
    let differences = a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b).saturating_mul(AMPLIFIED));
    let difference = Picture { width: a.width, height: a.height, rgb: differences.collect() };
    // Small pictures, as of narrow models, leave their captions room.
    let column = a.width.max(192);
    let captions = captions.map(|caption| lines(caption, column / LETTER));
    let most = captions.iter().map(Vec::len).max().unwrap_or_default();
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

/// The text in lines of so many letters at most, broken between words where that is possible.
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
    fn paste(&mut self, other: &Picture, left: usize, top: usize) {
        let (row, width) = (3 * self.width, 3 * other.width);
        for (line, pixels) in other.rgb.chunks_exact(width.max(1)).enumerate() {
            let begin = (top + line) * row + 3 * left;
            if let Some(place) = self.rgb.get_mut(begin..begin + width) {
                place.copy_from_slice(pixels);
            }
        }
    }

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

/// Eight rows of a letter; the lowest bit is to the left.
fn glyph(letter: char) -> [u8; 8] {
    let found = BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter)).or_else(|| GREEK_FONTS.get(letter));
    let found = found.or_else(|| HIRAGANA_FONTS.get(letter)).or_else(|| BOX_FONTS.get(letter));
    found.or_else(|| BASIC_FONTS.get('?')).unwrap_or_default()
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
    fn pictures_and_their_difference_stand_side_by_side() {
        let sheet = contact_sheet(&plain(100), &plain(103), ["A", "B", "difference"]);
        assert_eq!(sheet.rgb.len(), 3 * sheet.width * sheet.height);
        let found = [0, 1, 2].map(|index| pixel(&sheet, GAP + index * 200, GAP));
        assert_eq!(found, [[100; 3], [103; 3], [24; 3]]);
        assert_eq!(pixel(&contact_sheet(&plain(0), &plain(200), ["", "", ""]), GAP + 400, GAP), [255; 3]);
        assert_eq!(pixel(&sheet, 0, 0), PAPER);
    }

    #[test]
    fn letters_read_from_left_to_right() {
        // An L: a stem to the left, a foot below.
        let rows =
            glyph('L').map(|bits| (0..8).map(|column| if bits >> column & 1 == 1 { '#' } else { '.' }).collect());
        let rows: [String; 8] = rows;
        assert_eq!(rows[0], "####....");
        assert_eq!(rows[6], "#######.");
        assert_eq!(glyph('猫'), glyph('?'));
    }

    #[test]
    fn captions_are_broken_between_words_or_where_there_are_none() {
        assert_eq!(lines("a cat and a dog", 9), ["a cat and", "a dog"]);
        assert_eq!(lines("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(lines("one\ntwo", 9), ["one", "two"]);
        assert_eq!(lines(&"x ".repeat(100), 1).len(), LINES);
    }
}
