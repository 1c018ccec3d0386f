//! Metadata of outputs: fields that are set and dropped by name, and marks that are lost with them.

use crate::support::narrow::{Narrow, empty};
use crate::support::{Folder, open, run};
use trinart_ckpt::models::family::Architecture;

#[test]
fn sets_and_drops_metadata_fields() {
    let folder = Folder::new();
    let input = folder.join("in.safetensors");
    let fields = [("ss_tags", "a"), ("ss_steps", "9"), ("sshs_legacy_hash", "12"), ("modelspec.title", "Old")];
    Narrow::new(Architecture::Sd1).save(&input, &fields);
    let edits = ["--drop-metadata", "ss_*", "--set-metadata", "modelspec.title=New = newer", "--set-metadata", "x="];
    for output in ["out.safetensors", "out.ckpt"] {
        let path = folder.join(output);
        let mut arguments = vec![input.clone().into_os_string()];
        arguments.extend(["-o".into(), path.clone().into_os_string()]);
        arguments.extend(edits.iter().map(Into::into));
        arguments.extend(["--drop-metadata".into(), "absent".into(), "--json".into()]);
        let report = run(&[vec!["convert".into()], arguments].concat()).json();
        let codes: Vec<_> = report["notices"].as_array().unwrap().iter().map(|it| it["code"].clone()).collect();
        assert_eq!(codes, ["metadata-absent", "stale-hash"]);
        let metadata = open(&path).unwrap().metadata().clone();
        let found: Vec<_> = metadata.iter().map(|(name, value)| (name.as_str(), value.to_text())).collect();
        assert_eq!(found, [("modelspec.title", "New = newer".to_owned()), ("x", String::new())]);
    }
    run!["convert", &input, "-o", folder.join("clash.ckpt"), "--set-metadata", "state_dict=1"].refused(&["state_dict"]);
    let usage = run!["convert", &input, "-o", folder.join("x.ckpt"), "--set-metadata", "title"];
    assert!(usage.code == Some(2) && usage.stderr.contains("FIELD=VALUE"), "{}", usage.stderr);
}

#[test]
fn names_the_marks_that_are_lost_with_the_metadata() {
    let folder = Folder::new();
    let input = folder.join("in.safetensors");
    let mut unet = Narrow::new(Architecture::SdxlBase).with("v_pred", empty()).with("ztsnr", empty());
    unet.0.retain(|(key, _)| key.starts_with("model.diffusion_model.") || !key.contains('.'));
    unet.save(&input, &[("title", "T")]);
    let report = run!["convert", &input, "-o", folder.join("out"), "--to", "diffusers", "--bin", "--json"].json();
    let notices = report["notices"].as_array().unwrap();
    let text = |code: &str| {
        let found = notices.iter().filter(|it| it["code"] == code).map(|it| it["text"].as_str().unwrap());
        found.collect::<Vec<_>>().join("; ")
    };
    assert!(text("metadata-dropped").contains("title"), "{notices:?}");
    assert!(text("prediction-not-read").contains("nothing else in the output records"), "{notices:?}");
    assert!(text("prediction-not-read").contains("zero_terminal_snr true"), "{notices:?}");
}
