//! Compares the samplers with those of WebUI and k-diffusion. `fixtures/render/make_samplers.py` generates the references.

use candle_core::{Device, Tensor};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::LazyTensor;
use trinart_ckpt_render::checks::relative_distance;
use trinart_ckpt_render::sampling::{
    BrownianTree, Denoiser, Generator, LevelTuning, NoiseSchedule, NoiseSource, Prediction, Sampler, SamplerContext,
    SamplerTuning, ScheduleType, sample,
};
use trinart_ckpt_render::settings::GuidanceSkips;

use crate::tiny::fixture;

const SHAPE: [usize; 4] = [1, 4, 2, 2];
const SEED: u64 = 1234;
const CFG: f64 = 2.5;

fn references() -> StateDict {
    StoredCheckpoint::open(fixture("samplers.safetensors")).unwrap().state_dict().clone()
}

fn floats(tensor: &LazyTensor) -> Vec<f32> {
    tensor.to_bytes().unwrap().chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().unwrap())).collect()
}

/// The same function as `predict` in `make_samplers.py`.
fn predict_for(x: &Tensor, time: f64, prompt: f64) -> Tensor {
    let seen = x.affine(1.0, time / 300.0 + prompt).unwrap().sin().unwrap();
    (x.affine(0.3, 0.0).unwrap() + seen.affine(0.5, 0.0).unwrap()).unwrap()
}

fn predict(x: &Tensor, time: f64, cfg: f64) -> Prediction {
    let (prompt, negative) = (predict_for(x, time, 1.0), predict_for(x, time, 0.0));
    let guided = ((prompt - &negative).unwrap().affine(cfg, 0.0).unwrap() + &negative).unwrap();
    Prediction { guided, negative: Some(negative) }
}

struct Run {
    latent: Vec<f32>,
    calls: usize,
    watched: usize,
}

fn run(sampler: Sampler, schedule: ScheduleType, steps: usize) -> Run {
    run_tuned(sampler, schedule, steps, SamplerTuning::default(), LevelTuning::default(), GuidanceSkips::default())
}

fn run_tuned(
    sampler: Sampler,
    schedule: ScheduleType,
    steps: usize,
    tuning: SamplerTuning,
    levels: LevelTuning,
    skips: GuidanceSkips,
) -> Run {
    let mut generator = Generator::new(NoiseSource::Cpu, SEED);
    let count = SHAPE.iter().product();
    let mut draw = || Ok(Tensor::from_vec(generator.normal(count), &SHAPE, &Device::Cpu).unwrap());
    let noise = draw().unwrap();
    let (mut calls, mut watched) = (0, 0);
    let noise_schedule = NoiseSchedule::stable_diffusion().with_tuning(levels);
    let mut counted = |x: &Tensor, time: f64| -> Result<Prediction> {
        // For samplers over times, WebUI takes the time for the noise level.
        let sigma = if sampler.has_schedule() { noise_schedule.sigma(time) } else { time };
        let skips = skips.skips(calls, sampler.prompt_steps(steps), sigma);
        calls += 1;
        Ok(match skips {
            true => Prediction { negative: Some(predict_for(x, time, 1.0)), ..predict(x, time, 1.0) },
            false => predict(x, time, CFG / sampler.cfg_divisor()),
        })
    };
    let mut watch = |step: usize, _: &Tensor| {
        assert_eq!(step, watched);
        watched += 1;
        Ok(())
    };
    let mut context = SamplerContext {
        noise_schedule: &noise_schedule,
        denoiser: Denoiser::Epsilon,
        schedule,
        steps,
        tuning,
        source: NoiseSource::Cpu,
        seed: SEED,
        predict: &mut counted,
        draw: &mut draw,
        watch: &mut watch,
    };
    let latent = sample(sampler, &noise, &mut context).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    Run { latent, calls, watched }
}

/// "Euler a, Karras, 20" as sampler, schedule type and steps.
fn parse(name: &str) -> Option<(Sampler, ScheduleType, usize)> {
    let [sampler, schedule, steps] = name.split(", ").collect::<Vec<_>>()[..] else { return None };
    let (sampler, _) = Sampler::from_name(sampler).unwrap();
    let schedule = match schedule {
        "Automatic" => sampler.automatic_schedule(),
        _ => ScheduleType::from_name(schedule).unwrap(),
    };
    Some((sampler, schedule, steps.parse().unwrap()))
}

