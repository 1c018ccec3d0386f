//! Compares whole renders with those of diffusers and transformers with WebUI's samplers. `fixtures/render/make_pictures.py`
//! generates the references: latents of a model with random weights, and latents and pictures of the trained model.

use std::sync::Arc;

use crate::tiny::{fixture, model};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_render::checks::relative_distance;
use trinart_ckpt_render::observer::Trace;
use trinart_ckpt_render::picture::{Picture, compare};
use trinart_ckpt_render::pipeline::{Model, render};
use trinart_ckpt_render::sampling::{NoiseSource, Sampler};
use trinart_ckpt_render::settings::Settings;

/// The settings of a reference, as in `make_pictures.py`.
fn settings(name: &str, [prompt, negative]: [&str; 2]) -> Settings {
    let [sampler, "Automatic", steps] = name.split(", ").collect::<Vec<_>>()[..] else { panic!("{name}") };
    let (sampler, _) = Sampler::from_name(sampler).unwrap();
    let mut settings = Settings::default();
    settings.prompt = prompt.into();
    settings.negative = negative.into();
    settings.steps = steps.parse().unwrap();
    settings.sampler = sampler;
    settings.schedule = sampler.automatic_schedule();
    settings.seed = 1234;
    settings.rng = NoiseSource::Cpu;
    (settings.width, settings.height) = (64, 64);
    settings
}

/// Renders with each sampler, and compares with the references in a file. Fails if a sampler has none.
fn compare_renders(file: &str, model: &Arc<StateDict>, texts: [&str; 2]) {
    let reference = StoredCheckpoint::open(fixture(file)).unwrap().state_dict().clone();
    let mut compared = Vec::new();
    for (key, latent) in reference.iter().filter(|(key, _)| key.starts_with("latent ")) {
        let name = key.strip_prefix("latent ").unwrap();
        let latent: Vec<f32> =
            latent.to_bytes().unwrap().chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().unwrap())).collect();
        let settings = settings(name, texts);
        let model = Model::new(Arc::clone(model)).unwrap();
        let found = render(&model, &settings, None, &Trace::default(), &NoProgress).unwrap();
        let distance = relative_distance(&latent, &found.latent);
        // The width of the first steps of DPM adaptive depends on rounding errors of the UNet.
        let (farthest, levels, least) = match settings.sampler {
            Sampler::DpmAdaptive => (2e-2, 4, 45.0),
            _ => (1e-4, 1, 60.0),
        };
        println!("{name}: latents {distance:e}");
        assert!(distance < farthest, "{name}: {distance:e}");
        if let Some(picture) = reference.get(&format!("picture {name}")) {
            let expected = Picture { width: 64, height: 64, rgb: picture.to_bytes().unwrap() };
            let comparison = compare(&found.picture, &expected).unwrap();
            assert!(comparison.max_difference <= levels, "{name}: {comparison:?}");
            assert!(comparison.psnr.is_none_or(|psnr| psnr > least), "{name}: {comparison:?}");
        }
        compared.push(settings.sampler);
    }
    let missing: Vec<_> = Sampler::ALL.iter().filter(|sampler| !compared.contains(sampler)).collect();
    assert!(missing.is_empty(), "{file} has no reference for {missing:?}");
}

#[test]
fn renders_the_reference_latents_with_every_sampler() {
    compare_renders("pictures.safetensors", &model(), ["1girl, cathedral, looking at viewer", "bad hands"]);
}

#[test]
fn renders_the_pictures_of_the_trained_model_with_every_sampler() {
    let trained = StoredCheckpoint::open(fixture("../small_model/small.ckpt")).unwrap().state_dict().clone();
    compare_renders("../small_model/pictures.safetensors", &Arc::new(trained), ["a red circle on blue", ""]);
}
