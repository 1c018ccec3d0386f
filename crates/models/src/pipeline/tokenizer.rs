use serde_json::{Map, Value, json};

use super::config::text;
use crate::vocabulary;

/// Returns the files of a CLIPTokenizer with the padding token `pad`, as pairs of name and text.
pub(super) fn files(pad: &str) -> Vec<(&'static str, String)> {
    let vocabulary: Map<String, Value> =
        vocabulary::tokens().into_iter().enumerate().map(|(number, token)| (token, number.into())).collect();
    let special = |content: &str, normalized: bool| {
        json!({
            "content": content,
            "lstrip": false,
            "normalized": normalized,
            "rstrip": false,
            "single_word": false,
        })
    };
    let (begin, end) = (special("<|startoftext|>", true), special("<|endoftext|>", true));
    let special_tokens = json!({ "bos_token": begin, "eos_token": end, "pad_token": pad, "unk_token": end });
    let config = json!({
        "add_prefix_space": false,
        "bos_token": "<|startoftext|>",
        "do_lower_case": true,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": "<|endoftext|>",
    });
    vec![
        ("vocab.json", Value::Object(vocabulary).to_string()),
        ("merges.txt", vocabulary::merges()),
        ("tokenizer_config.json", text(&config)),
        ("special_tokens_map.json", text(&special_tokens)),
    ]
}