#[test]
fn samples_the_latents_of_webui() {
    let mut tested = Vec::new();
    let mut failed = Vec::new();
    for (name, expected) in references().iter() {
        let Some((sampler, schedule, steps)) = parse(name) else { continue };
        let expected = floats(expected);
        let found = run(sampler, schedule, steps).latent;
        let relative = relative_distance(&expected, &found);
        if relative > 3e-5 {
            failed.push(format!("{name}: {relative:e}"));
        }
        tested.push((sampler, schedule));
    }
    assert!(failed.is_empty(), "{} latents differ:\n{}", failed.len(), failed.join("\n"));
    for &sampler in Sampler::ALL {
        let schedules = if sampler.has_schedule() { ScheduleType::ALL } else { &[ScheduleType::Uniform][..] };
        for &schedule in schedules {
            assert!(tested.contains(&(sampler, schedule)), "no reference for {sampler:?} with {schedule:?}");
        }
    }
}

/// `make_sampler_options.py` generates the references: latents by "Euler; s_churn=10, s_tmin=1".
#[test]
fn follows_the_options_of_samplers_like_webui() {
    let references = StoredCheckpoint::open(fixture("sampler-options.safetensors")).unwrap().state_dict().clone();
    let (mut tested, mut failed) = (0, Vec::new());
    for (name, expected) in references.iter() {
        let (run, options) = name.split_once("; ").unwrap();
        let (sampler, schedule, steps) = parse(run).unwrap();
        let (mut tuning, mut levels) = (SamplerTuning::default(), LevelTuning::default());
        let mut skips = GuidanceSkips::default();
        for option in options.split(", ") {
            let (name, value) = option.split_once('=').unwrap();
            let value: f64 = value.parse().unwrap();
            match name {
                "eta" => tuning.eta = Some(value),
                "s_churn" => tuning.churn = value,
                "s_tmin" => tuning.churned.0 = value,
                "s_tmax" => tuning.churned.1 = value,
                "s_noise" => tuning.noise = value,
                "sgm_noise_multiplier" => tuning.sgm_noise_multiplier = value == 1.0,
                "sigma_min" => levels.least = Some(value),
                "sigma_max" => levels.most = Some(value),
                "rho" => levels.rho = Some(value),
                "always_discard_next_to_last_sigma" => levels.discards_penultimate = value == 1.0,
                "s_min_uncond" => skips.below = value,
                "s_min_uncond_all" => skips.all_below = value == 1.0,
                "skip_early_cond" => skips.early = value,
                "beta_dist_alpha" => levels.beta.0 = value,
                "beta_dist_beta" => levels.beta.1 = value,
                _ => panic!("{name}"),
            }
        }
        let expected = floats(expected);
        let relative = relative_distance(&expected, &run_tuned(sampler, schedule, steps, tuning, levels, skips).latent);
        if relative > 3e-5 {
            failed.push(format!("{name}: {relative:e}"));
        }
        tested += 1;
    }
    assert!(failed.is_empty(), "{} of {tested} latents differ:\n{}", failed.len(), failed.join("\n"));
    assert!(tested > 200);
}

#[test]
fn spaces_the_noise_levels_like_webui() {
    let schedule = NoiseSchedule::stable_diffusion();
    let lcm = schedule.for_lcm();
    let (mut tested, mut values, mut unequal) = (0, 0, 0);
    for (name, expected) in references().iter() {
        let Some((prefix, rest)) = name.split_once("sigmas ") else { continue };
        let (name, steps) = rest.split_once(", ").unwrap();
        let levels = if prefix.is_empty() { &schedule } else { &lcm };
        let found = levels.sigmas(ScheduleType::from_name(name).unwrap(), steps.parse().unwrap());
        let expected = floats(expected);
        assert_eq!(found.len(), expected.len(), "{prefix}{name}, {steps} steps");
        for (found, expected) in found.iter().zip(&expected) {
            let close = (found - expected).abs() <= 5e-7 * expected.abs();
            assert!(close, "{prefix}{name}, {steps} steps: {found} instead of {expected}");
            values += 1;
            unequal += usize::from(found != expected);
        }
        tested += 1;
    }
    assert_eq!(tested, 2 * ScheduleType::ALL.len() * 9);
    println!("{unequal} of {values} noise levels differ in the last bit");
}

