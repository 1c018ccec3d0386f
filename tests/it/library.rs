//! Tests of the library API: the examples, opening files, and operations.

use crate::support::{Folder, copy_folder, fixture, read};
use trinart_ckpt::formats::containers::Container;
use trinart_ckpt::formats::limits;
use trinart_ckpt::models::family::Architecture;
use trinart_ckpt::report::{Colors, Failure, KeyDifference, PositionIds, ScanVerdict, Tip};
use trinart_ckpt::{
    Checkpoint, Compare, Component, Convert, Dtype, Ema, FolderOptions, HashCheckpoint, Hint, Inspect, Kind, MergeVae,
    OpenOptions, Scan, StoredCheckpoint, Target,
};

#[path = "../../examples/bake_vae.rs"]
#[allow(dead_code)]
mod bake_vae;
#[path = "../../examples/list_tensors.rs"]
#[allow(dead_code)]
mod list_tensors;
#[path = "../../examples/scan_folder.rs"]
#[allow(dead_code)]
mod scan_folder;

const HOSTILE: &str = "hostile/calls-system.ckpt";

fn text(path: impl AsRef<std::path::Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

#[test]
fn the_example_bakes_the_same_file_as_the_program() {
    let folder = Folder::new();
    let (ours, theirs) = (folder.join("library.safetensors"), folder.join("program.safetensors"));
    let (base, vae) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.ckpt"));
    let report = bake_vae::bake(&text(&base), &text(&vae), &text(&ours)).unwrap();
    assert!(report.contains("verified"), "{report}");
    run!["merge-vae", &base, "--vae", &vae, "-o", &theirs].done();
    assert_eq!(std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
}

#[test]
fn the_example_refuses_a_dangerous_pickle_and_writes_nothing() {
    let folder = Folder::new();
    let output = folder.join("merged.safetensors");
    let error = bake_vae::bake(&text(fixture(HOSTILE)), &text(fixture("tiny-vae.ckpt")), &text(&output)).unwrap_err();
    assert_eq!((error.kind(), error.hint()), (Kind::Unsupported, Some(Hint::Sanitize)));
    assert!(!error.to_string().contains("--"), "{error}");
    let error = bake_vae::bake(&text(fixture("tiny-sd1.ckpt")), &text(fixture(HOSTILE)), &text(&output)).unwrap_err();
    assert_eq!(error.hint(), Some(Hint::Sanitize));
    assert!(!output.exists());
}

#[test]
fn the_example_lists_ldm_names_of_a_diffusers_folder() {
    let listed = list_tensors::list(&text(fixture("diffusers/sd1"))).unwrap();
    assert!(listed.lines().all(|line| !line.contains('/')), "{listed}");
    assert!(listed.contains("\nfirst_stage_model.encoder.conv_in.weight F32 ["), "{listed}");
}

#[test]
fn the_example_lists_only_files_that_are_not_safe() {
    let folder = Folder::new();
    std::fs::copy(fixture("tiny-sd1.safetensors"), folder.join("fine.safetensors")).unwrap();
    std::fs::copy(fixture(HOSTILE), folder.join("bad.ckpt")).unwrap();
    let listed = scan_folder::scan(&text(folder.path())).unwrap();
    assert_eq!(listed, format!("{}: dangerous\n", folder.join("bad.ckpt").display()));
}

#[test]
fn bakes_into_a_diffusers_folder_under_ldm_names() {
    let folder = Folder::new();
    let base_folder = folder.join("sd1");
    copy_folder(&fixture("diffusers/sd1"), &base_folder);
    let base = Checkpoint::open(base_folder).unwrap();
    let vae = Checkpoint::open(fixture("diffusers/sd1/vae")).unwrap();
    let output = folder.join("merged.safetensors");
    assert!(MergeVae::new(&base, &vae).write(&output).unwrap().verified);
    let keys: Vec<String> = read(&output).into_iter().map(|row| row.0).collect();
    assert!(keys.iter().any(|key| key.starts_with("model.diffusion_model.")), "{keys:?}");
    assert!(keys.iter().all(|key| !key.contains('/')), "{keys:?}");
}

#[test]
fn writes_a_folder_where_the_format_is_diffusers() {
    let folder = Folder::new();
    let checkpoint = Checkpoint::open(fixture("tiny-sd1.safetensors")).unwrap();
    let output = folder.join("model");
    Convert::new(&checkpoint).format(Target::Diffusers).write(&output).unwrap();
    assert!(output.join("model_index.json").is_file() && output.join("unet/config.json").is_file());
    let stored = StoredCheckpoint::open(&output).unwrap();
    assert!(stored.state_dict().keys().all(|key| key.contains('/')));
}

#[test]
fn plans_report_what_a_write_does_and_write_nothing() {
    let folder = Folder::new();
    let checkpoint = Checkpoint::open(fixture("tiny-sd1.safetensors")).unwrap();
    let output = folder.join("half.safetensors");
    let convert = Convert::new(&checkpoint).dtype(Dtype::F16).prune(true);
    let planned = convert.plan(&output).unwrap();
    assert!(planned.dry_run && !planned.verified && !output.exists());
    let written = convert.write(&output).unwrap();
    assert_eq!((written.tensors, written.bytes), (planned.tensors, planned.bytes));
    assert_eq!(written.bytes, std::fs::metadata(&output).unwrap().len());
    assert_eq!(convert.write(&output).unwrap_err().hint(), Some(Hint::Overwrite));
    assert!(convert.overwrite(true).write(&output).is_ok());
}

#[test]
fn keeps_the_component_that_inspect_lists() {
    let folder = Folder::new();
    let checkpoint = Checkpoint::open(fixture("tiny-sd1.safetensors")).unwrap();
    let inspection = Inspect::new(fixture("tiny-sd1.safetensors")).run().unwrap();
    for (index, summary) in inspection.components.iter().enumerate() {
        let output = folder.join(&format!("{index}.safetensors"));
        let convert = Convert::new(&checkpoint).component(summary.component);
        assert_eq!(convert.write(&output).unwrap().tensors, summary.tensors, "{}", summary.component.text());
    }
    let output = folder.join("out.safetensors");
    let ema = Convert::new(&checkpoint).component(Component::Ema);
    assert_eq!(ema.clone().prune(true).plan(&output).unwrap().tensors, 2);
    let error = ema.ema(Ema::Drop).plan(&output).unwrap_err();
    assert_eq!(error.message(), "nothing would remain: the conversion selects the EMA and also drops it");
    let error = Convert::new(&checkpoint).component(Component::Other).plan(&output).unwrap_err();
    assert_eq!(error.message(), "contains no tensors of unknown components");
}

#[test]
fn texts_of_reports_name_options_only_in_the_words_of_the_program() {
    let (a, b) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.vae.pt"));
    let difference = Compare::new(&Checkpoint::open(a).unwrap(), &Checkpoint::open(b).unwrap()).run().unwrap();
    let text = difference.to_text();
    assert!(text.contains("    and 240 more\n") && !text.contains("--"), "{text}");
    let words = |tip| (tip == Tip::MoreEntries).then_some("click to see all");
    assert!(difference.to_text_with(&words, Colors::Off).contains("    and 240 more; click to see all\n"));
}

#[test]
fn a_failure_has_the_record_that_its_offset_is_relative_to() {
    let error = Checkpoint::open(fixture(HOSTILE)).unwrap_err();
    let failure = Failure::from(&error);
    assert_eq!((failure.record.as_deref(), failure.offset), (Some("data.pkl"), Some(242)));
    let ran = run!["inspect", fixture("README.md"), "--json"];
    assert!(ran.stdout.contains("\"record\": null"), "{}", ran.stdout);
}

#[test]
fn rejects_options_of_zero() {
    let checkpoint = Checkpoint::open(fixture("tiny-sd1.safetensors")).unwrap();
    let folder = FolderOptions::default().max_shard_bytes(0);
    let errors = [
        Convert::new(&checkpoint).jobs(0).plan("out.ckpt").unwrap_err(),
        Convert::new(&checkpoint).folder(folder).plan("out/").unwrap_err(),
        Compare::new(&checkpoint, &checkpoint).jobs(0).run().unwrap_err(),
        HashCheckpoint::new(fixture("tiny-vae.ckpt")).jobs(0).run().unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind() == Kind::Usage && error.message().contains("at least 1")));
}

#[test]
fn sanitizing_keeps_tensors_and_nothing_else() {
    let path = fixture(HOSTILE);
    let kept = Checkpoint::open_with(&path, &OpenOptions::new().keep_dangers()).unwrap();
    let sanitized = Checkpoint::open_with(&path, &OpenOptions::new().sanitize()).unwrap();
    assert!(!kept.stored().dangers().is_empty());
    assert!(sanitized.metadata().is_empty() && !sanitized.stored().opaque().is_empty());
    assert!(sanitized.state_dict().keys().eq(kept.state_dict().keys()));
}

#[test]
fn finds_the_sidecar_or_names_what_it_looked_for() {
    let folder = Folder::new();
    let path = folder.join("model.safetensors");
    std::fs::copy(fixture("tiny-sd1.safetensors"), &path).unwrap();
    let base = Checkpoint::open(&path).unwrap();
    let error = MergeVae::with_sidecar(&base, &OpenOptions::new()).err().unwrap();
    assert_eq!(error.hint(), Some(Hint::NameVae));
    assert!(error.to_string().contains("model.vae.pt"), "{error}");
    std::fs::copy(fixture("tiny-vae.vae.pt"), folder.join("model.vae.pt")).unwrap();
    let merge = MergeVae::with_sidecar(&base, &OpenOptions::new()).unwrap();
    assert!(merge.plan(folder.join("merged.safetensors")).unwrap().vae.unwrap().sidecar);
}

#[test]
fn compares_across_containers_and_plans_from_headers() {
    let open = |name: &str| Checkpoint::open(fixture(name)).unwrap();
    let (zip, safetensors) = (open("tiny-sd1.ckpt"), open("tiny-sd1.safetensors"));
    let compare = Compare::new(&zip, &safetensors);
    let plan = compare.plan().unwrap();
    assert_eq!(plan.compared.len(), zip.state_dict().len());
    assert!(plan.only_in_a.is_empty() && plan.only_in_b.is_empty() && plan.reshaped.is_empty());
    assert!(compare.run().unwrap().equal);
    let vae = open("tiny-vae.vae.pt");
    let plan = Compare::new(&zip, &vae).plan().unwrap();
    assert_eq!((plan.compared.len(), plan.only_in_b.len()), (248, 0));
}

#[test]
fn scans_hashes_and_inspections_report_typed_values() {
    let report = Scan::new([fixture(HOSTILE), fixture("tiny-sd1.ckpt")]).run().unwrap();
    assert_eq!(report.files.len(), 2);
    assert_eq!(report.files[0].verdict, ScanVerdict::Dangerous);
    assert!(report.files[0].findings.len() < limits::FINDINGS);
    assert_eq!(Scan::new([fixture(HOSTILE)]).plan(), [fixture(HOSTILE)]);
    let hashes = HashCheckpoint::new(fixture("tiny-vae.vae.pt")).run().unwrap();
    assert_eq!(hashes.sha256.unwrap().get(..10), hashes.autov2.as_deref());
    assert!(hashes.components.contains_key(&Component::Vae));
    let inspection = Inspect::new(fixture("tiny-sd1.ckpt")).keys(true).run().unwrap();
    assert_eq!((inspection.container, inspection.architecture), (Container::TorchZip, Some(Architecture::Sd1)));
    assert_eq!(inspection.position_ids, Some(PositionIds::Correct));
    assert_eq!(inspection.keys.unwrap().len(), inspection.tensors);
    let (a, b) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.vae.pt"));
    let difference = Compare::new(&Checkpoint::open(a).unwrap(), &Checkpoint::open(b).unwrap()).run().unwrap();
    let vae = difference.components.iter().find(|component| component.component == Component::Vae).unwrap();
    assert!(!difference.equal && matches!(vae.different[0].found, KeyDifference::Both { .. }), "{vae:?}");
}
