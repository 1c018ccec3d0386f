//! The contact sheet: pictures side by side, with captions.

use unifont::{Glyph, get_glyph};

use super::Picture;

/// The space between and around the pictures, in pixels.
const GAP: usize = 8;

/// The width of a narrow letter in pixels. Letters of Chinese, Japanese and Korean are twice as wide.
const LETTER: usize = 8;

/// The line height in pixels.
const LINE: usize = 18;

/// The height of a letter in pixels.
const LETTER_HEIGHT: usize = 16;

/// Maximum number of lines of a caption. Further lines are dropped.
const LINES: usize = 8;

/// Maximum number of pictures in a row.
const COLUMNS: usize = 4;

/// The width of a column in pixels, unless a picture is wider. Smaller pictures are enlarged up to this size.
const COLUMN: usize = 256;

const PAPER: [u8; 3] = [24, 24, 24];
const INK: [u8; 3] = [230, 230, 230];

/// Draws pictures from left to right, at most four in a row, each with its caption below.
///
/// All pictures are enlarged by the same whole number, such that the largest has at most 256 pixels on a side; larger
/// ones keep their size. Captions wrap at the width of their column. The font is GNU Unifont, which covers the Basic
/// Multilingual Plane; other characters become replacement characters.
pub fn contact_sheet(cells: &[(&Picture, &str)]) -> Picture {
    let longest = cells.iter().map(|(picture, _)| picture.width.max(picture.height)).fold(1, usize::max);
    let factor = (COLUMN / longest).max(1);
    let column = cells.iter().map(|(picture, _)| factor * picture.width).fold(COLUMN, usize::max);
    let captions: Vec<Vec<String>> = cells.iter().map(|(_, caption)| lines(caption, column / LETTER)).collect();
    let columns = cells.len().clamp(1, COLUMNS);
    let rows: Vec<_> = cells.chunks(columns).zip(captions.chunks(columns)).collect();
    let picture_height = |row: &[(&Picture, &str)]| row.iter().map(|(it, _)| factor * it.height).fold(0, usize::max);
    let heights: Vec<_> = rows
        .iter()
        .map(|(row, captions)| picture_height(row) + GAP + captions.iter().map(Vec::len).fold(0, usize::max) * LINE)
        .collect();
    let width = columns * (column + GAP) + GAP;
    let height = heights.iter().sum::<usize>() + (rows.len() + 1) * GAP;
    let mut sheet = Picture { width, height, rgb: PAPER.repeat(width * height) };
    let mut top = GAP;
    for ((row, captions), height) in rows.into_iter().zip(heights) {
        for (index, ((picture, _), caption)) in row.iter().zip(captions).enumerate() {
            let left = GAP + index * (column + GAP);
            sheet.paste(picture, factor, left, top);
            for (line, text) in caption.iter().enumerate() {
                sheet.write(text, left, top + picture_height(row) + GAP / 2 + line * LINE);
            }
        }
        top += height + GAP;
    }
    sheet
}

/// The number of narrow letters that a character is wide.
fn width(letter: char) -> usize {
    glyph(letter).map_or(1, |glyph| glyph.get_width() / LETTER)
}

/// Wraps a text into lines of at most `limit` narrow letters, between words if possible.
fn lines(text: &str, limit: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let (mut line, mut taken) = (String::new(), 0);
        for word in paragraph.split(' ') {
            let length: usize = word.chars().map(width).sum();
            if taken > 0 && taken + 1 + length > limit {
                lines.push(std::mem::take(&mut line));
                taken = 0;
            } else if taken > 0 {
                line.push(' ');
                taken += 1;
            }
            for letter in word.chars() {
                if taken > 0 && taken + width(letter) > limit {
                    lines.push(std::mem::take(&mut line));
                    taken = 0;
                }
                line.push(letter);
                taken += width(letter);
            }
        }
        lines.push(line);
    }
    lines.truncate(LINES);
    lines
}

