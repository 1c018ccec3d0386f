//! Folders of every kind of model in the real diffusers: each opens and renders the same as the original after a conversion
//! to a single file and back.

use std::ffi::OsStr;

use crate::support::PROGRAM;
use crate::support::peers::Peers;
use serde_json::json;

#[test]
fn diffusers_renders_the_same_with_folders_of_every_kind() {
    let Some(peers) = Peers::find_with("diffusers") else { return };
    let found = peers.script("pipelines.py", &[OsStr::new(PROGRAM).as_ref()]);
    let found = found.as_object().unwrap();
    assert!(found.len() >= 18, "{found:?}");
    for (kind, result) in found {
        let expected = match kind.as_str() {
            "sd1" | "sd2-depth" | "sdxl" => json!({ "classes": result["classes"], "back": [], "cast": [] }),
            "svd" => json!({ "classes": result["classes"], "back": [], "plain": [], "without": [] }),
            _ => json!({ "classes": result["classes"], "back": [] }),
        };
        assert_eq!(*result, expected, "{kind}");
        assert!(!result["classes"].as_array().unwrap().is_empty(), "{kind}");
    }
}
