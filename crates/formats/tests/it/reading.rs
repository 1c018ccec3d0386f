//! Compares what this program reads with what PyTorch reads: the `.json` beside each fixture holds the sha256 of the
//! contiguous bytes of every tensor.

use crate::support::hostile::{tensor_and, torch};
use crate::support::{Folder, assert_rows, expected, fixture, rows};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::containers::Container;

fn check(name: &str, container: Container) -> StoredCheckpoint {
    let contents = crate::support::open(fixture(name)).unwrap();
    assert_eq!(contents.container(), container);
    assert_rows(&rows(&contents).unwrap(), &expected(name));
    contents
}

#[test]
fn reads_a_torch_zip_with_lightning_extras() {
    let contents = check("tiny-sd1.ckpt", Container::TorchZip);
    assert_eq!(contents.root(), "state_dict");
    assert_eq!(contents.state_dict().len(), 1145);
}

#[test]
fn reads_a_legacy_file_with_lightning_extras() {
    check("tiny-sd1-legacy.ckpt", Container::TorchLegacy);
}

#[test]
fn reads_safetensors() {
    check("tiny-sd1.safetensors", Container::Safetensors);
}

#[test]
fn reads_vae_files() {
    check("tiny-vae.ckpt", Container::TorchZip);
    check("tiny-vae.vae.pt", Container::TorchZip);
}

#[test]
fn reads_every_dtype_and_every_kind_of_view() {
    check("dtypes.ckpt", Container::TorchZip);
    check("views.ckpt", Container::TorchZip);
    check("views-legacy.ckpt", Container::TorchLegacy);
}

/// WebUI saves textual inversion embeddings as attributes of a module.
#[test]
fn reads_textual_inversion_embeddings() {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let dict = tensor_and(b"");
    let parameters = dict.strip_prefix(b"\x80\x02").and_then(|dict| dict.strip_suffix(b".")).unwrap();
    let pickle = [
        &b"\x80\x02}"[..],
        &[&text("string_to_token")[..], b"}", &text("*"), b"M\x09\x01ss"].concat(),
        &text("string_to_param"),
        b"ctorch.nn.modules.container\nParameterDict\n)\x81}",
        &text("training"),
        b"\x88s",
        &text("_parameters"),
        parameters,
        b"sbs.",
    ];
    let folder = Folder::new();
    let contents = crate::support::open(folder.write("style.pt", torch(&pickle.concat()))).unwrap();
    assert_eq!(contents.root(), "string_to_param");
    assert_eq!(contents.state_dict().iter().map(|(key, _)| key).collect::<Vec<_>>(), ["weight"]);
    assert_eq!(rows(&contents).unwrap()[0].2, [4]);
}
