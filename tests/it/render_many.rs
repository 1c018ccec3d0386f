//! `render-check` with several checkpoints: a picture of each, and one contact sheet.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::render_check::{model, same};
use crate::support::{Folder, fixture};
use trinart_ckpt::render::picture::Picture;

const QUICK: [&str; 4] = ["--size", "64x64", "--steps", "1"];

fn picture(path: &Path) -> Picture {
    Picture::from_png(&fs::read(path).unwrap()).unwrap().0
}

#[test]
fn renders_each_checkpoint_of_a_folder_and_draws_them_on_one_sheet() {
    let folder = Folder::new();
    for name in ["models", "models/sub"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let first = model(&folder, "models/a.safetensors", same);
    fs::copy(&first, folder.join("models/sub/猫.safetensors")).unwrap();
    fs::copy(fixture("tiny-vae.ckpt"), folder.join("models/vae.ckpt")).unwrap();
    let (models, out) = (folder.join("models"), folder.join("out"));
    let arguments = |options: &[&str]| {
        let paths = [models.as_os_str(), "--out-dir".as_ref(), out.as_os_str()].map(ToOwned::to_owned);
        let options = QUICK.iter().chain(options).map(Into::into);
        let all: Vec<std::ffi::OsString> = ["render-check".into()].into_iter().chain(paths).chain(options).collect();
        crate::support::run(&all)
    };
    let text = arguments(&[]);
    assert!(text.stdout.ends_with("\n1 skipped: no Stable Diffusion checkpoints\n"), "{}{}", text.stdout, text.stderr);
    assert_eq!(picture(&out.join("a.png")), picture(&out.join("sub/猫.png")));
    let sheet = picture(&out.join("sheet.png"));
    assert_eq!(sheet.width, 2 * 256 + 3 * 8);
    // Without --force, nothing is replaced.
    let again = arguments(&["--json=document"]);
    assert_eq!(again.code, Some(2));
    let document: Value = serde_json::from_str(&again.stdout).unwrap();
    let errors: Vec<_> = document["files"].as_array().unwrap().iter().map(|it| it["error"]["hint"].clone()).collect();
    assert_eq!(errors, ["overwrite", "overwrite"]);
    let replaced: Value = serde_json::from_str(&arguments(&["--json=document", "--force"]).stdout).unwrap();
    let result = &replaced["files"][1];
    assert!(result["picture"].as_str().unwrap().ends_with("猫.png"), "{result:#}");
    assert!(result["sheet"].as_str().unwrap().ends_with("sheet.png"), "{result:#}");
    assert_eq!(picture(&out.join("sheet.png")), sheet);
}

#[test]
fn two_checkpoints_with_the_same_picture_fail() {
    let folder = Folder::new();
    for name in ["a", "b"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let first = model(&folder, "a/model.safetensors", same);
    let second = folder.join("b/model.safetensors");
    fs::copy(&first, &second).unwrap();
    let out = folder.join("out");
    let ran = run!["render-check", &first, &second, "--out-dir", &out];
    assert_eq!(ran.code, Some(2));
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stderr);
    assert!(lines.iter().all(|line| line.contains("has the same output as")), "{}", ran.stderr);
    run!["render-check", &first, &second, "-o", folder.join("a.png")].refused(&["--out-dir"]);
}
