//! CLIP's vocabulary, for the tokenizer and for the tokenizer files of a diffusers folder.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;

/// The merges of CLIP's byte pair encoding, one per line, gzipped. Made by fixtures/make_vocabulary.py.
static COMPRESSED: &[u8] = include_bytes!("merges.txt.gz");

#[expect(clippy::expect_used, reason = "the data is part of the program, and a test reads all of it")]
static MERGES: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::new();
    GzDecoder::new(COMPRESSED).read_to_string(&mut text).expect("the vocabulary decompresses");
    text
});

/// The first line of a merges file.
const VERSION: &str = "#version: 0.2\n";

/// Marks the end of a word.
const END_OF_WORD: &str = "</w>";

/// The tokens before and after each text.
const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// Returns the merge rules in order of priority, in the format of `merges.txt`.
pub fn merges() -> String {
    format!("{VERSION}{}", MERGES.as_str())
}

/// Returns the tokens in order of their ids, as `vocab.json` spells them: each byte is a printable character.
pub fn tokens() -> Vec<String> {
    let bytes: Vec<String> = spelling().map(String::from).collect();
    let ends = bytes.iter().map(|byte| format!("{byte}{END_OF_WORD}"));
    let merged = MERGES.lines().map(|rule| rule.replacen(' ', "", 1));
    bytes.iter().cloned().chain(ends).chain(merged).chain(SPECIAL.map(str::to_owned)).collect()
}

/// The characters that represent bytes, in the order of their tokens: first the bytes that are printable in Latin-1,
/// which represent themselves, then the others, from U+0100 on.
fn spelling() -> impl Iterator<Item = char> {
    let printable = (b'!'..=b'~').chain(0xA1..=0xAC).chain(0xAE..=0xFF);
    let printable: Vec<char> = printable.map(char::from).collect();
    let others = (0x100_u32..).take(256 - printable.len()).filter_map(char::from_u32);
    printable.into_iter().chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn tokens_are_unique_and_merges_join_tokens() {
        let tokens = tokens();
        assert_eq!(tokens.len(), 49_408);
        let known: BTreeSet<&str> = tokens.iter().map(String::as_str).collect();
        assert_eq!(known.len(), tokens.len());
        for rule in MERGES.lines() {
            let (left, right) = rule.split_once(' ').unwrap();
            assert!(known.contains(left) && known.contains(right), "{rule}");
        }
    }

    #[test]
    fn ids_match_the_published_vocabulary() {
        // From vocab.json of openai/clip-vit-large-patch14; "a photo of a cat" is 320, 1125, 539, 320, 2368.
        let tokens = tokens();
        for (number, token) in [
            (0, "!"),
            (255, "Ń"),
            (256, "!</w>"),
            (320, "a</w>"),
            (539, "of</w>"),
            (1125, "photo</w>"),
            (2368, "cat</w>"),
            (49_406, "<|startoftext|>"),
            (49_407, "<|endoftext|>"),
        ] {
            assert_eq!(tokens[number], token);
        }
    }
}
