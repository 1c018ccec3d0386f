//! Compares the models with diffusers and transformers, using the same weights. `fixtures/render/make.py` generates the
//! references.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::tiny::{fixture, model, owned, values};
use candle_core::{DType, Device, Tensor};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::error::Kind;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};
use trinart_ckpt_render::Engine;
use trinart_ckpt_render::networks::{TextEncoder, Unet, Vae};
use trinart_ckpt_render::observer::{Observer, Trace};
use trinart_ckpt_render::weights::{WeightLoader, tensor};

/// Maximum norm of the difference, relative to the norm of the reference.
const TOLERANCE: f64 = 1e-5;

/// Returns the model with some of its tensors renamed, dropped or replaced.
fn changed(change: impl Fn(&str, &LazyTensor) -> Option<(String, LazyTensor)>) -> Arc<StateDict> {
    let mut state_dict = StateDict::new();
    for (key, tensor) in model().iter().filter_map(|(key, tensor)| change(key, tensor)) {
        state_dict.insert(key, tensor).unwrap();
    }
    Arc::new(state_dict)
}

fn loader(state_dict: &Arc<StateDict>) -> WeightLoader {
    WeightLoader::new(Arc::clone(state_dict), &Engine::Candle)
}

fn reference(name: &str) -> Tensor {
    References::open(&fixture("tiny-sd1.safetensors")).get(name)
}

fn input(name: &str, shape: &[u64], scale: f64) -> Tensor {
    let drawn = Tensor::from_vec(
        values(&format!("input.{name}"), shape),
        shape[..].iter().map(|&dim| dim as usize).collect::<Vec<_>>(),
        &Device::Cpu,
    );
    (drawn.unwrap() * scale).unwrap()
}

/// The reference tensors of a fixture.
struct References(StateDict);

impl References {
    fn open(path: &Path) -> Self {
        References(StoredCheckpoint::open(path).unwrap().state_dict().clone())
    }

    fn get(&self, name: &str) -> Tensor {
        let lazy = self.0.get(name).unwrap();
        let dtype = if lazy.dtype() == Dtype::I64 { DType::U32 } else { DType::F32 };
        tensor(lazy, dtype, &Device::Cpu).unwrap()
    }

    #[track_caller]
    fn assert_close(&self, name: &str, found: &Tensor) {
        let expected = self.get(name);
        assert_eq!(found.dims(), expected.dims(), "{name}");
        let found = found.to_dtype(DType::F32).unwrap();
        let relative = norm(&(found - &expected).unwrap()) / norm(&expected);
        println!("{name}: {relative:.2e}");
        assert!(relative < TOLERANCE, "{name}: {relative:.2e}");
    }
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
}

#[track_caller]
fn assert_close(name: &str, found: &Tensor) {
    References::open(&fixture("tiny-sd1.safetensors")).assert_close(name, found);
}

fn text_encoder(state_dict: &Arc<StateDict>) -> TextEncoder {
    TextEncoder::load(&loader(state_dict)).unwrap()
}

fn unet(state_dict: &Arc<StateDict>) -> trinart_ckpt_formats::error::Result<Unet> {
    Unet::load(&loader(state_dict))
}

#[test]
fn encodes_text_like_transformers() {
    let encoder = text_encoder(&model());
    assert_eq!((encoder.positions(), encoder.width(), encoder.vocabulary()), (77, 32, 49408));
    for clip_skip in [1, 2] {
        let hidden = encoder.hidden_state(&reference("tokens"), clip_skip).unwrap();
        assert_close(&format!("clip.{clip_skip}"), &hidden);
    }
    for clip_skip in [0, 4] {
        let error = encoder.hidden_state(&reference("tokens"), clip_skip).unwrap_err();
        assert_eq!(error.to_string(), format!("clip skip {clip_skip} is out of range: expected 1 to 3"));
    }
}

#[test]
fn accepts_text_encoder_keys_of_novelai() {
    let nai = changed(|key, tensor| Some((key.replace("transformer.text_model.", "transformer."), tensor.clone())));
    assert_close("clip.1", &text_encoder(&nai).hidden_state(&reference("tokens"), 1).unwrap());
}

