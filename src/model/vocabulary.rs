//! CLIP's vocabulary: what its tokenizer needs, and what a diffusers folder carries of it.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;

/// The merges of CLIP's byte pair encoding, one a line, compressed; made by fixtures/make_vocabulary.py.
static COMPRESSED: &[u8] = include_bytes!("merges.txt.gz");

static MERGES: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::new();
    // Part of the program: a test reads it whole.
    let _ = GzDecoder::new(COMPRESSED).read_to_string(&mut text);
    text
});

/// What every list of merges begins with.
const VERSION: &str = "#version: 0.2\n";

/// What ends a word.
const END_OF_WORD: &str = "</w>";

/// What stands before and behind every text.
const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// The rules by which tokens are merged, the first one first, in the format of CLIP and of `merges.txt`.
pub fn merges() -> String {
    format!("{VERSION}{}", MERGES.as_str())
}

/// The tokens by their numbers, in the spelling of `vocab.json`: each byte a printable character.
pub fn tokens() -> Vec<String> {
    let bytes: Vec<String> = spelling().map(String::from).collect();
    let ends = bytes.iter().map(|byte| format!("{byte}{END_OF_WORD}"));
    let merged = MERGES.lines().map(|rule| rule.replacen(' ', "", 1));
    bytes.iter().cloned().chain(ends).chain(merged).chain(SPECIAL.map(str::to_owned)).collect()
}

/// The characters that stand for bytes, in the order of their tokens: first the bytes that are printable characters
/// of Latin-1 themselves, then the others, which get the characters from U+0100 on.
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
    fn every_token_has_one_spelling_and_every_merge_is_of_tokens() {
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
    fn numbers_are_those_of_the_published_vocabulary() {
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
