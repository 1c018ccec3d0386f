//! CLIP's vocabulary, for the tokenizer and for the tokenizer files of a diffusers folder.

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};
use trinart_ckpt_formats::containers::diffusers::parse_json;

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

/// Returns whether a file of the folder of a tokenizer shows another vocabulary than CLIP's: other tokens, other ids, other
/// merges, or added tokens. False for files without a vocabulary. `name` is the name of the file.
pub fn is_other(name: &str, content: &[u8]) -> bool {
    let json = || parse_json(content).unwrap_or_default();
    match name {
        "vocab.json" => !is_clip(json().as_object()),
        "added_tokens.json" => json().as_object().is_none_or(|added| !added.iter().all(is_token)),
        "tokenizer.json" => {
            let found = json();
            let id = |added: &Value| Some((added.get("content")?.as_str()?.to_owned(), added.get("id")?.clone()));
            let added = found.get("added_tokens").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let is_known = |added: &Value| id(added).is_some_and(|(token, id)| is_token((&token, &id)));
            !is_clip(found.pointer("/model/vocab").and_then(Value::as_object)) || !added.iter().all(is_known)
        }
        "merges.txt" => {
            let text = String::from_utf8_lossy(content);
            let rules = text.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
            !rules.eq(MERGES.lines())
        }
        _ => name.ends_with(".model") || name == "vocab.txt",
    }
}

/// The id of each token.
static IDS: LazyLock<HashMap<String, u64>> = LazyLock::new(|| tokens().into_iter().zip(0..).collect());

fn is_token((token, id): (&String, &Value)) -> bool {
    id.as_u64().is_some_and(|id| IDS.get(token) == Some(&id))
}

fn is_clip(vocabulary: Option<&Map<String, Value>>) -> bool {
    vocabulary.is_some_and(|found| found.len() == IDS.len() && found.iter().all(is_token))
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
    fn another_vocabulary_is_seen_in_every_file_of_a_tokenizer() {
        let ids: Map<String, Value> = tokens().into_iter().zip(0_u64..).map(|(token, id)| (token, id.into())).collect();
        let mut swapped = ids.clone();
        swapped.insert("cat</w>".into(), 539.into());
        swapped.insert("of</w>".into(), 2368.into());
        let tokenizer = |vocab: &Map<String, Value>, content: &str, id: u64| {
            let added = serde_json::json!([{ "id": id, "content": content }]);
            serde_json::json!({ "added_tokens": added, "model": { "vocab": vocab } }).to_string()
        };
        let text = |vocabulary: &Map<String, Value>| Value::Object(vocabulary.clone()).to_string();
        let end = "<|endoftext|>";
        for (name, same, others) in [
            ("vocab.json", text(&ids), vec![text(&swapped), "{}".into(), "{".into()]),
            ("added_tokens.json", format!("{{\"{end}\": 49407}}"), vec!["{\"<mine>\": 49408}".into()]),
            (
                "tokenizer.json",
                tokenizer(&ids, end, 49_407),
                vec![tokenizer(&swapped, end, 49_407), tokenizer(&ids, "<mine>", 49_408)],
            ),
            ("merges.txt", merges(), vec![merges().replacen("i n\n", "n i\n", 1)]),
        ] {
            assert!(!is_other(name, same.as_bytes()), "{name}");
            for other in others {
                assert!(is_other(name, other.as_bytes()), "{name}");
            }
        }
        assert!(is_other("spiece.model", b"") && !is_other("tokenizer_config.json", b"{}"));
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