#[test]
fn predicts_noise_like_diffusers() {
    let unet = unet(&model()).unwrap();
    assert_eq!(unet.context_width(), 32);
    let prompt = unet.prepare(&reference("clip.1").into()).unwrap();
    let x = input("square", &[2, 4, 16, 16], 2.0);
    for time in [999.0, 500.0, 1.0, 867.33] {
        assert_close(&format!("unet.square.{time:?}"), &unet.forward(&x, time, &prompt).unwrap());
    }
    let x = input("wide", &[2, 4, 8, 24], 2.0);
    assert_close("unet.wide.867.33", &unet.forward(&x, 867.33, &prompt).unwrap());
}

#[test]
fn decodes_and_encodes_images_like_diffusers() {
    let state_dict = model();
    let vae = Vae::load(&loader(&state_dict)).unwrap();
    assert_eq!((vae.latent_channels(), vae.scale()), (4, 8));
    assert_close("decode", &vae.decode(&input("latent", &[1, 4, 8, 6], 4.0)).unwrap());
    let (mean, logvar) = vae.encode(&input("image", &[1, 3, 64, 48], 1.0)).unwrap();
    assert_close("encode.mean", &mean);
    assert_close("encode.logvar", &logvar);
}

#[test]
fn accepts_linear_layers_in_vae_attention() {
    let linear = changed(|key, tensor| {
        let dims = tensor.shape().dims();
        let matrix = key.contains(".attn_1.") && dims.len() == 4;
        let tensor =
            if matrix { tensor.clone().reshape(Shape::new(&dims[..2]).unwrap()).unwrap() } else { tensor.clone() };
        Some((key.to_owned(), tensor))
    });
    let vae = Vae::load(&loader(&linear)).unwrap();
    assert_close("decode", &vae.decode(&input("latent", &[1, 4, 8, 6], 4.0)).unwrap());
}

/// For dtypes other than f32, every layer uses candle's operations.
#[test]
fn matches_candles_operations_in_f64() {
    let state_dict = model();
    let double = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    let encoder = TextEncoder::load(&loader(&state_dict).with_dtype(DType::F64)).unwrap();
    assert_close("clip.2", &encoder.hidden_state(&reference("tokens"), 2).unwrap());
    let unet = Unet::load(&loader(&state_dict).with_dtype(DType::F64)).unwrap();
    let prompt = unet.prepare(&double(&reference("clip.1")).into()).unwrap();
    let x = double(&input("wide", &[2, 4, 8, 24], 2.0));
    assert_close("unet.wide.867.33", &unet.forward(&x, 867.33, &prompt).unwrap());
    let vae = Vae::load(&loader(&state_dict).with_dtype(DType::F64)).unwrap();
    assert_close("decode", &vae.decode(&double(&input("latent", &[1, 4, 8, 6], 4.0))).unwrap());
    let (mean, _) = vae.encode(&double(&input("image", &[1, 3, 64, 48], 1.0))).unwrap();
    assert_close("encode.mean", &mean);
}

#[test]
fn rejects_models_that_cannot_be_rendered() {
    for (channels, reason) in [
        (5, "a depth-to-image model, which also takes a depth map (5 channels): it cannot be rendered"),
        (7, "an unknown kind of UNet with 7 input channels: it cannot be rendered"),
    ] {
        let conv_in = "model.diffusion_model.input_blocks.0.0.weight";
        let other = changed(|key, tensor| {
            let tensor = if key == conv_in { owned(key, &[32, channels, 3, 3]) } else { tensor.clone() };
            Some((key.to_owned(), tensor))
        });
        let error = unet(&other).err().unwrap();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(error.to_string(), reason);
    }
    let mut foreign = (*model()).clone();
    let key = "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale";
    foreign.insert(key, owned(key, &[8])).unwrap();
    let error = unet(&Arc::new(foreign)).err().unwrap();
    assert_eq!(error.to_string(), "Flux cannot be rendered: only SD v1, SD v2 and SDXL can");
}

#[test]
fn names_missing_and_misshapen_tensors() {
    let key = "model.diffusion_model.output_blocks.3.1.norm.bias";
    let error = unet(&changed(|name, tensor| (name != key).then(|| (name.to_owned(), tensor.clone())))).err().unwrap();
    assert_eq!((error.kind(), error.tensor()), (Kind::Missing, Some(key)));
    let short =
        changed(|name, tensor| Some((name.to_owned(), if name == key { owned(name, &[32]) } else { tensor.clone() })));
    let error = unet(&short).err().unwrap();
    assert_eq!((error.kind(), error.tensor()), (Kind::Mismatch, Some(key)));
}

