//! What we read, held against what PyTorch reads: the `.json` beside each fixture has the sha256 of every tensor's
//! contiguous bytes as torch sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{assert_rows, expected, fixture, rows};
use trinart_ckpt::format::{self, Container, Contents};

fn check(name: &str, container: Container) -> Contents {
    let contents = format::open(fixture(name)).unwrap();
    assert_eq!(contents.container, container);
    assert_rows(&rows(&contents).unwrap(), &expected(name));
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
