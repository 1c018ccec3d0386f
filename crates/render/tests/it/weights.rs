//! Compares loaded weights with PyTorch: the `.json` file of each fixture contains the sha256 of every tensor's
//! contiguous bytes in torch.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Tensor};
use sha2::{Digest, Sha256};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::error::Kind;
use trinart_ckpt_formats::tensor::{Dtype, Overflow};
use trinart_ckpt_render::Engine;
use trinart_ckpt_render::weights::WeightLoader;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn open(name: &str) -> WeightLoader {
    let checkpoint = StoredCheckpoint::open(fixture(name)).unwrap();
    WeightLoader::new(Arc::new(checkpoint.state_dict().clone()), &Engine::Candle)
}

/// The rows `(key, dtype, shape, sha256)` as torch reads them.
fn expected(name: &str) -> Vec<(String, String, Vec<usize>, String)> {
    let text = std::fs::read_to_string(fixture(&format!("{name}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(json["tensors"].clone()).unwrap()
}

/// The candle dtype that represents the elements of a dtype unchanged.
fn same(dtype: &str) -> Option<DType> {
    match dtype {
        "BOOL" => Some(DType::U8),
        "I8" | "U16" | "U64" | "F8_E8M0" | "C64" | "C128" => None,
        other => Some(other.replace('_', "").to_lowercase().parse().unwrap()),
    }
}

fn sha256(tensor: &Tensor) -> String {
    let mut bytes = Vec::new();
    tensor.write_bytes(&mut bytes).unwrap();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Dtypes without operations in candle, whose values are exact in F16.
const WIDENED: [&str; 3] = ["F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ"];

/// The values of a tensor as this program casts them.
fn cast_values(name: &str, key: &str) -> Vec<f32> {
    let checkpoint = StoredCheckpoint::open(fixture(name)).unwrap();
    let tensor = checkpoint.state_dict().get(key).unwrap().clone();
    let bytes = tensor.cast(Dtype::F32, Overflow::Refuse).unwrap().to_bytes().unwrap();
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Loads every tensor as a model does, with its key split into prefixes. Returns the dtypes that candle lacks.
fn check(name: &str) -> Vec<String> {
    let weights = open(name);
    let mut refused = Vec::new();
    for (key, dtype, shape, digest) in expected(name) {
        if WIDENED.contains(&dtype.as_str()) {
            let tensor = weights.load(&key, Some(&shape), DType::F32).unwrap();
            let found = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = cast_values(name, &key);
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(&expected).all(|(a, b)| a == b || a.is_nan() && b.is_nan()), "{name}: {key}");
            continue;
        }
        let Some(wanted) = same(&dtype) else {
            let error = weights.load(&key, Some(&shape), DType::F32).unwrap_err();
            assert!(error.to_string().ends_with(&format!("tensor {key}: candle has no tensors of dtype {dtype}")));
            refused.push(dtype);
            continue;
        };
        let tensor = weights.load(&key, Some(&shape), wanted).unwrap();
        assert_eq!((tensor.dims(), tensor.dtype()), (shape.as_slice(), wanted), "{name}: {key}");
        assert_eq!(sha256(&tensor), digest, "{name}: {key}");
    }
    refused
}

#[test]
fn loads_a_torch_zip() {
    assert!(check("tiny-sd1.ckpt").is_empty());
}

#[test]
fn loads_a_legacy_file() {
    assert!(check("tiny-sd1-legacy.ckpt").is_empty());
}

#[test]
fn loads_safetensors() {
    assert!(check("tiny-sd1.safetensors").is_empty());
}

#[test]
fn loads_every_dtype_that_candle_has() {
    let refused = check("dtypes.ckpt");
    assert_eq!(refused, ["I8", "U16", "U64", "F8_E8M0", "C64"]);
}

#[test]
fn loads_every_kind_of_view() {
    assert!(check("views.ckpt").is_empty());
    assert!(check("views-legacy.ckpt").is_empty());
}

const KEY: &str = "first_stage_model.decoder.conv_in.weight";

#[test]
fn casts_alike_from_every_container() {
    let load = |name| {
        let tensor = open(name).load("model.diffusion_model.out.2.bias", None, DType::F32).unwrap();
        assert_eq!(tensor.dtype(), DType::F32);
        tensor.to_vec1::<f32>().unwrap()
    };
    let zip = load("tiny-sd1.ckpt");
    assert!(zip.iter().any(|&value| value != 0.0));
    assert_eq!(zip, load("tiny-sd1-legacy.ckpt"));
    assert_eq!(zip, load("tiny-sd1.safetensors"));
}

#[test]
fn names_a_tensor_with_a_wrong_shape() {
    let found = expected("tiny-sd1.ckpt").into_iter().find(|row| row.0 == KEY).unwrap().2;
    let error = open("tiny-sd1.ckpt").tensor(KEY, &[1, 2, 3]).unwrap_err();
    let file = fixture("tiny-sd1.ckpt");
    let text =
        format!("{}: tensor {KEY}: the model needs shape [1, 2, 3], the checkpoint has {found:?}", file.display());
    assert_eq!(error.to_string(), text);
    assert_eq!((error.kind(), error.tensor(), error.file()), (Kind::Mismatch, Some(KEY), Some(file.as_path())));
}

#[test]
fn names_a_missing_tensor() {
    let key = "first_stage_model.decoder.conv_nowhere.weight";
    let error = open("tiny-sd1.safetensors").tensor(key, &[4]).unwrap_err();
    let text = format!("tensor {key}: required by the model with shape [4], missing from the checkpoint");
    assert_eq!((error.to_string(), error.kind()), (text, Kind::Missing));
}

#[test]
fn names_a_tensor_with_an_unsupported_dtype() {
    let error = open("tiny-sd1-legacy.ckpt").load(KEY, None, DType::F4).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (Kind::Unsupported, Some(KEY)));
    assert!(error.to_string().contains("candle cannot convert F32 to F4"), "{error}");
}
