//! `--component` and the dtypes of components on files that have a single network, under names without a prefix.

use crate::support::{Folder, assert_rows, expected, fixture, read, save, tensors};

const UNET: &str = "model.diffusion_model.";

#[test]
fn a_vae_in_diffusers_names_gets_the_keys_and_shapes_that_webui_loads() {
    let folder = Folder::new();
    let original = fixture("diffusers/sd1/vae/diffusion_pytorch_model.safetensors");
    let whole = folder.join("whole.safetensors");
    run!["convert", fixture("diffusers/sd1"), "-o", &whole, "--component", "vae"].done();
    for prefix in ["", "vae.", "first_stage_model."] {
        let (input, output) = (folder.join("in.safetensors"), folder.join(&format!("out-{prefix}.safetensors")));
        save(&input, tensors(&original).into_iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor)));
        run!["convert", &input, "-o", &output, "--component", "vae"].done();
        let sorted = |path| {
            let mut rows = read(path);
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            rows
        };
        assert_rows(&sorted(&output), &sorted(&whole));
        assert_eq!(read(&output).len(), 248);
        std::fs::remove_file(input).unwrap();
    }
}

#[test]
fn a_unet_or_text_encoder_alone_is_that_component() {
    let folder = Folder::new();
    let bare = folder.join("bare.safetensors");
    let all = tensors(&fixture("tiny-sd1.safetensors")).into_iter();
    save(&bare, all.filter_map(|(key, tensor)| Some((key.strip_prefix(UNET)?.to_owned(), tensor))));
    let unet = fixture("diffusers/sd1/unet/diffusion_pytorch_model.safetensors");
    let clip = fixture("diffusers/sd1/text_encoder/model.safetensors");
    let files = [(bare, "unet", "text-encoder"), (unet, "unet", "vae"), (clip, "text-encoder", "vae")];
    for (index, (input, own, other)) in files.iter().enumerate() {
        let output = folder.join(&format!("{index}.safetensors"));
        run!["convert", input, "-o", &output, "--component", own].done();
        assert_rows(&read(&output), &read(input));
        let cast = folder.join(&format!("{index}-cast.safetensors"));
        run!["convert", input, "-o", &cast, &format!("--{own}-dtype"), "bf16"].done();
        assert!(read(&cast).iter().all(|row| row.1 == "BF16"), "{own}");
        let kept = folder.join(&format!("{index}-kept.safetensors"));
        let report = run!["convert", input, "-o", &kept, &format!("--{other}-dtype"), "bf16"].done();
        assert!(report.contains("to cast"), "{report}");
        assert_rows(&read(&kept), &read(input));
        let left = folder.join(&format!("{index}-left.safetensors"));
        run!["convert", input, "-o", &left, "--component", other].refused(&["to extract; the file is:"]);
        let report = run!["inspect", input].done();
        assert!(!report.contains("MISSING") && !report.contains("  VAE") && !report.contains("  other"), "{report}");
    }
}

#[test]
fn a_vae_file_has_its_old_rows() {
    let folder = Folder::new();
    let output = folder.join("out.safetensors");
    run!["convert", fixture("tiny-vae.vae.pt"), "-o", &output, "--component", "vae"].done();
    assert_rows(&read(&output), &expected("tiny-vae.vae.pt"));
}
