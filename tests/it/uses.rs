//! What `inspect` calls a file usable for, against what the commands do with it.

use std::path::Path;

use crate::support::narrow::{Narrow, empty, filled};
use crate::support::{Folder, fixture};
use serde_json::Value;
use trinart_ckpt::models::family::Architecture;

fn inspected(path: &Path) -> Value {
    run!("inspect", path, "--json").json()["files"][0].clone()
}

fn has_use(file: &Value, name: &str) -> bool {
    file["uses"].as_array().unwrap().iter().any(|it| it == name)
}

/// An SD v1 model without the tensors that begin so.
fn without(start: &str) -> Narrow {
    let mut model = Narrow::new(Architecture::Sd1);
    model.0.retain(|(key, _)| !key.starts_with(start));
    model
}

#[test]
fn files_are_usable_for_what_the_commands_accept() {
    let folder = Folder::new();
    let sd1 = || Narrow::new(Architecture::Sd1);
    let second = "cond_stage_model.transformer.final_layer_norm.weight";
    let files = [
        ("whole", sd1()),
        ("module", sd1().renamed("", "module.")),
        ("model", sd1().renamed("", "model.")),
        ("net", sd1().renamed("", "net.")),
        ("no-vae", without("first_stage_model.")),
        ("no-text-encoder", without("cond_stage_model.")),
        ("no-unet", without("model.diffusion_model.")),
        ("two-encoders", sd1().with(second, filled(&[32]))),
        ("stray", sd1().with("cond_stage_model.model.ln_final.weight", filled(&[32]))),
        ("both-libraries", {
            let mut both = sd1();
            both.0
                .extend(Narrow::new(Architecture::Sd2).0.into_iter().filter(|(key, _)| key.starts_with("cond_stage")));
            both
        }),
        ("short-vae", {
            let mut short = sd1();
            short.0.retain(|(key, _)| key != "first_stage_model.decoder.conv_in.bias");
            short
        }),
        ("unet-elsewhere", sd1().renamed("model.diffusion_model.", "unet.model.diffusion_model.")),
        ("vpred", Narrow::new(Architecture::SdxlBase).with("v_pred", empty())),
    ];
    let base = folder.join("base.safetensors");
    sd1().save(&base, &[]);
    for (name, model) in files {
        let path = folder.join(&format!("{name}.safetensors"));
        model.save(&path, &[]);
        let file = inspected(&path);
        let accepts = |result: bool, name_of_use: &str| {
            assert_eq!(has_use(&file, name_of_use), result, "{name}: {name_of_use}, {}", file["uses"]);
        };
        let out = folder.join("out.safetensors");
        let vae = fixture("tiny-vae.ckpt");
        accepts(
            run!("merge-vae", &path, "--vae", vae, "-o", &out, "--dry-run").code == Some(0),
            "merge-vae-checkpoint",
        );
        accepts(
            run!("merge-vae", &base, "--vae", &path, "-o", &out, "--dry-run", "--allow-family-mismatch").code
                == Some(0),
            "merge-vae-vae",
        );
        let converted = run!("convert", &path, "-o", folder.join("out"), "--to", "diffusers", "--dry-run");
        accepts(converted.code == Some(0), "convert-folder");
    }
}

#[test]
fn a_wrapped_checkpoint_is_named_as_what_it_wraps() {
    let folder = Folder::new();
    let names = [
        ("model.", "Stable Diffusion checkpoint (SD v1), all keys under model."),
        ("net.", "Stable Diffusion checkpoint (SD v1), all keys under net."),
        ("module.model.", "Stable Diffusion checkpoint (SD v1), all keys under module.model."),
        ("", "Stable Diffusion checkpoint (SD v1)"),
    ];
    for (wrapper, name) in names {
        let path = folder.join(&format!("{wrapper}file.safetensors"));
        Narrow::new(Architecture::Sd1).renamed("", wrapper).save(&path, &[]);
        assert_eq!(inspected(&path)["name"], name);
    }
    // The UNet's own prefix wraps nothing.
    let path = folder.join("unet.safetensors");
    let mut unet = Narrow::new(Architecture::Sd1);
    unet.0.retain(|(key, _)| key.starts_with("model.diffusion_model."));
    unet.save(&path, &[]);
    assert_eq!(inspected(&path)["name"], "SD v1 UNet");
}