impl Picture {
    /// Copies a picture, `factor` times as large, to this position. Drops parts that are outside of the sheet.
    fn paste(&mut self, other: &Picture, factor: usize, left: usize, top: usize) {
        for (line, pixels) in other.rgb.chunks_exact((3 * other.width).max(1)).enumerate() {
            let row: Vec<u8> = pixels.chunks_exact(3).flat_map(|pixel| pixel.repeat(factor)).collect();
            for copy in 0..factor {
                let begin = 3 * ((top + line * factor + copy) * self.width + left);
                if let Some(target) = self.rgb.get_mut(begin..begin + row.len()) {
                    target.copy_from_slice(&row);
                }
            }
        }
    }

    /// Draws a line of text at this position. Drops parts that are outside of the sheet.
    fn write(&mut self, text: &str, left: usize, top: usize) {
        let mut left = left;
        for glyph in text.chars().filter_map(glyph) {
            for (row, column) in (0..LETTER_HEIGHT).flat_map(|row| (0..glyph.get_width()).map(move |it| (row, it))) {
                let begin = 3 * ((top + row) * self.width + left + column);
                if glyph.get_pixel(column, row)
                    && let Some(pixel) = self.rgb.get_mut(begin..begin + 3)
                {
                    pixel.copy_from_slice(&INK);
                }
            }
            left += glyph.get_width();
        }
    }
}

/// The pixels of a letter. A character that the font lacks gets those of the replacement character.
fn glyph(letter: char) -> Option<&'static Glyph> {
    get_glyph(letter).or_else(|| get_glyph(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: u8, size: usize) -> Picture {
        Picture { width: size, height: size, rgb: vec![value; 3 * size * size] }
    }

    fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
        let begin = 3 * (y * picture.width + x);
        picture.rgb[begin..begin + 3].try_into().unwrap()
    }

    #[test]
    fn draws_pictures_side_by_side_and_enlarges_small_ones() {
        let (a, b) = (plain(100, 64), plain(103, 64));
        let sheet = contact_sheet(&[(&a, "A"), (&b, "B")]);
        assert_eq!(sheet.rgb.len(), 3 * sheet.width * sheet.height);
        assert_eq!(sheet.width, 2 * COLUMN + 3 * GAP);
        let found = [0, 1].map(|index| pixel(&sheet, GAP + index * (COLUMN + GAP), GAP));
        assert_eq!(found, [[100; 3], [103; 3]]);
        assert_eq!(pixel(&sheet, GAP + COLUMN - 1, GAP + COLUMN - 1), [100; 3]);
        assert_eq!((pixel(&sheet, 0, 0), pixel(&sheet, GAP + COLUMN, GAP)), (PAPER, PAPER));
    }

    #[test]
    fn begins_a_new_row_after_four_pictures() {
        let picture = plain(200, 512);
        let sheet = contact_sheet(&[(&picture, "x"); 5]);
        assert_eq!(sheet.width, 4 * 512 + 5 * GAP);
        let second = GAP + 512 + GAP + LINE + GAP;
        assert_eq!((pixel(&sheet, GAP, second), pixel(&sheet, GAP, second - 1)), ([200; 3], PAPER));
        assert_eq!(pixel(&sheet, 2 * GAP + 512, second), PAPER);
    }

    #[test]
    fn draws_letters_of_every_script() {
        let rows = |letter: char| {
            let glyph = glyph(letter).unwrap();
            let row = |y| (0..glyph.get_width()).map(|x| if glyph.get_pixel(x, y) { '#' } else { '.' }).collect();
            (0..LETTER_HEIGHT).map(row).collect::<Vec<String>>()
        };
        assert_eq!(rows('L')[4], ".#......");
        assert_eq!(rows('L')[13], ".######.");
        let replacement = rows(char::REPLACEMENT_CHARACTER);
        for letter in ['猫', 'ね', 'ネ', '한', 'Я', 'é', 'ع', 'ไ'] {
            assert_ne!(rows(letter), replacement, "{letter}");
        }
        assert_eq!(rows('\u{1f431}'), replacement);
    }

    #[test]
    fn wraps_captions_between_words_if_possible() {
        assert_eq!(lines("a cat and a dog", 9), ["a cat and", "a dog"]);
        assert_eq!(lines("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(lines("one\ntwo", 9), ["one", "two"]);
        assert_eq!(lines("魔女の宅急便.ckpt", 8), ["魔女の宅", "急便.ckp", "t"]);
        assert_eq!(lines(&"x ".repeat(100), 1).len(), LINES);
    }
}
