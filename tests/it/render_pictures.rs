//! Compares whole pictures with those of diffusers, transformers and k-diffusion. `fixtures/render/make_pictures.py`
//! generates the references.

use crate::support::tiny::{fixture, model};
use trinart_ckpt::format;
use trinart_ckpt::io::NoProgress;
use trinart_ckpt::render::checks::relative_distance;
use trinart_ckpt::render::observer::Trace;
use trinart_ckpt::render::picture::{Picture, compare};
use trinart_ckpt::render::pipeline::{Settings, render};
use trinart_ckpt::render::prompt::Syntax;
use trinart_ckpt::render::rng::Source;
use trinart_ckpt::render::sampler::Sampler;
use trinart_ckpt::render::schedule::Spacing;
use trinart_ckpt::tensor::Dtype;

/// The settings of `make_pictures.py`.
fn settings(name: &str) -> Settings {
    let (name, steps) = name.rsplit_once(' ').unwrap();
    let (sampler, spacing) = Sampler::from_name(name).unwrap();
    Settings {
        prompt: "1girl, cathedral, looking at viewer".into(),
        negative: "bad hands".into(),
        syntax: Syntax::WebUi,
        steps: steps.parse().unwrap(),
        sampler,
        spacing: spacing.unwrap_or(Spacing::Uniform),
        cfg: 7.0,
        seed: 1234,
        seed_delta: 0,
        rng: Source::Cpu,
        width: 64,
        height: 64,
        clip_skip: 1,
        dtype: Dtype::F32,
    }
}

#[test]
fn renders_the_reference_picture_with_every_sampler() {
    let reference = format::open(fixture("pictures.safetensors")).unwrap().state_dict;
    let mut compared = Vec::new();
    for (key, latent) in reference.iter().filter(|(key, _)| key.starts_with("latent ")) {
        let name = key.strip_prefix("latent ").unwrap();
        let latent: Vec<f32> =
            latent.to_bytes().unwrap().chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().unwrap())).collect();
        let found = render(&model(), &settings(name), None, &Trace::default(), &NoProgress).unwrap();
        let distance = relative_distance(&latent, &found.latent);
        // Untrained weights amplify rounding errors in each step, most of all with samplers that add noise.
        assert!(distance < 1e-3, "{name}: {distance:e}");
        if let Some(picture) = reference.get(&format!("picture {name}")) {
            let expected = Picture { width: 64, height: 64, rgb: picture.to_bytes().unwrap() };
            let comparison = compare(&found.picture, &expected).unwrap();
            assert!(comparison.max_difference <= 1, "{name}: {comparison:?}");
            assert!(comparison.psnr.is_none_or(|psnr| psnr > 60.0), "{name}: {comparison:?}");
            compared.push(settings(name).sampler);
        }
    }
    let missing: Vec<_> = Sampler::ALL.iter().filter(|sampler| !compared.contains(sampler)).collect();
    assert!(missing.is_empty(), "no reference picture for {missing:?}");
}
