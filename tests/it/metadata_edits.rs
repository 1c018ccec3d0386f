//! `--set-metadata` and `--drop-metadata`.

use serde_json::Value;

use crate::support::{Folder, fixture};

fn metadata(path: &std::path::Path) -> Value {
    run!["inspect", "--json", path].json()["files"][0]["metadata"].clone()
}

#[test]
fn sets_and_drops_metadata_of_both_formats() {
    let folder = Folder::new();
    for (input, extension) in [("tiny-sd1.safetensors", "safetensors"), ("tiny-sd1.ckpt", "ckpt")] {
        let first = folder.join(&format!("first.{extension}"));
        let arguments =
            ["--set-metadata", "modelspec.title=a=b", "--set-metadata", "note=", "--set-metadata", "ss_a=1"];
        run![
            "convert",
            fixture(input),
            "-o",
            &first,
            arguments[0],
            arguments[1],
            arguments[2],
            arguments[3],
            arguments[4],
            arguments[5]
        ]
        .done();
        let found = metadata(&first);
        assert_eq!(
            (&found["modelspec.title"], &found["note"], &found["ss_a"]),
            (&"a=b".into(), &"".into(), &"1".into())
        );
        let second = folder.join(&format!("second.{extension}"));
        let vae = fixture("tiny-vae.vae.pt");
        run!["merge-vae", &first, "--vae", vae, "-o", &second, "--drop-metadata", "ss_*", "--drop-metadata", "note"]
            .done();
        let found = metadata(&second);
        assert_eq!(
            (&found["modelspec.title"], &found["note"], &found["ss_a"]),
            (&"a=b".into(), &Value::Null, &Value::Null)
        );
    }
}

#[test]
fn reports_names_without_a_field_and_a_stale_hash() {
    let folder = Folder::new();
    let (first, second) = (folder.join("a.safetensors"), folder.join("b.safetensors"));
    let input = fixture("tiny-sd1.safetensors");
    run!["convert", input, "-o", &first, "--set-metadata", "ss_a=1", "--set-metadata", "sshs_legacy_hash=0123"].done();
    assert_eq!(metadata(&first)["sshs_legacy_hash"], "0123");
    let report = run!["convert", &first, "-o", &second, "--set-metadata", "ss_a=2", "--drop-metadata", "none"].done();
    assert!(report.contains("no metadata field to drop is called none"), "{report}");
    assert!(report.contains("left out sshs_legacy_hash"), "{report}");
    assert_eq!(metadata(&second)["sshs_legacy_hash"], Value::Null);
}

#[test]
fn refuses_fields_that_the_output_cannot_have() {
    let folder = Folder::new();
    let output = folder.join("out.ckpt");
    let input = fixture("tiny-sd1.safetensors");
    run!["convert", &input, "-o", &output, "--set-metadata", "state_dict=x"].refused(&["state_dict"]);
    run!["convert", &input, "-o", &output, "--set-metadata", "=x"].refused(&["has no name"]);
    let bin = folder.join("bin/");
    run!["convert", &input, "-o", &bin, "--bin", "--set-metadata", "a=x"].refused(&["metadata"]);
}