#[test]
fn follows_the_brownian_path_of_torchsde() {
    let (least, most) = (0.029_167_5, 14.614_642);
    let tree = BrownianTree::new(NoiseSource::Cpu, SEED, least, most, SHAPE.iter().product());
    let mut tested = 0;
    for (name, expected) in references().iter() {
        let Some(times) = name.strip_prefix("brownian ") else { continue };
        let (from, to) = times.split_once(", ").unwrap();
        let found = tree.noise(from.parse().unwrap(), to.parse().unwrap());
        for (found, expected) in found.iter().zip(floats(expected)) {
            assert!((found - expected).abs() < 2e-6 * expected.abs().max(1.0), "{name}: {found} instead of {expected}");
        }
        tested += 1;
    }
    assert_eq!(tested, 6);
}

#[test]
fn calls_the_model_as_often_as_announced() {
    let noise_schedule = NoiseSchedule::stable_diffusion();
    for &sampler in Sampler::ALL {
        let schedules = if sampler.has_schedule() { ScheduleType::ALL } else { &[ScheduleType::Uniform][..] };
        for &schedule in schedules {
            for steps in [3, 20, 37] {
                let run = run(sampler, schedule, steps);
                let announced = sampler.calls(&noise_schedule, schedule, steps);
                assert!(run.watched <= run.calls);
                if sampler == Sampler::DpmAdaptive {
                    assert_eq!((announced, run.calls % 3), (None, 0));
                } else {
                    assert_eq!(announced, Some(run.calls), "{sampler:?}, {schedule:?}, {steps} steps");
                }
            }
        }
    }
    let calls = |sampler: Sampler, steps| sampler.calls(&noise_schedule, ScheduleType::Karras, steps).unwrap();
    assert_eq!([calls(Sampler::Ddim, 20), calls(Sampler::Ddim, 30)], [19, 30]);
    // WebUI's UniPC makes as many calls as DDIM has times.
    assert_eq!([12, 15, 20, 24, 28, 30].map(|steps| calls(Sampler::UniPc, steps)), [13, 16, 20, 25, 29, 31]);
    assert_eq!([calls(Sampler::Heun, 20), calls(Sampler::Dpm2, 20), calls(Sampler::DpmFast, 20)], [39, 39, 20]);
    assert_eq!([calls(Sampler::Plms, 20), calls(Sampler::Restart, 20), calls(Sampler::Lcm, 20)], [20, 39, 20]);
}

#[test]
fn accepts_old_and_new_webui_names() {
    for &sampler in Sampler::ALL {
        assert_eq!(Sampler::from_name(sampler.name()), Some((sampler, None)));
        for &schedule in ScheduleType::ALL.iter().filter(|_| sampler.has_schedule()) {
            let name = format!("{} {}", sampler.name().to_uppercase(), schedule.name());
            assert_eq!(Sampler::from_name(&name), Some((sampler, Some(schedule))), "{name}");
        }
    }
    for (name, sampler, schedule) in [
        ("dpm++ 2m karras", Sampler::Dpmpp2m, Some(ScheduleType::Karras)),
        ("DPM++ 2M SDE Heun Exponential", Sampler::Dpmpp2mSdeHeun, Some(ScheduleType::Exponential)),
        ("Euler SGMUniform", Sampler::Euler, Some(ScheduleType::SgmUniform)),
        ("Euler a sgm_uniform", Sampler::EulerA, Some(ScheduleType::SgmUniform)),
        ("k_euler_a", Sampler::EulerA, None),
        ("k_euler_ancestral", Sampler::EulerA, None),
        ("k_dpm_2_a", Sampler::Dpm2A, None),
        ("k_dpm_2_a_ka", Sampler::Dpm2A, Some(ScheduleType::Karras)),
        ("k_dpmpp_3m_sde_exp", Sampler::Dpmpp3mSde, Some(ScheduleType::Exponential)),
        ("plms", Sampler::Plms, None),
    ] {
        assert_eq!(Sampler::from_name(name), Some((sampler, schedule)), "{name}");
    }
    for unknown in ["DDIM Karras", "Karras", "Euler b", "Euler a Quadratic", "k_euler_kara", ""] {
        assert_eq!(Sampler::from_name(unknown), None, "{unknown}");
    }
}
