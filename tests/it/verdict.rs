//! The verdicts of a scan on many small pickles: attacks that act when Python loads them, and honest ones that torch,
//! NumPy, OmegaConf and Lightning wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::support::{Folder, fixture};
use trinart_ckpt::Scan;
use trinart_ckpt::formats::danger::{Allowed, Level, examine_allowing};
use trinart_ckpt::formats::pickle::{parse, parse_lenient};
use trinart_ckpt::report::{ScanReport, ScanVerdict};

/// An entry of a fixture: the expected verdict, and a pickle in hexadecimal.
#[derive(Deserialize)]
struct Entry {
    #[serde(deserialize_with = "level")]
    verdict: Level,
    pickle: String,
    #[serde(default)]
    weights_only: bool,
}

fn level<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Level, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(Level::ALL.into_iter().find(|level| level.name() == name).unwrap())
}

impl Entry {
    fn bytes(&self) -> Vec<u8> {
        let digits = self.pickle.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }
}

fn entries(name: &str) -> BTreeMap<String, Entry> {
    serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
}

/// Scans the pickle of each entry as a file of its own. Returns the verdicts and texts by name.
fn scan(entries: &BTreeMap<String, Entry>) -> BTreeMap<String, (ScanVerdict, String)> {
    let folder = Folder::new();
    for (name, entry) in entries {
        folder.write(&format!("{name}.pkl"), entry.bytes());
    }
    let report = Scan::new([folder.path()]).run().unwrap();
    let name = |file: &str| Path::new(file).file_stem().unwrap().to_str().unwrap().to_owned();
    report.files.iter().map(|file| (name(&file.file), (file.verdict, file.to_text()))).collect()
}

/// The level that a verdict is at least.
fn least(verdict: ScanVerdict) -> Level {
    match verdict {
        ScanVerdict::Safe => Level::Safe,
        ScanVerdict::Dangerous => Level::Dangerous,
        _ => Level::Unknown,
    }
}

#[test]
fn no_attack_is_safe() {
    let attacks = entries("verdicts/attacks.json");
    assert!(attacks.len() > 100);
    let found = scan(&attacks);
    for (name, entry) in &attacks {
        let (verdict, text) = &found[name];
        assert!(least(*verdict) >= entry.verdict, "{name}: {text}");
    }
}

#[test]
fn honest_pickles_are_safe() {
    let honest = entries("verdicts/honest.json");
    assert!(honest.values().filter(|entry| entry.weights_only).count() > 10);
    let found = scan(&honest);
    for (name, entry) in &honest {
        let (verdict, text) = &found[name];
        assert_eq!(least(*verdict), entry.verdict, "{name}: {text}");
        assert!(!entry.weights_only || *verdict == ScanVerdict::Safe, "{name}: {text}");
    }
}

#[test]
fn every_prefix_of_a_call_is_judged() {
    // A pickle that ends behind its attack has acted already.
    let attacks = entries("verdicts/attacks.json");
    for (name, entry) in attacks.iter().filter(|(name, _)| name.starts_with("plant")) {
        let bytes = entry.bytes();
        let found = parse_lenient(&bytes[..bytes.len() - 1]);
        let findings = examine_allowing(&found.pickle, &Allowed::new());
        assert!(findings.iter().any(|finding| finding.level > Level::Safe), "{name}");
    }
}

#[test]
fn allowed_names_are_safe_and_reported() {
    let folder = Folder::new();
    let model = b"\x80\x02cultralytics.nn.tasks\nDetectionModel\n)\x81}X\x01\0\0\0aK\x01sb.";
    let path = folder.write("model.pkl", model);
    run!["scan", &path].no();
    run!["scan", &path, "--allow", "ultralytics.nn.modules.*"].no();
    let text = run!["scan", &path, "--allow", "ultralytics.nn.*"].done();
    assert!(text.contains("  allowed    ultralytics.nn.*: ultralytics.nn.tasks.DetectionModel\n"), "{text}");
    let list = folder.write("allowed.txt", b"# models\n\nultralytics.nn.tasks.DetectionModel # YOLO\n");
    let json = run!["scan", &path, "--allow", format!("@{}", list.display()), "--json"].json();
    assert_eq!(json["allowed"], serde_json::json!(["ultralytics.nn.tasks.DetectionModel"]));
    assert_eq!(json["files"][0]["findings"][0]["allowed_by"], "ultralytics.nn.tasks.DetectionModel");
    run!["scan", &path, "--allow", "*"].refused(&["invalid pattern *", "MODULE.NAME"]);
    run!["scan", &path, "--allow", "@missing.txt"].refused(&["missing.txt"]);
}

#[test]
fn only_the_full_name_allows_what_is_dangerous() {
    let call = parse(b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.").unwrap();
    let level = |pattern: &str| {
        let mut allowed = Allowed::new();
        allowed.add(pattern).unwrap();
        examine_allowing(&call, &allowed)[0].level
    };
    assert_eq!(level("posix.*"), Level::Dangerous);
    assert_eq!(level("posix.system"), Level::Safe);
}

#[test]
fn thousands_of_allowed_names_hide_nothing() {
    let names = (0..3000).flat_map(|index| format!("cx.y\nC{index}\n0").into_bytes());
    let planted = b"cargparse\nNamespace\n)\x81}X\x06\0\0\0appendccollections\nCounter\nsbN.";
    let bytes: Vec<u8> = b"\x80\x02".iter().copied().chain(names).chain(*planted).collect();
    let folder = Folder::new();
    let path = folder.write("many.pkl", bytes);
    let mut allowed = Allowed::new();
    allowed.add("x.*").unwrap();
    let report: ScanReport = Scan::new([path]).allow(allowed).run().unwrap();
    assert_eq!(report.summary.unknown, 1, "{}", report.to_text());
}
