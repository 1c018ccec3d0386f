//! Compares models and whole pictures computed by the CUDA kernels with results of diffusers and transformers, and with
//! this crate's layers for the CPU. The kernels run on the emulated GPU and, with the feature `cuda`, on a GPU if there is
//! one.

#[path = "../emulation/emulated.rs"]
mod emulation;

use std::sync::Arc;

use crate::tiny::{fixture, model, values};
use candle_core::{DType, Device, Tensor};
use emulation::{ADVERSE, Emulated};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::error::Error;
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};
use trinart_ckpt_render::Engine;
use trinart_ckpt_render::checks::{Verdict, relative_distance};
use trinart_ckpt_render::kernels::{Accelerator, Kernels, Launch, Recording, address, address_mut};
use trinart_ckpt_render::networks::{TextEncoder, Unet, Vae};
use trinart_ckpt_render::observer::Trace;
use trinart_ckpt_render::picture::compare;
use trinart_ckpt_render::pipeline::{Model, Rendered, render};
use trinart_ckpt_render::sampling::{Sampler, ScheduleType};
use trinart_ckpt_render::settings::Settings;
use trinart_ckpt_render::weight_flaws::WeightFlaw;
use trinart_ckpt_render::weights::{self, WeightLoader};

/// The name of the emulated GPU. It is slow, so tests do less work on it.
const EMULATED: &str = "emulated";

fn accelerators() -> Vec<(String, Arc<dyn Accelerator>)> {
    let mut accelerators: Vec<(String, Arc<dyn Accelerator>)> = Vec::new();
    if let Some(accelerator) = Emulated::new(ADVERSE, 8) {
        accelerators.push((EMULATED.to_owned(), accelerator));
    }
    #[cfg(feature = "cuda")]
    match trinart_ckpt_render::cuda::Card::open(0) {
        Ok(card) => accelerators.push((card.name(), Arc::new(card))),
        Err(error) => emulation::print_gpu_skipped(&error),
    }
    accelerators
}

fn reference(name: &str) -> Tensor {
    let references = StoredCheckpoint::open(fixture("tiny-sd1.safetensors")).unwrap().state_dict().clone();
    let lazy = references.get(name).unwrap();
    let dtype = if lazy.dtype() == Dtype::I64 { DType::U32 } else { DType::F32 };
    weights::tensor(lazy, dtype, &Device::Cpu).unwrap()
}

fn input(name: &str, shape: &[u64], scale: f64) -> Tensor {
    let dims: Vec<usize> = shape.iter().map(|&dim| dim as usize).collect();
    let drawn = Tensor::from_vec(values(&format!("input.{name}"), shape), dims, &Device::Cpu);
    (drawn.unwrap() * scale).unwrap()
}

#[track_caller]
fn assert_close(name: &str, found: &Tensor, tolerance: f64) {
    let expected = reference(name);
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let list = |it: &Tensor| it.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let relative = relative_distance(&list(&expected), &list(found));
    println!("{name}: {relative:.2e}");
    assert!(relative < tolerance, "{name}: {relative:.2e}");
}

#[test]
fn models_match_diffusers() {
    // Every layer rounds to the dtype. BF16 has three fewer bits than F16.
    for (name, accelerator) in accelerators() {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 1e-2), (DType::BF16, 6e-2)] {
            println!("{name}, {dtype:?}");
            let kernels = Kernels::new(Arc::clone(&accelerator), dtype).unwrap();
            let (state_dict, engine) = (model(), Engine::Kernels(kernels.clone()));
            let weights = || WeightLoader::new(Arc::clone(&state_dict), &engine);

            let encoder = TextEncoder::load(&weights()).unwrap();
            for clip_skip in [1, 2] {
                let hidden = encoder.hidden_state(&reference("tokens"), clip_skip).unwrap();
                assert_close(&format!("clip.{clip_skip}"), &hidden, tolerance);
            }

            let unet = Unet::load(&weights()).unwrap();
            let prompt = unet.prepare(&reference("clip.1").into()).unwrap();
            let wide = input("wide", &[2, 4, 8, 24], 2.0);
            assert_close("unet.wide.867.33", &unet.forward(&wide, 867.33, &prompt).unwrap(), tolerance);
            let square = input("square", &[2, 4, 16, 16], 2.0);
            // Three times on a GPU, because the later calls replay the recorded step.
            let times = if name == EMULATED { &[999.0][..] } else { &[1.0, 500.0, 999.0] };
            for &time in times.iter().filter(|_| dtype != DType::BF16 || name != EMULATED) {
                let found = unet.forward(&square, time, &prompt).unwrap();
                assert_close(&format!("unet.square.{time:?}"), &found, tolerance);
            }

            let vae = Vae::load(&weights()).unwrap();
            let decoded = vae.decode(&input("latent", &[1, 4, 8, 6], 4.0)).unwrap();
            assert_close("decode", &decoded, tolerance);
            let (mean, logvar) = vae.encode(&input("image", &[1, 3, 64, 48], 1.0)).unwrap();
            assert_close("encode.mean", &mean, tolerance);
            assert_close("encode.logvar", &logvar, tolerance);
        }
    }
}

