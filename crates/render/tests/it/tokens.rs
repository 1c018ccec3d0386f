//! Compares the tokens of prompts with those of CLIP's tokenizer. `fixtures/render/make_tokens.py` generates them.

use std::path::Path;

use trinart_ckpt_render::prompt::Tokenizer;

#[test]
fn tokenizes_prompts_like_clip() {
    let path = std::env::var("TRINART_TOKENS").unwrap_or_else(|_| "fixtures/render/tokens.json".into());
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap();
    let prompts: Vec<(String, Vec<u32>)> = serde_json::from_str(&text).unwrap();
    assert!(prompts.len() >= 400);
    let tokenizer = Tokenizer::new().unwrap();
    let differing: Vec<_> = prompts.iter().filter(|(prompt, expected)| tokenizer.encode(prompt) != *expected).collect();
    let shortest = differing.iter().min_by_key(|(prompt, _)| prompt.len());
    let shown = shortest.map(|(prompt, expected)| (prompt, expected, tokenizer.encode(prompt)));
    assert!(differing.is_empty(), "{} of {} differ: {shown:?}", differing.len(), prompts.len());
}