#[derive(Default)]
struct Names(Mutex<Vec<String>>);

impl Observer for Names {
    fn seen(&self, name: &str, tensor: &Tensor) {
        assert!(tensor.elem_count() > 0);
        self.0.lock().unwrap().push(name.to_owned());
    }
}

#[test]
fn shows_an_observer_every_layer_in_order() {
    let names = Arc::new(Names::default());
    let mut unet = unet(&model()).unwrap();
    unet.observe(Trace::to(Arc::clone(&names) as Arc<dyn Observer>));
    let prompt = unet.prepare(&reference("clip.1").into()).unwrap();
    unet.forward(&input("wide", &[2, 4, 8, 24], 2.0), 1.0, &prompt).unwrap();
    let seen = names.0.lock().unwrap();
    let layers = ["time_embed", "input_blocks.0.0", "input_blocks.1.0", "input_blocks.1.1", "input_blocks.2.0"];
    for (found, expected) in seen.iter().zip(layers) {
        assert_eq!(found, &format!("model.diffusion_model.{expected}"));
    }
    assert_eq!(seen.last().unwrap(), "model.diffusion_model.out");
}

/// `fixtures/render/make_odd.py` generates the reference.
#[test]
fn draws_odd_latents_like_webui() {
    let unet = unet(&model()).unwrap();
    let prompt = unet.prepare(&input("context", &[2, 77, 32], 1.0).into()).unwrap();
    let found = unet.forward(&input("odd", &[2, 4, 13, 11], 2.0), 500.0, &prompt).unwrap();
    References::open(&fixture("odd.safetensors")).assert_close("unet.odd", &found);
}

#[test]
fn rejects_a_batch_that_does_not_match_the_prompts() {
    let unet = unet(&model()).unwrap();
    let prompt = unet.prepare(&reference("clip.1").into()).unwrap();
    let error = unet.forward(&input("one", &[1, 4, 8, 8], 1.0), 1.0, &prompt).unwrap_err();
    assert_eq!(error.to_string(), "1 latents for 2 prompts");
}

/// Uses a model with the sizes of SD v1, generated by `make.py --full FOLDER`:
/// `RENDER_FULL=FOLDER cargo test -p trinart-ckpt-render --release --test it models:: -- --ignored`.
#[test]
#[ignore = "needs a model of 4.3 GB, and takes minutes without optimization"]
fn matches_diffusers_at_full_size() {
    let folder = PathBuf::from(std::env::var_os("RENDER_FULL").unwrap());
    let references = References::open(&folder.join("sd1-render.references.safetensors"));
    let state_dict =
        Arc::new(StoredCheckpoint::open(folder.join("sd1-render.safetensors")).unwrap().state_dict().clone());

    let encoder = text_encoder(&state_dict);
    for clip_skip in [1, 2] {
        let hidden = encoder.hidden_state(&references.get("tokens"), clip_skip).unwrap();
        references.assert_close(&format!("clip.{clip_skip}"), &hidden);
    }
    let vae = Vae::load(&loader(&state_dict)).unwrap();
    references.assert_close("decode", &vae.decode(&input("latent", &[1, 4, 24, 18], 4.0)).unwrap());
    let (mean, logvar) = vae.encode(&input("image", &[1, 3, 192, 144], 1.0)).unwrap();
    references.assert_close("encode.mean", &mean);
    references.assert_close("encode.logvar", &logvar);

    let unet = unet(&state_dict).unwrap();
    let prompt = unet.prepare(&references.get("clip.1").into()).unwrap();
    let x = input("square", &[2, 4, 48, 48], 2.0);
    for time in [999.0, 500.0, 1.0, 867.33] {
        references.assert_close(&format!("unet.square.{time:?}"), &unet.forward(&x, time, &prompt).unwrap());
    }
    let x = input("wide", &[2, 4, 24, 72], 2.0);
    references.assert_close("unet.wide.867.33", &unet.forward(&x, 867.33, &prompt).unwrap());
}
