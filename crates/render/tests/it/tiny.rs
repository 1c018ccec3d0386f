//! The narrow SD v1 of `fixtures/render/make.py`. The fixture contains the shapes; this file and the script compute the
//! same weights.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/render").join(name)
}

/// The same function as `uniform` in `make.py`.
fn uniform(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let start = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (1..=count as u64).map(move |index| {
        let z = start.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// The same function as `values` in `make.py`.
pub(crate) fn values(key: &str, shape: &[u64]) -> Vec<f32> {
    let drawn = uniform(key, shape.iter().product::<u64>() as usize);
    if shape.len() == 1 {
        let ones = if key.ends_with("weight") { 1.0 } else { 0.0 };
        drawn.map(|value| value * 0.25 + ones).collect()
    } else if key.contains("embedding.weight") || key.starts_with("input.") {
        drawn.collect()
    } else {
        let scale = (3.0 / shape[1..].iter().product::<u64>() as f64).sqrt() as f32;
        drawn.map(|value| value * scale).collect()
    }
}

pub(crate) fn owned(key: &str, shape: &[u64]) -> LazyTensor {
    let bytes: Vec<u8> = values(key, shape).into_iter().flat_map(f32::to_le_bytes).collect();
    LazyTensor::owned(Dtype::F32, Shape::new(shape).unwrap(), bytes).unwrap()
}

/// A narrow model of `make_families.py`.
pub(crate) fn of_family(family: &str) -> StateDict {
    let text = std::fs::read_to_string(fixture("families.json")).unwrap();
    let families: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut state_dict = StateDict::new();
    for (key, shape) in families[family].as_object().unwrap() {
        let shape: Vec<u64> = serde_json::from_value(shape.clone()).unwrap();
        state_dict.insert(&**key, owned(key, &shape)).unwrap();
    }
    state_dict
}

pub(crate) fn model() -> Arc<StateDict> {
    static MODEL: LazyLock<Arc<StateDict>> = LazyLock::new(|| {
        let text = std::fs::read_to_string(fixture("tiny-sd1.json")).unwrap();
        let shapes: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        let mut state_dict = StateDict::new();
        for (key, shape) in shapes {
            let shape: Vec<u64> = serde_json::from_value(shape).unwrap();
            state_dict.insert(&*key, owned(&key, &shape)).unwrap();
        }
        Arc::new(state_dict)
    });
    Arc::clone(&MODEL)
}
