//! What a render makes of parameters of the shapes that programs write: follows them, names what it ignores, or refuses.

use std::collections::BTreeMap;
use std::fs;

use crate::render_check::{model, same};
use crate::support::{Folder, fixture};
use trinart_ckpt::models::Checkpoint;
use trinart_ckpt::ops::RenderCheck;
use trinart_ckpt::render::checks::Verdict;
use trinart_ckpt::render::job::RenderPlan;
use trinart_ckpt::render::picture::Picture;
use trinart_ckpt::render::settings::{PromptPadding, Settings};

/// A text of `infotexts.txt`, and what is expected of it.
struct Case<'a> {
    name: &'a str,
    settings: BTreeMap<&'a str, &'a str>,
    ignored: Option<&'a str>,
    refused: Option<&'a str>,
    text: String,
}

impl<'a> Case<'a> {
    fn parse(block: &'a str) -> Self {
        let mut lines = block.lines();
        let name = lines.next().unwrap();
        let (expected, text): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("> "));
        let mut case =
            Case { name, settings: BTreeMap::new(), ignored: None, refused: None, text: text.join("\n").trim().into() };
        for line in expected {
            match line.trim_start_matches("> ").split_once(": ").unwrap() {
                ("ignored", text) => case.ignored = Some(text),
                ("refused", text) => case.refused = Some(text),
                _ => {
                    let fields = line.trim_start_matches("> ").split("; ");
                    case.settings.extend(fields.map(|field| field.split_once(": ").unwrap()));
                }
            }
        }
        case
    }

    fn plan(&self, folder: &Folder, checkpoint: &Checkpoint) -> Result<RenderPlan, String> {
        let path = folder.join("picture.png");
        let text = if self.name == "Windows line ends" { self.text.replace('\n', "\r\n") } else { self.text.clone() };
        let picture = Picture { width: 64, height: 64, rgb: vec![128; 3 * 64 * 64] };
        fs::write(&path, picture.to_png(&text).unwrap()).unwrap();
        RenderCheck::new(checkpoint).like(path).plan().map_err(|error| error.to_string())
    }
}

/// Returns a setting of a render as text.
fn setting(settings: &Settings, name: &str) -> String {
    match name {
        "sampler" => settings.sampler.name().to_owned(),
        "schedule" => settings.schedule.name().to_owned(),
        "steps" => settings.steps.to_string(),
        "cfg" => settings.cfg.to_string(),
        "seed" => settings.seed.to_string(),
        "size" => format!("{}x{}", settings.width, settings.height),
        "clip_skip" => settings.clip_skip.to_string(),
        "rng" => settings.rng.name().to_owned(),
        "ensd" => settings.seed_delta.to_string(),
        "downcast" => settings.downcast_alphas.to_string(),
        "old_editing" => settings.old_editing.to_string(),
        "padding" => match settings.padding {
            PromptPadding::LastVector => "v0".to_owned(),
            PromptPadding::EmptyPrompt => "empty".to_owned(),
            _ => "none".to_owned(),
        },
        "emphasis" => settings.emphasis.name().to_owned(),
        "variation" => {
            settings.webui.variation.map_or("none".to_owned(), |it| format!("{} at {}", it.seed, it.strength))
        }
        "resize_from" => settings.webui.resize_from.map_or("none".to_owned(), |(w, h)| format!("{w}x{h}")),
        "ngms" => settings.webui.skips.below.to_string(),
        "early" => settings.webui.skips.early.to_string(),
        "churn" => settings.webui.sampler.churn.to_string(),
        "eta" => settings.webui.sampler.eta.map_or("none".to_owned(), |eta| eta.to_string()),
        "zero_snr" => settings.webui.zero_terminal_snr.to_string(),
        _ => panic!("unknown setting {name}"),
    }
}

#[test]
fn follows_names_or_refuses_each_parameter_of_each_program() {
    let folder = Folder::new();
    let checkpoint = Checkpoint::open(model(&folder, "model.safetensors", same)).unwrap();
    let table = fs::read_to_string(fixture("render/infotexts.txt")).unwrap();
    let cases: Vec<Case<'_>> = table.split("\n## ").skip(1).map(Case::parse).collect();
    assert!(cases.len() >= 77, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        match (case.plan(&folder, &checkpoint), case.refused) {
            (Err(error), Some(refused)) if error.contains(refused) => {}
            (Err(error), _) => wrong.push(format!("{}: refused: {error}", case.name)),
            (Ok(_), Some(_)) => wrong.push(format!("{}: not refused", case.name)),
            (Ok(plan), None) => {
                for (name, expected) in &case.settings {
                    let found = setting(&plan.settings, name);
                    if found != *expected {
                        wrong.push(format!("{}: {name} is {found}", case.name));
                    }
                }
                let check = plan.checks.iter().find(|check| check.name == "parameters").unwrap();
                match (case.ignored, check.verdict) {
                    (None, Verdict::Pass) => {}
                    (Some(ignored), Verdict::Warning) if ignored.split("; ").all(|it| check.found.contains(it)) => {}
                    _ => wrong.push(format!("{}: {}", case.name, check.found)),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