#[test]
fn every_model_that_can_be_rendered_is_usable_for_it() {
    let folder = Folder::new();
    let mut without_attention = Narrow::new(Architecture::Sd1);
    without_attention.0.retain(|(key, _)| !key.contains("transformer_blocks"));
    let refiner = "conditioner.embedders.0.model.";
    let of_base = || Narrow::new(Architecture::SdxlBase);
    let cases = [
        ("sd1", Narrow::new(Architecture::Sd1), true),
        ("sd2", Narrow::new(Architecture::Sd2).deviation(0.1), true),
        ("xl", of_base(), true),
        ("vpred", of_base().with("v_pred", empty()).with("ztsnr", empty()), true),
        ("ssd-1b", Narrow::new(Architecture::Ssd1b), true),
        ("vega", Narrow::new(Architecture::Vega), true),
        ("inpainting", Narrow::new(Architecture::Sd1).channels(9), true),
        ("pix2pix", of_base().channels(8), true),
        ("depth", Narrow::new(Architecture::Sd2).channels(5), false),
        ("upscaler", Narrow::new(Architecture::Sd2).channels(7), false),
        ("no-attention", without_attention, false),
        ("no-vae", without("first_stage_model."), false),
        ("unclip", Narrow::new(Architecture::Sd2).with("embedder.model.ln_final.weight", filled(&[1])), false),
        ("vae-of-flux", of_base().shaped("first_stage_model.decoder.conv_in.weight", &[16, 16, 3, 3]), false),
        ("wrapped", of_base().renamed("", "module."), false),
        ("one-encoder", of_base().renamed("conditioner.embedders.1.", refiner), false),
    ];
    for (name, model, is_rendered) in cases {
        let path = folder.join(&format!("{name}.safetensors"));
        model.save(&path, &[]);
        let file = inspected(&path);
        assert_eq!(has_use(&file, "render-check"), is_rendered, "{name}: {}", file["uses"]);
    }
}

#[test]
fn text_encoders_of_two_libraries_contradict_each_other() {
    let folder = Folder::new();
    let ids = "cond_stage_model.transformer.text_model.embeddings.position_ids";
    let cases = [
        (Narrow::new(Architecture::Sd1).with("cond_stage_model.model.ln_final.weight", filled(&[32])), vec!["clip-h"]),
        (Narrow::new(Architecture::Sd2).with("cond_stage_model.transformer.x.weight", filled(&[32])), vec!["clip-l"]),
        // It is a constant, which some files keep for no reader.
        (Narrow::new(Architecture::Sd2).with(ids, filled(&[32])), vec![]),
        (
            Narrow::new(Architecture::SdxlBase).with("conditioner.embedders.0.model.ln_final.weight", filled(&[32])),
            vec!["clip-g"],
        ),
    ];
    for (model, also) in cases {
        let path = folder.join("file.safetensors");
        model.save(&path, &[]);
        assert_eq!(inspected(&path)["also"], serde_json::json!(also));
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn scales_of_quantized_weights_are_not_unknown_tensors() {
    let folder = Folder::new();
    let path = folder.join("scaled.safetensors");
    let weight = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.";
    Narrow::new(Architecture::Sd1)
        .with(&format!("{weight}scale_weight"), filled(&[1]))
        .with("model.diffusion_model.stray.scale_weight", filled(&[1]))
        .save(&path, &[]);
    let file = inspected(&path);
    let components = file["components"].as_array().unwrap();
    let unet = components.iter().find(|component| component["name"] == "unet").unwrap();
    assert_eq!(unet["extra"], serde_json::json!(["model.diffusion_model.stray.scale_weight"]));
}
