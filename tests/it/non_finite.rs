//! NaN and infinite values: reported with their tensors wherever values are read, and errors with `--strict`.

use std::path::PathBuf;

use crate::support::{Folder, f32s, fixture, save, tensor, tensors};
use half::f16;
use serde_json::{Value, json};
use trinart_ckpt::formats::tensor::Dtype;

const UNET: &str = "model.diffusion_model.middle_block.1.proj_in.weight";
const VAE: &str = "decoder.conv_in.bias";

/// The tiny SD v1 with a NaN and two infinite values in a weight of the UNet.
fn broken(folder: &Folder) -> PathBuf {
    let path = folder.join("broken.safetensors");
    let broken = |(key, tensor_of): (String, trinart_ckpt::LazyTensor)| {
        if key != UNET {
            return (key, tensor_of);
        }
        let mut bytes = tensor_of.to_bytes().unwrap();
        for (index, value) in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY].into_iter().enumerate() {
            bytes[2 * index..2 * index + 2].copy_from_slice(&value.to_le_bytes());
        }
        let dims = tensor_of.shape().dims().to_vec();
        (key, tensor(Dtype::F16, &dims, bytes))
    };
    save(&path, tensors(&fixture("tiny-sd1.ckpt")).into_iter().map(broken));
    path
}

fn entry(key: &str, nan: u64, infinite: u64) -> Value {
    json!([{"tensor": key, "nan": nan, "infinite": infinite}])
}

#[test]
fn reports_nan_and_infinite_values_with_their_tensors() {
    let folder = Folder::new();
    let input = broken(&folder);
    let text = format!("1 tensor has NaN or infinite values: {UNET} (1 NaN, 2 infinite)");
    for (options, name) in [
        (&[][..], "a.safetensors"),
        (&[], "a.ckpt"),
        (&["--dtype", "bf16"], "b.safetensors"),
        (&["--dtype", "f32"], "c.ckpt"),
    ] {
        let mut arguments: Vec<std::ffi::OsString> =
            vec!["convert".into(), input.clone().into(), "-o".into(), folder.join(name).into(), "--json".into()];
        arguments.extend(options.iter().map(Into::into));
        let report = crate::support::run(&arguments).json();
        assert_eq!(report["non_finite"], entry(UNET, 1, 2), "{name}");
        let notices = report["notices"].as_array().unwrap();
        assert!(notices.contains(&json!({"code": "non-finite", "text": text})), "{notices:?}");
    }
    let hash = run!["hash", &input, "--json"].json();
    assert_eq!(hash["files"][0]["non_finite"], entry(UNET, 1, 2));
    assert!(run!["hash", &input].done().contains(&text));
    let good = fixture("tiny-sd1.ckpt");
    let difference = run!["diff", &input, &good, "--json"].json_of_no();
    assert_eq!(difference["non_finite"], json!({"a": entry(UNET, 1, 2), "b": []}));
    assert!(run!["diff", &good, &input].no().contains(&format!("B: {text}")));
    let same = run!["diff", &input, folder.join("c.ckpt"), "--json"].json_of_no();
    assert_eq!(same["non_finite"], json!({"a": entry(UNET, 1, 2), "b": entry(UNET, 1, 2)}));
    // The values of a checkpoint that has none.
    let report = run!["convert", &good, "-o", folder.join("good.safetensors"), "--json", "--strict"].json();
    assert_eq!(report["non_finite"], json!([]));
}

#[test]
fn strict_fails_before_the_output_appears() {
    let folder = Folder::new();
    let input = broken(&folder);
    let vae = folder.join("vae.safetensors");
    let broken_vae = |(key, tensor): (String, trinart_ckpt::LazyTensor)| {
        let count = tensor.shape().elements() as usize;
        let is_broken = key == VAE;
        (key, if is_broken { f32s(&vec![f32::NAN; count]) } else { tensor })
    };
    save(&vae, tensors(&fixture("tiny-vae.vae.pt")).into_iter().map(broken_vae));
    let good = fixture("tiny-sd1.ckpt");
    let before = folder.snapshot();
    for output in ["out.safetensors", "out.ckpt", "out/"] {
        let output = folder.join(output);
        run!["convert", &input, "-o", &output, "--strict"].refused(&["NaN or infinite values", "1 NaN, 2 infinite"]);
        let words = ["NaN or infinite values", VAE.rsplit('.').next().unwrap()];
        run!["merge-vae", &good, "--vae", &vae, "-o", &output, "--strict"].refused(&words);
        assert_eq!(folder.snapshot(), before);
    }
    let output = folder.join("merged.safetensors");
    let report = run!["merge-vae", &good, "--vae", &vae, "-o", &output, "--json"].json();
    assert_eq!(report["non_finite"][0]["tensor"], format!("first_stage_model.{VAE}"));
    let output = folder.join("out/");
    let report = run!["convert", &input, "-o", &output, "--json"].json();
    assert_eq!(report["non_finite"], entry("unet/mid_block.attentions.0.proj_in.weight", 1, 2));
}