fn settings(sampler: Sampler, steps: usize, dtype: Dtype) -> Settings {
    let mut settings = Settings::default();
    settings.prompt = "1girl, cathedral".into();
    settings.negative = "bad hands".into();
    settings.steps = steps;
    settings.sampler = sampler;
    settings.schedule = ScheduleType::Karras;
    settings.seed = 1234;
    (settings.width, settings.height) = (64, 64);
    settings.dtype = dtype;
    settings
}

fn rendered(state_dict: &Arc<StateDict>, settings: &Settings, accelerator: Option<&Arc<dyn Accelerator>>) -> Rendered {
    render(&Model::new(Arc::clone(state_dict)).unwrap(), settings, accelerator, &Trace::default(), &NoProgress).unwrap()
}

#[test]
fn pictures_match_the_cpu() {
    for (name, accelerator) in accelerators() {
        let (samplers, steps) = match name == EMULATED {
            true => (&[Sampler::Dpmpp2m][..], 2),
            false => (&[Sampler::Euler, Sampler::Dpmpp2m, Sampler::Ddim, Sampler::UniPc][..], 20),
        };
        for &sampler in samplers {
            // Three prompts at a time.
            let settings = |dtype| {
                let mut settings = settings(sampler, steps, dtype);
                settings.prompt = "1girl AND night:0.4".into();
                settings
            };
            let expected = rendered(&model(), &settings(Dtype::F32), None);
            for (dtype, decibels) in [(Dtype::F32, 50.0), (Dtype::F16, 35.0)] {
                let found = rendered(&model(), &settings(dtype), Some(&accelerator));
                let comparison = compare(&found.picture, &expected.picture).unwrap();
                println!("{name}, {sampler:?} in {dtype}: {comparison:?}");
                assert!(comparison.psnr.is_none_or(|psnr| psnr > decibels), "{name}, {dtype}: {comparison:?}");
            }
        }
        let [once, again] =
            [(); 2].map(|()| rendered(&model(), &settings(Sampler::EulerA, 1, Dtype::F16), Some(&accelerator)));
        assert_eq!((once.picture, once.latent), (again.picture, again.latent), "{name}");
    }
}

/// The model with `change` applied to the values of one tensor.
fn with(key: &str, change: impl Fn(f32) -> f32) -> Arc<StateDict> {
    let mut state_dict = StateDict::new();
    for (name, tensor) in model().iter() {
        let tensor = if name == key {
            let bytes = tensor.to_bytes().unwrap();
            let bytes: Vec<u8> = bytes
                .chunks_exact(4)
                .flat_map(|it| change(f32::from_le_bytes(it.try_into().unwrap())).to_le_bytes())
                .collect();
            let shape = Shape::new(tensor.shape().dims()).unwrap();
            LazyTensor::owned(Dtype::F32, shape, bytes).unwrap()
        } else {
            tensor.clone()
        };
        state_dict.insert(name, tensor).unwrap();
    }
    Arc::new(state_dict)
}

#[test]
fn decodes_in_f32_if_the_vae_overflows_f16() {
    let large = with("first_stage_model.decoder.conv_in.weight", |value| value * 1e5);
    let settings = settings(Sampler::Euler, 1, Dtype::F16);
    let mut single = settings.clone();
    single.dtype = Dtype::F32;
    let expected = rendered(&large, &single, None);
    for (name, accelerator) in accelerators() {
        let found = rendered(&large, &settings, Some(&accelerator));
        let check = found.checks.iter().find(|check| check.name == "half precision").unwrap();
        assert_eq!(check.verdict, Verdict::Repaired, "{name}: {check:?}");
        let comparison = compare(&found.picture, &expected.picture).unwrap();
        assert!(comparison.psnr.is_none_or(|psnr| psnr > 35.0), "{name}: {comparison:?}");
    }
}

#[test]
fn finds_the_layer_that_produces_nan() {
    let unet = "model.diffusion_model.input_blocks.4.0.in_layers.2.bias";
    let decoder = "first_stage_model.decoder.up.1.block.0.conv1.bias";
    for (name, accelerator) in accelerators() {
        let settings = settings(Sampler::Euler, 1, Dtype::F16);
        for (key, check, layer) in [
            (unet, "UNet finite", "model.diffusion_model.input_blocks.4.0"),
            (decoder, "decoder finite", "first_stage_model.decoder.up.1.block.0"),
        ] {
            let found = rendered(&with(key, |_| f32::NAN), &settings, Some(&accelerator));
            let check = found.checks.iter().find(|it| it.name == check).unwrap();
            assert_eq!(check.verdict, Verdict::Fail, "{name}: {check:?}");
            assert!(check.found.contains(layer), "{name}: {check:?}");
        }
    }
}
