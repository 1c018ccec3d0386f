//! Compares whole pictures with those of diffusers and transformers with WebUI's samplers. `fixtures/render/make_pictures.py`
//! generates the references.

use crate::tiny::{fixture, model};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_render::checks::relative_distance;
use trinart_ckpt_render::observer::Trace;
use trinart_ckpt_render::picture::{Picture, compare};
use trinart_ckpt_render::pipeline::{Model, render};
use trinart_ckpt_render::sampling::{NoiseSource, Sampler};
use trinart_ckpt_render::settings::Settings;

/// The settings of `make_pictures.py`.
fn settings(name: &str) -> Settings {
    let [sampler, "Automatic", steps] = name.split(", ").collect::<Vec<_>>()[..] else { panic!("{name}") };
    let (sampler, _) = Sampler::from_name(sampler).unwrap();
    let mut settings = Settings::default();
    settings.prompt = "1girl, cathedral, looking at viewer".into();
    settings.negative = "bad hands".into();
    settings.steps = steps.parse().unwrap();
    settings.sampler = sampler;
    settings.schedule = sampler.automatic_schedule();
    settings.seed = 1234;
    settings.rng = NoiseSource::Cpu;
    (settings.width, settings.height) = (64, 64);
    settings
}

#[test]
fn renders_the_reference_picture_with_every_sampler() {
    let reference = StoredCheckpoint::open(fixture("pictures.safetensors")).unwrap().state_dict().clone();
    let mut compared = Vec::new();
    for (key, latent) in reference.iter().filter(|(key, _)| key.starts_with("latent ")) {
        let name = key.strip_prefix("latent ").unwrap();
        let latent: Vec<f32> =
            latent.to_bytes().unwrap().chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().unwrap())).collect();
        let found =
            render(&Model::new(model()).unwrap(), &settings(name), None, &Trace::default(), &NoProgress).unwrap();
        let distance = relative_distance(&latent, &found.latent);
        // The width of the first steps of DPM adaptive depends on rounding errors of the UNet.
        let (farthest, levels, least) = match settings(name).sampler {
            Sampler::DpmAdaptive => (2e-2, 4, 45.0),
            _ => (1e-4, 1, 60.0),
        };
        assert!(distance < farthest, "{name}: {distance:e}");
        if let Some(picture) = reference.get(&format!("picture {name}")) {
            let expected = Picture { width: 64, height: 64, rgb: picture.to_bytes().unwrap() };
            let comparison = compare(&found.picture, &expected).unwrap();
            assert!(comparison.max_difference <= levels, "{name}: {comparison:?}");
            assert!(comparison.psnr.is_none_or(|psnr| psnr > least), "{name}: {comparison:?}");
            compared.push(settings(name).sampler);
        }
    }
    let missing: Vec<_> = Sampler::ALL.iter().filter(|sampler| !compared.contains(sampler)).collect();
    assert!(missing.is_empty(), "no reference picture for {missing:?}");
}
