//! Compares the samplers with those of k-diffusion. `fixtures/render/make_samplers.py` generates the references.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_render::sampling::{
    Generator, NoiseSchedule, NoiseSource, Sampler, SamplerContext, ScheduleType, sample,
};

const SHAPE: [usize; 4] = [1, 4, 4, 4];
const SEED: u64 = 1234;

/// The same function as `predict` in `make_samplers.py`.
fn predict(x: &Tensor, time: f64) -> Result<Tensor> {
    let seen = x.affine(1.0, time / 300.0).unwrap().sin().unwrap();
    Ok((x.affine(0.3, 0.0).unwrap() + seen.affine(0.5, 0.0).unwrap()).unwrap())
}

struct Run {
    latent: Vec<f32>,
    calls: usize,
    watched: usize,
}

fn run(sampler: Sampler, schedule: ScheduleType, steps: usize) -> Run {
    let mut generator = Generator::new(NoiseSource::Cpu, SEED);
    let mut draw = || Ok(Tensor::from_vec(generator.normal(64), &SHAPE, &Device::Cpu).unwrap());
    let noise = draw().unwrap();
    let (mut calls, mut watched) = (0, 0);
    let noise_schedule = NoiseSchedule::stable_diffusion();
    let mut counted = |x: &Tensor, time: f64| {
        calls += 1;
        predict(x, time)
    };
    let mut watch = |step: usize, _: &Tensor| {
        assert_eq!(step, watched);
        watched += 1;
        Ok(())
    };
    let mut context = SamplerContext {
        noise_schedule: &noise_schedule,
        schedule,
        steps,
        predict: &mut counted,
        draw: &mut draw,
        watch: &mut watch,
    };
    let latent = sample(sampler, &noise, &mut context).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    Run { latent, calls, watched }
}

#[test]
fn follows_the_trajectory_of_k_diffusion() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/render/samplers.json");
    let golden: BTreeMap<String, Vec<f64>> = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let mut tested = Vec::new();
    for (name, expected) in golden {
        let (name, steps) = name.rsplit_once(' ').unwrap();
        let (sampler, schedule) = Sampler::from_name(name).unwrap();
        let found = run(sampler, schedule.unwrap_or(ScheduleType::Uniform), steps.parse().unwrap()).latent;
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(&expected).map(|(found, it)| f64::from(*found) - it));
        let relative = difference / norm(&mut expected.iter().copied());
        assert!(relative < 2e-6, "{name}, {steps} steps: {relative:e}");
        tested.push(sampler);
    }
    let missing: Vec<_> = Sampler::ALL.iter().filter(|sampler| !tested.contains(sampler)).collect();
    assert!(missing.is_empty(), "no reference for {missing:?}");
}

#[test]
fn calls_the_model_as_often_as_announced() {
    let noise_schedule = NoiseSchedule::stable_diffusion();
    for &sampler in Sampler::ALL {
        for steps in [3, 8, 20, 30] {
            let run = run(sampler, ScheduleType::Uniform, steps);
            assert_eq!(run.calls, sampler.calls(&noise_schedule, steps), "{}, {steps} steps", sampler.name());
            let made = if sampler == Sampler::Ddim { run.calls } else { steps };
            assert_eq!(run.watched, made);
        }
    }
    assert_eq!(Sampler::Ddim.calls(&noise_schedule, 20), 19);
    assert_eq!(Sampler::Ddim.calls(&noise_schedule, 30), 30);
}

#[test]
fn accepts_old_and_new_webui_names() {
    for &sampler in Sampler::ALL {
        assert_eq!(Sampler::from_name(sampler.name()), Some((sampler, None)));
    }
    assert_eq!(Sampler::from_name("dpm++ 2m karras"), Some((Sampler::Dpmpp2m, Some(ScheduleType::Karras))));
    assert_eq!(Sampler::from_name("DDIM Karras"), None);
    assert_eq!(Sampler::from_name("PLMS"), None);
}
