//! The models of the render against what the real diffusers and transformers compute with the same weights:
//! `fixtures/render/make.py` says how those came about.
#![cfg(feature = "render")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "support/tiny.rs"]
mod tiny;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use tiny::{fixture, model, owned, values};
use trinart_ckpt::render::Engine;
use trinart_ckpt::render::clip::TextEncoder;
use trinart_ckpt::render::observer::{Observer, Trace};
use trinart_ckpt::render::unet::Unet;
use trinart_ckpt::render::vae::Vae;
use trinart_ckpt::render::weights::{tensor, var_builder};
use trinart_ckpt::tensor::{Dtype, LazyTensor, Shape};
use trinart_ckpt::{Kind, StateDict, format};

/// The most by which a stage may differ, as the norm of the difference over the norm of the reference.
const TOLERANCE: f64 = 1e-5;

/// The model with some of its tensors renamed, left out or replaced.
fn changed(change: impl Fn(&str, &LazyTensor) -> Option<(String, LazyTensor)>) -> Arc<StateDict> {
    let mut state_dict = StateDict::new();
    for (key, tensor) in model().iter().filter_map(|(key, tensor)| change(key, tensor)) {
        state_dict.insert(key, tensor).unwrap();
    }
    Arc::new(state_dict)
}

fn builder(state_dict: &Arc<StateDict>) -> VarBuilder<'static> {
    builder_of(state_dict, DType::F32)
}

fn builder_of(state_dict: &Arc<StateDict>, dtype: DType) -> VarBuilder<'static> {
    var_builder(Arc::clone(state_dict), dtype, &Device::Cpu)
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

/// The references of a fixture.
struct References(StateDict);

