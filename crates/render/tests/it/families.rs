//! Compares narrow models of SDXL, SD v2 and the kinds of SD v1 that take an image with diffusers, transformers and
//! k-diffusion. `fixtures/render/make_families.py` generates the references.

use std::sync::Arc;

use crate::tiny::{fixture, of_family, values};
use candle_core::{DType, Device, Tensor};
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow, Shape};
use trinart_ckpt_formats::{Metadata, StoredCheckpoint};
use trinart_ckpt_models::quantization;
use trinart_ckpt_render::Engine;
use trinart_ckpt_render::checks::{Check, Verdict, relative_distance};
use trinart_ckpt_render::job::{Against, Device as JobDevice, RenderInput, RenderJob, RenderReport};
use trinart_ckpt_render::networks::{Conditioning, EncodeOptions, TextEncoders, Unet};
use trinart_ckpt_render::observer::Trace;
use trinart_ckpt_render::picture::{Picture, compare};
use trinart_ckpt_render::pipeline::{Model, Rendered, render};
use trinart_ckpt_render::prompt::{PromptRules, Timeline, Tokenizer, whole};
use trinart_ckpt_render::sampling::{NoiseSource, Sampler, ScheduleType};
use trinart_ckpt_render::settings::{RenderOptions, Settings};
use trinart_ckpt_render::weights::{WeightLoader, tensor};

const PROMPT: &str = "1girl, cathedral, looking at viewer";
const NEGATIVE: &str = "bad hands";

/// Families with text encoders and UNets of their own.
const FAMILIES: [&str; 5] = ["sdxl", "refiner", "sd2", "inpainting", "pix2pix"];

fn reference(name: &str) -> Tensor {
    let references = StoredCheckpoint::open(fixture("families.safetensors")).unwrap().state_dict().clone();
    let lazy = references.get(name).unwrap_or_else(|| panic!("no {name}"));
    let dtype = if lazy.dtype() == Dtype::U8 { DType::U8 } else { DType::F32 };
    tensor(lazy, dtype, &Device::Cpu).unwrap()
}

