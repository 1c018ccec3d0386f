//! What we read, held against what PyTorch reads: the `.json` beside each fixture has the sha256 of every tensor's
//! contiguous bytes as torch sees them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used)]

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use trinart_ckpt::format::{self, Container, Contents};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rows `(key, dtype, shape, sha256)` as torch saw them.
fn expected(name: &str) -> Vec<(String, String, Vec<u64>, String)> {
    let text = std::fs::read_to_string(fixture(&format!("{name}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(json["tensors"].clone()).unwrap()
}

fn found(contents: &Contents) -> Vec<(String, String, Vec<u64>, String)> {
    let row = |(key, tensor): (&str, &trinart_ckpt::tensor::LazyTensor)| {
        let sha256 = hex(&Sha256::digest(tensor.to_bytes().unwrap()));
        (key.to_owned(), tensor.dtype().to_string(), tensor.shape().dims().to_vec(), sha256)
    };
    contents.state_dict.iter().map(row).collect()
}

fn check(name: &str, container: Container) -> Contents {
    let contents = format::open(fixture(name)).unwrap();
    assert_eq!(contents.container, container);
    let (expected, found) = (expected(name), found(&contents));
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "{name}");
    }
    contents
}

#[test]
fn torch_zip_with_lightning_extras() {
    let contents = check("tiny-sd1.ckpt", Container::TorchZip);
    assert_eq!(contents.root, "state_dict");
    assert_eq!(contents.state_dict.len(), 1145);
}

#[test]
fn torch_legacy_with_lightning_extras() {
    check("tiny-sd1-legacy.ckpt", Container::TorchLegacy);
}

#[test]
fn safetensors() {
    check("tiny-sd1.safetensors", Container::Safetensors);
}

#[test]
fn autoencoders() {
    check("tiny-vae.ckpt", Container::TorchZip);
    check("tiny-vae.vae.pt", Container::TorchZip);
}

#[test]
fn every_dtype_and_every_kind_of_view() {
    check("dtypes.ckpt", Container::TorchZip);
    check("views.ckpt", Container::TorchZip);
    check("views-legacy.ckpt", Container::TorchLegacy);
}