impl References {
    fn open(path: &Path) -> Self {
        References(format::open(path).unwrap().state_dict)
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
    TextEncoder::load(builder(state_dict), state_dict, &Engine::Candle).unwrap()
}

fn unet(state_dict: &Arc<StateDict>) -> trinart_ckpt::Result<Unet> {
    Unet::load(builder(state_dict), state_dict, &Engine::Candle)
}

#[test]
fn text_is_encoded_as_by_transformers() {
    let encoder = text_encoder(&model());
    assert_eq!((encoder.positions(), encoder.width(), encoder.vocabulary()), (77, 32, 49408));
    for clip_skip in [1, 2] {
        let hidden = encoder.hidden_state(&reference("tokens"), clip_skip).unwrap();
        assert_close(&format!("clip.{clip_skip}"), &hidden);
    }
    for clip_skip in [0, 4] {
        let error = encoder.hidden_state(&reference("tokens"), clip_skip).unwrap_err();
        assert_eq!(error.to_string(), format!("a clip skip of {clip_skip}, the text encoder takes 1 to 3"));
    }
}

#[test]
fn text_encoders_in_the_spelling_of_nai_are_read() {
    let nai = changed(|key, tensor| Some((key.replace("transformer.text_model.", "transformer."), tensor.clone())));
    assert_close("clip.1", &text_encoder(&nai).hidden_state(&reference("tokens"), 1).unwrap());
}

#[test]
fn noise_is_predicted_as_by_diffusers() {
    let unet = unet(&model()).unwrap();
    assert_eq!(unet.context_width(), 32);
    let prompt = unet.prepare(&reference("clip.1")).unwrap();
    let x = input("square", &[2, 4, 16, 16], 2.0);
    for time in [999.0, 500.0, 1.0, 867.33] {
        assert_close(&format!("unet.square.{time:?}"), &unet.forward(&x, time, &prompt).unwrap());
    }
    let x = input("wide", &[2, 4, 8, 24], 2.0);
    assert_close("unet.wide.867.33", &unet.forward(&x, 867.33, &prompt).unwrap());
}

#[test]
fn images_are_decoded_and_encoded_as_by_diffusers() {
    let state_dict = model();
    let autoencoder = Vae::load(builder(&state_dict), &state_dict, &Engine::Candle).unwrap();
    assert_eq!((autoencoder.latent_channels(), autoencoder.scale()), (4, 8));
    assert_close("decode", &autoencoder.decode(&input("latent", &[1, 4, 8, 6], 4.0)).unwrap());
    let (mean, logvar) = autoencoder.encode(&input("image", &[1, 3, 64, 48], 1.0)).unwrap();
    assert_close("encode.mean", &mean);
    assert_close("encode.logvar", &logvar);
}

#[test]
fn attention_of_autoencoders_may_be_linear_layers() {
    let linear = changed(|key, tensor| {
        let dims = tensor.shape().dims();
        let matrix = key.contains(".attn_1.") && dims.len() == 4;
        let tensor =
            if matrix { tensor.clone().reshape(Shape::new(&dims[..2]).unwrap()).unwrap() } else { tensor.clone() };
        Some((key.to_owned(), tensor))
    });
    let autoencoder = Vae::load(builder(&linear), &linear, &Engine::Candle).unwrap();
    assert_close("decode", &autoencoder.decode(&input("latent", &[1, 4, 8, 6], 4.0)).unwrap());
}

/// What is not f32 on the CPU goes another way through every layer, as do other devices.
#[test]
fn the_same_comes_out_of_candles_own_operations() {
    let state_dict = model();
    let double = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    let encoder = TextEncoder::load(builder_of(&state_dict, DType::F64), &state_dict, &Engine::Candle).unwrap();
    assert_close("clip.2", &encoder.hidden_state(&reference("tokens"), 2).unwrap());
    let unet = Unet::load(builder_of(&state_dict, DType::F64), &state_dict, &Engine::Candle).unwrap();
    let prompt = unet.prepare(&double(&reference("clip.1"))).unwrap();
    let x = double(&input("wide", &[2, 4, 8, 24], 2.0));
    assert_close("unet.wide.867.33", &unet.forward(&x, 867.33, &prompt).unwrap());
    let autoencoder = Vae::load(builder_of(&state_dict, DType::F64), &state_dict, &Engine::Candle).unwrap();
    assert_close("decode", &autoencoder.decode(&double(&input("latent", &[1, 4, 8, 6], 4.0))).unwrap());
    let (mean, _) = autoencoder.encode(&double(&input("image", &[1, 3, 64, 48], 1.0))).unwrap();
    assert_close("encode.mean", &mean);
}

#[test]
fn models_that_are_told_more_are_refused_with_the_reason() {
    for (channels, reason) in [
        (9, "an inpainting model: beside the latent it takes a mask and the image under it (9 channels)"),
        (8, "an instruct-pix2pix model: beside the latent it takes an image to edit (8 channels)"),
    ] {
        let conv_in = "model.diffusion_model.input_blocks.0.0.weight";
        let other = changed(|key, tensor| {
            let tensor = if key == conv_in { owned(key, &[32, channels, 3, 3]) } else { tensor.clone() };
            Some((key.to_owned(), tensor))
        });
        let error = unet(&other).err().unwrap();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(error.to_string(), format!("{reason}; from a prompt alone it cannot draw"));
    }
}

#[test]
fn other_architectures_are_refused() {
    let linear = changed(|key, tensor| {
        let dims = tensor.shape().dims();
        let matrix = key.contains(".proj_in.") && dims.len() == 4;
        let tensor =
            if matrix { tensor.clone().reshape(Shape::new(&dims[..2]).unwrap()).unwrap() } else { tensor.clone() };
        Some((key.to_owned(), tensor))
    });
    let error = unet(&linear).err().unwrap();
    assert_eq!(error.to_string(), "the UNet is that of SD v2; only SD v1 can be rendered");
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
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
fn an_observer_is_shown_every_layer_in_order() {
    let names = Arc::new(Names::default());
    let mut unet = unet(&model()).unwrap();
    unet.observe(Trace::to(Arc::clone(&names) as Arc<dyn Observer>));
    let prompt = unet.prepare(&reference("clip.1")).unwrap();
    unet.forward(&input("wide", &[2, 4, 8, 24], 2.0), 1.0, &prompt).unwrap();
    let seen = names.0.lock().unwrap();
    let layers = ["time_embed", "input_blocks.0.0", "input_blocks.1.0", "input_blocks.1.1", "input_blocks.2.0"];
    for (found, expected) in seen.iter().zip(layers) {
        assert_eq!(found, &format!("model.diffusion_model.{expected}"));
    }
    assert_eq!(seen.last().unwrap(), "model.diffusion_model.out");
}

/// `fixtures/render/make_odd.py` says how the reference came about.
#[test]
fn a_latent_that_cannot_be_halved_is_drawn_as_by_webui() {
    let unet = unet(&model()).unwrap();
    let prompt = unet.prepare(&input("context", &[2, 77, 32], 1.0)).unwrap();
    let found = unet.forward(&input("odd", &[2, 4, 13, 11], 2.0), 500.0, &prompt).unwrap();
    References::open(&fixture("odd.safetensors")).assert_close("unet.odd", &found);
}

#[test]
fn a_lone_prompt_is_refused() {
    let unet = unet(&model()).unwrap();
    let prompt = unet.prepare(&reference("clip.1")).unwrap();
    let error = unet.forward(&input("one", &[1, 4, 8, 8], 1.0), 1.0, &prompt).unwrap_err();
    assert_eq!(error.to_string(), "1 latents, but 2 prompts");
}

/// Of a model in the sizes of SD v1, which `make.py --full FOLDER` makes:
/// `RENDER_FULL=FOLDER cargo test --release --test render_models -- --ignored`.
#[test]
#[ignore = "needs a model of 4.3 GB, and minutes without optimisation"]
fn a_model_in_full_size_computes_what_diffusers_does() {
    let folder = PathBuf::from(std::env::var_os("RENDER_FULL").unwrap());
    let references = References::open(&folder.join("sd1-render.references.safetensors"));
    let state_dict = Arc::new(format::open(folder.join("sd1-render.safetensors")).unwrap().state_dict);

    let encoder = text_encoder(&state_dict);
    for clip_skip in [1, 2] {
        let hidden = encoder.hidden_state(&references.get("tokens"), clip_skip).unwrap();
        references.assert_close(&format!("clip.{clip_skip}"), &hidden);
    }
    let autoencoder = Vae::load(builder(&state_dict), &state_dict, &Engine::Candle).unwrap();
    references.assert_close("decode", &autoencoder.decode(&input("latent", &[1, 4, 24, 18], 4.0)).unwrap());
    let (mean, logvar) = autoencoder.encode(&input("image", &[1, 3, 192, 144], 1.0)).unwrap();
    references.assert_close("encode.mean", &mean);
    references.assert_close("encode.logvar", &logvar);

    let unet = unet(&state_dict).unwrap();
    let prompt = unet.prepare(&references.get("clip.1")).unwrap();
    let x = input("square", &[2, 4, 48, 48], 2.0);
    for time in [999.0, 500.0, 1.0, 867.33] {
        references.assert_close(&format!("unet.square.{time:?}"), &unet.forward(&x, time, &prompt).unwrap());
    }
    let x = input("wide", &[2, 4, 24, 72], 2.0);
    references.assert_close("unet.wide.867.33", &unet.forward(&x, 867.33, &prompt).unwrap());
}