fn list(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

#[track_caller]
fn assert_close(name: &str, found: &Tensor, tolerance: f64) {
    let expected = reference(name);
    assert_eq!(found.elem_count(), expected.elem_count(), "{name}");
    let relative = relative_distance(&list(&expected), &list(found));
    println!("{name}: {relative:.2e}");
    assert!(relative < tolerance, "{name}: {relative:.2e}");
}

fn encoders(state_dict: &Arc<StateDict>) -> TextEncoders {
    TextEncoders::load(&WeightLoader::new(Arc::clone(state_dict), &Engine::Candle)).unwrap()
}

fn encode(encoders: &TextEncoders, text: &str, options: &EncodeOptions) -> Conditioning {
    let chunks = whole(text, &PromptRules::new(Timeline::new(1)), &Tokenizer::new().unwrap()).unwrap();
    encoders.encode(chunks.at(0), options).unwrap()
}

/// The prompt and the negative prompt, as a batch.
fn prompts(encoders: &TextEncoders) -> Conditioning {
    let options = EncodeOptions::new(64, 64);
    let both = [encode(encoders, PROMPT, &options), encode(encoders, NEGATIVE, &options.negative(false))];
    Conditioning::batch(&both.each_ref()).unwrap()
}

#[test]
fn encodes_text_and_predicts_like_diffusers() {
    for family in FAMILIES {
        let state_dict = Arc::new(of_family(family));
        let encoders = encoders(&state_dict);
        let prompts = prompts(&encoders);
        assert_close(&format!("{family}/context"), &prompts.context.narrow(0, 0, 1).unwrap(), 1e-5);
        if let Some(vector) = &prompts.vector {
            let pooled = vector.narrow(0, 0, 1).unwrap().narrow(1, 0, 128).unwrap().contiguous().unwrap();
            assert_close(&format!("{family}/pooled"), &pooled, 1e-5);
        }
        let unet = Unet::load(&WeightLoader::new(Arc::clone(&state_dict), &Engine::Candle)).unwrap();
        let shape = [2, unet.in_channels() as u64, 16, 8];
        let dims = shape.map(|dim| dim as usize);
        let x = Tensor::from_vec(values(&format!("input.{family}"), &shape), &dims, &Device::Cpu).unwrap();
        let prepared = unet.prepare(&prompts).unwrap();
        for time in [999.0, 433.7] {
            let found = unet.forward(&(&x * 2.0).unwrap(), time, &prepared).unwrap();
            assert_close(&format!("{family}/unet.{time:?}"), &found, 1e-5);
        }
    }
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.prompt = PROMPT.into();
    settings.negative = NEGATIVE.into();
    settings.sampler = Sampler::Euler;
    settings.schedule = ScheduleType::Karras;
    settings.rng = NoiseSource::Cpu;
    settings.seed = 1234;
    (settings.width, settings.height) = (64, 64);
    settings
}

/// A tensor that tells what a model predicts: its key and its values.
type Mark<'a> = (&'a str, &'a [f32]);

/// A model with marks.
fn with(family: &str, tensors: &[Mark<'_>]) -> Model {
    let mut state_dict = of_family(family);
    for (key, list) in tensors {
        let bytes = list.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let shape = Shape::new([list.len() as u64]).unwrap();
        state_dict.insert(*key, LazyTensor::owned(Dtype::F32, shape, bytes).unwrap()).unwrap();
    }
    Model::new(Arc::new(state_dict)).unwrap()
}

fn rendered(model: &Model, settings: &Settings) -> Rendered {
    render(model, settings, None, &Trace::default(), &NoProgress).unwrap()
}

#[track_caller]
fn assert_renders(name: &str, model: &Model, settings: &Settings) {
    let found = rendered(model, settings);
    let picture = reference(&format!("{name}/picture"));
    let (height, width, _) = picture.dims3().unwrap();
    let rgb = picture.flatten_all().unwrap().to_vec1().unwrap();
    let comparison = compare(&found.picture, &Picture { width, height, rgb }).unwrap();
    let relative = relative_distance(&list(&reference(&format!("{name}/latent"))), &found.latent);
    println!("{name}: latent {relative:.2e}, {comparison:?}");
    assert!(relative < 1e-3, "{name}: {relative:.2e}");
    assert!(comparison.max_difference <= 1 && comparison.psnr.is_none_or(|psnr| psnr > 60.0), "{name}: {comparison:?}");
}

#[test]
fn renders_the_pictures_of_k_diffusion() {
    let (mean, std) = (list(&reference("playground/mean")), list(&reference("playground/std")));
    let marks: [(&str, &str, &[Mark<'_>]); 7] = [
        ("sdxl", "sdxl", &[]),
        ("sdxl-v", "sdxl", &[("v_pred", &[])]),
        ("sdxl-v-zero", "sdxl", &[("v_pred", &[]), ("ztsnr", &[])]),
        ("cosxl", "sdxl", &[("edm_vpred.sigma_max", &[120.0]), ("edm_vpred.sigma_min", &[0.002])]),
        ("playground", "sdxl", &[("edm_mean", &mean), ("edm_std", &std)]),
        ("inpainting", "inpainting", &[]),
        ("sd2-v", "sd2", &[("v_pred", &[])]),
    ];
    for (name, family, marks) in marks {
        assert_renders(name, &with(family, marks), &settings());
    }
}

#[test]
fn renders_sdxl_with_zeros_for_an_empty_negative_prompt() {
    let mut settings = settings();
    settings.negative.clear();
    assert_renders("sdxl-no-negative", &with("sdxl", &[]), &settings);
}

/// SDXL with the refiner.
fn with_refiner() -> Model {
    let refiner = Model::new(Arc::new(of_family("refiner"))).unwrap();
    with("sdxl", &[]).with_refiner(refiner).unwrap()
}

#[test]
fn the_refiner_takes_over_when_it_does_in_webui() {
    let mut settings = settings();
    settings.refiner.at = 0.6;
    assert_renders("refined", &with_refiner(), &settings);
    let found = rendered(&with_refiner(), &settings);
    assert_eq!(check(&found, "refiner").verdict, Verdict::Pass);
    // 15 of 20 calls are 0.75 of the steps.
    settings.refiner.at = 0.75;
    settings.refiner.by_steps = true;
    let found = rendered(&with_refiner(), &settings);
    assert_eq!(check(&found, "refiner").found, "from call 16 of 20");
    settings.refiner.at = 1.0;
    let found = rendered(&with_refiner(), &settings);
    assert_eq!(check(&found, "refiner").verdict, Verdict::Warning);
}

#[test]
fn a_refiner_needs_the_latents_and_the_prediction_of_its_base() {
    let refiner = |family: &str, marks: &[Mark<'_>]| with("sdxl", &[]).with_refiner(with(family, marks)).map(|_| ());
    let error = refiner("sd2", &[]).unwrap_err().to_string();
    assert!(error.contains("their latents differ"), "{error}");
    let error = refiner("sdxl", &[("v_pred", &[])]).unwrap_err().to_string();
    assert!(error.contains("predicts v-prediction"), "{error}");
    assert!(refiner("sdxl", &[]).is_ok());
}

/// The settings of a render that only needs checks.
fn one_step() -> Settings {
    let mut settings = settings();
    settings.steps = 1;
    settings
}

fn check<'a>(rendered: &'a Rendered, name: &str) -> &'a Check {
    rendered.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Returns SDXL with the values of some tensors changed.
fn changed(change: impl Fn(&str, &mut Vec<f32>, &[u64])) -> StateDict {
    let mut state_dict = StateDict::new();
    for (key, lazy) in of_family("sdxl").iter() {
        let shape = lazy.shape().dims().to_vec();
        let mut list = values(key, &shape);
        change(key, &mut list, &shape);
        let bytes = list.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>();
        state_dict.insert(key, LazyTensor::owned(Dtype::F32, Shape::new(&*shape).unwrap(), bytes).unwrap()).unwrap();
    }
    state_dict
}

/// SDXL whose UNet answers with the latent that it gets: the first channels carry it and its negative to the end, where
/// SiLU(x) - SiLU(-x) = x.
fn predicting_its_input() -> StateDict {
    changed(|key, list, shape| {
        let at = |out: usize, input: usize| {
            (out * shape[1] as usize + input) * shape.get(2..).map_or(1, |it| it.iter().product()) as usize
        };
        match key.strip_prefix("model.diffusion_model.").unwrap_or_default() {
            "input_blocks.0.0.weight" => {
                for (out, sign) in (0..8).zip([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]) {
                    list[at(out, 0)..at(out + 1, 0)].fill(0.0);
                    list[at(out, out % 4) + 4] = sign;
                }
            }
            "output_blocks.8.0.skip_connection.weight" => {
                list.fill(0.0);
                let beside = (shape[1] - shape[0]) as usize;
                (0..shape[0] as usize).for_each(|channel| list[at(channel, beside + channel)] = 1.0);
            }
            "out.2.weight" => {
                list.fill(0.0);
                for channel in 0..4 {
                    list[at(channel, channel) + 4] = 1.0;
                    list[at(channel, channel + 4) + 4] = -1.0;
                }
            }
            "out.0.weight" => list.fill(1.0),
            "output_blocks.8.0.out_layers.3.weight"
            | "output_blocks.8.0.out_layers.3.bias"
            | "output_blocks.8.0.skip_connection.bias"
            | "input_blocks.0.0.bias"
            | "out.0.bias"
            | "out.2.bias" => list.fill(0.0),
            _ => {}
        }
    })
}

#[test]
fn names_the_cause_if_a_model_for_epsilon_is_marked_as_v() {
    let mut state_dict = predicting_its_input();
    let found = rendered(&Model::new(Arc::new(state_dict.clone())).unwrap(), &one_step());
    assert_eq!(check(&found, "noise").verdict, Verdict::Pass, "{:?}", check(&found, "noise"));
    state_dict.insert("v_pred", LazyTensor::owned(Dtype::F32, Shape::new([0]).unwrap(), Vec::new()).unwrap()).unwrap();
    let found = rendered(&Model::new(Arc::new(state_dict)).unwrap(), &one_step());
    let noise = check(&found, "noise");
    assert!(noise.verdict == Verdict::Fail && noise.found.contains("predicts epsilon"), "{noise:?}");
}

#[test]
fn another_vae_changes_the_picture_of_sdxl_but_not_the_latent() {
    let render = |state_dict| rendered(&Model::new(Arc::new(state_dict)).unwrap(), &one_step());
    let ours = render(of_family("sdxl"));
    let other = render(changed(|key, list, _| {
        if key.starts_with("first_stage_model.decoder.") {
            list.reverse();
        }
    }));
    assert!(ours.latent.iter().zip(&other.latent).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert_ne!(ours.picture, other.picture);
    assert!(check(&ours, "round trip").expected.contains("that of SD v1 has the same shapes"));
}

/// Compares renders of two files by the checks of `--against`.
fn compared(ours: StateDict, other: StateDict) -> RenderReport {
    let [ours, other] = [ours, other].map(|it| RenderInput::new("narrow.safetensors", Arc::new(it)));
    let options = RenderOptions::default().prompt(PROMPT).negative(NEGATIVE).seed(7).steps(1).size((64, 64));
    let job = RenderJob::new(ours).options(options).device(JobDevice::Cpu).jobs(1);
    job.against(Against::Checkpoint(other)).run(&NoProgress).unwrap()
}

fn named<'a>(report: &'a RenderReport, name: &str) -> Option<&'a Check> {
    report.checks.iter().find(|check| check.name == name)
}

#[test]
fn names_marks_as_the_cause_of_different_latents() {
    let marked = |marks: &[Mark<'_>]| (**with("sdxl", marks).state_dict()).clone();
    let cases: [(&[Mark<'_>], &str); 3] = [
        (&[("v_pred", &[])], "the UNet predicts epsilon (source: default) here, and v-prediction (source: key)"),
        (&[("v_pred", &[]), ("ztsnr", &[])], "zero terminal SNR only in the other checkpoint"),
        (&[("edm_vpred.sigma_max", &[120.0])], "largest sigma: none here, 120 in the other checkpoint"),
    ];
    for (marks, cause) in cases {
        let found = compared(of_family("sdxl"), marked(marks));
        let parameterization = named(&found, "parameterization").unwrap();
        assert!(parameterization.found.contains(cause), "{parameterization:?}");
        assert_eq!(named(&found, "latents").unwrap().verdict, Verdict::Info, "{cause}");
    }
    assert!(named(&compared(of_family("sdxl"), of_family("sdxl")), "parameterization").is_none());
}

#[test]
fn another_vae_may_change_the_latent_of_a_model_that_takes_an_image() {
    let mut other = StateDict::new();
    for (key, lazy) in of_family("inpainting").iter() {
        let is_changed = key == "first_stage_model.encoder.conv_in.bias";
        let bytes = [0.5_f32; 32].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let lazy = match is_changed {
            true => LazyTensor::owned(Dtype::F32, lazy.shape().clone(), bytes).unwrap(),
            false => lazy.clone(),
        };
        other.insert(key, lazy).unwrap();
    }
    let found = compared(of_family("inpainting"), other);
    assert!(!found.against.as_ref().unwrap().latent.as_ref().unwrap().identical);
    assert_eq!(named(&found, "latents").unwrap().verdict, Verdict::Info);
}

#[test]
fn finds_a_nan_in_the_second_text_encoder_of_sdxl() {
    let key = "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_fc.bias";
    let broken = changed(|name, list, _| {
        if name == key {
            list[0] = f32::NAN;
        }
    });
    let found = rendered(&Model::new(Arc::new(broken)).unwrap(), &one_step());
    assert_eq!(check(&found, "text finite").verdict, Verdict::Fail);
    assert!(check(&found, "weights finite").found.contains(key), "{:?}", check(&found, "weights finite"));
}

#[test]
fn refuses_the_refiner_alone_and_edm_without_noise_levels() {
    let render = |model: &Model, settings: &Settings| render(model, settings, None, &Trace::default(), &NoProgress);
    let refiner = Model::new(Arc::new(of_family("refiner"))).unwrap();
    let error = render(&refiner, &one_step()).unwrap_err().to_string();
    assert!(error.contains("cannot be rendered alone"), "{error}");
    let edm = with("sdxl", &[("edm_vpred.sigma_max", &[120.0])]);
    let mut settings = one_step();
    settings.sampler = Sampler::Ddim;
    let error = render(&edm, &settings).unwrap_err().to_string();
    assert!(error.contains("EDM models have none"), "{error}");
}

#[test]
fn weights_in_half_precision_render_like_their_values() {
    let cast = |dtype: Dtype| {
        let mut halves = StateDict::new();
        for (key, tensor) in of_family("sd2").iter() {
            let half = tensor.clone().cast(Dtype::F16, Overflow::Refuse).unwrap();
            halves.insert(key, half.cast(dtype, Overflow::Refuse).unwrap()).unwrap();
        }
        rendered(&Model::new(Arc::new(halves)).unwrap(), &one_step())
    };
    let (half, whole) = (cast(Dtype::F16), cast(Dtype::F32));
    assert_eq!((half.latent, half.picture), (whole.latent, whole.picture));
}

#[test]
fn scaled_fp8_weights_render_like_their_values() {
    const SCALE: f32 = 0.5;
    let floats = |list: Vec<f32>| list.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>();
    let (mut stored, mut plain) = (StateDict::new(), StateDict::new());
    for (key, lazy) in of_family("sdxl").iter() {
        let is_matrix = lazy.shape().dims().len() == 2 && key.ends_with(".weight");
        if !is_matrix || !key.starts_with("model.diffusion_model.") {
            stored.insert(key, lazy.clone()).unwrap();
            plain.insert(key, lazy.clone()).unwrap();
            continue;
        }
        let codes = lazy.clone().cast(Dtype::F8E4M3, Overflow::Refuse).unwrap();
        let whole = codes.clone().cast(Dtype::F32, Overflow::Refuse).unwrap().to_bytes().unwrap();
        let scaled = whole.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes) * SCALE).collect();
        let shape = lazy.shape().clone();
        plain.insert(key, LazyTensor::owned(Dtype::F32, shape, floats(scaled)).unwrap()).unwrap();
        stored.insert(key, codes).unwrap();
        let scale = LazyTensor::owned(Dtype::F32, Shape::new([1]).unwrap(), floats(vec![SCALE])).unwrap();
        stored.insert(key.replace(".weight", ".scale_weight"), scale).unwrap();
    }
    let values = quantization::values(&stored, &Metadata::new()).unwrap().unwrap();
    let render = |state_dict| rendered(&Model::new(Arc::new(state_dict)).unwrap(), &one_step());
    let (found, expected) = (render(values), render(plain));
    assert_eq!((found.latent, found.picture), (expected.latent, expected.picture));
}
