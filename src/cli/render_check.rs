//! A picture, to see whether a checkpoint still draws.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::Exit;
use super::render_args::{RenderCheck, RngArgument, SyntaxArgument};
use super::terminal::Terminal;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, printable};
use crate::io::{Overwrite, Scratch};
use crate::model::position_ids::{self, State};
use crate::plan::{merge_vae, translate};
use crate::render::checks::{self, Check, Verdict};
use crate::render::infotext::Infotext;
use crate::render::picture::{Comparison, Picture, compare};
use crate::render::pipeline::{Settings, Timings, render};
use crate::render::prompt::{Preset, Syntax};
use crate::render::rng::Source;
use crate::render::sampler::Sampler;
use crate::render::schedule::Spacing;
use crate::state_dict::StateDict;
use crate::tensor::Overflow;

/// Bytes of a picture that is read: more than any PNG of its largest size needs.
const PICTURE_BYTES: u64 = 512 << 20;

/// Renders and reports.
pub(super) fn run(command: &RenderCheck, terminal: &Terminal) -> Exit {
    match check(command, terminal) {
        Ok(report) => {
            let exit = if report.verdict == Verdict::Pass { Exit::Yes } else { Exit::No };
            terminal.result(|| report.to_text(), &report);
            exit
        }
        Err(error) => {
            terminal.failure(&error);
            Exit::from(&error)
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    checkpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vae: Option<String>,
    picture: String,
    /// Pass or fail.
    verdict: Verdict,
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
    /// As in the picture.
    parameters: String,
    seconds: Timings,
    /// The most memory the program had, in bytes.
    peak_memory: Option<u64>,
}

/// The comparison with another picture, or with another checkpoint's.
#[derive(Debug, Serialize)]
struct Against {
    file: String,
    #[serde(flatten)]
    comparison: Comparison,
}

/// A checkpoint that can be rendered.
struct Model {
    state_dict: Arc<StateDict>,
    name: String,
    /// The first ten digits of its sha256, as WebUI shows them.
    hash: Option<String>,
}

impl Model {
    fn open(path: &Path, terminal: &Terminal) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        checkpoint.refuse_dangers()?;
        let hash = match path.is_dir() {
            true => None,
            false => Some(checkpoint.sha256(terminal)?.chars().take(10).collect()),
        };
        let (checkpoint, _) = translate::to_ldm(checkpoint)?;
        checkpoint.refuse_unreadable()?;
        Ok(Model { state_dict: Arc::new(checkpoint.contents().state_dict.clone()), name: stem(path), hash })
    }

    /// The same with another autoencoder, whose name and hash come back.
    fn with_autoencoder(self, base: &Path, path: &Path, terminal: &Terminal) -> Result<(Self, String, String)> {
        let vae = Checkpoint::open(path)?;
        vae.refuse_dangers()?;
        let (vae, _) = translate::autoencoder_to_ldm(vae)?;
        let (base, _) = translate::to_ldm(Checkpoint::open(base)?)?;
        let options = merge_vae::Options { dtype: None, vae_dtype: None, overflow: Overflow::Refuse, partial: false };
        let resolved = merge_vae::plan(&base, &vae, &options)?;
        let hash = match path.is_dir() {
            true => String::new(),
            false => vae.sha256(terminal)?.chars().take(10).collect(),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((Model { state_dict: Arc::new(resolved.state_dict), ..self }, name, hash))
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn check(command: &RenderCheck, terminal: &Terminal) -> Result<Report> {
    let overwrite = if command.force { Overwrite::Replace } else { Overwrite::Refuse };
    Scratch::check_destination(&command.output, overwrite)?;
    command.refuse_other_devices()?;
    let liked = command.like.as_deref().map(read_picture).transpose()?;
    let settings = settings(command, liked.as_ref().map(|(_, text)| text.as_str()))?;
    let mut model = Model::open(&command.checkpoint, terminal)?;
    let mut infotext = infotext(command, &settings, &model);
    if let Some(vae) = &command.vae {
        let (merged, name, hash) = model.with_autoencoder(&command.checkpoint, vae, terminal)?;
        model = merged;
        infotext.push("VAE hash", hash);
        infotext.push("VAE", name);
    }
    finish_infotext(&mut infotext, &settings);
    let rendered =
        render(&model.state_dict, &settings, terminal).map_err(|error| error.in_file(&command.checkpoint))?;
    let mut checks = judge_position_ids(&model.state_dict)?;
    checks.extend(rendered.checks);
    let mut other = command.like.clone().zip(liked.map(|(picture, _)| picture));
    if let Some(path) = &command.against {
        other = Some((path.clone(), other_picture(path, &settings, &rendered.latent, &mut checks, terminal)?));
    }
    let against = other.map(|(path, picture)| compared(&path, &rendered.picture, &picture, &mut checks)).transpose()?;
    let parameters = infotext.to_text();
    let png = rendered.picture.to_png(&parameters)?;
    let scratch = Scratch::create(&command.output, overwrite)?;
    scratch.reserve(png.len() as u64)?;
    scratch.write_at(0, &png)?;
    scratch.sync()?;
    scratch.persist()?;
    let has_failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    Ok(Report {
        checkpoint: command.checkpoint.to_string_lossy().into_owned(),
        vae: command.vae.as_ref().map(|path| path.to_string_lossy().into_owned()),
        picture: command.output.to_string_lossy().into_owned(),
        verdict: if has_failed { Verdict::Fail } else { Verdict::Pass },
        checks,
        against,
        parameters,
        seconds: rendered.timings,
        peak_memory: peak_memory(),
    })
}

/// The picture to compare with: a PNG, or what another checkpoint renders with the same settings.
fn other_picture(
    path: &Path,
    settings: &Settings,
    latent: &[f32],
    checks: &mut Vec<Check>,
    terminal: &Terminal,
) -> Result<Picture> {
    let mut magic = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read(&mut magic));
    if read.is_ok_and(|_| magic == *b"\x89PNG\r\n\x1a\n") {
        return Ok(read_picture(path)?.0);
    }
    let model = Model::open(path, terminal)?;
    let rendered = render(&model.state_dict, settings, terminal).map_err(|error| error.in_file(path))?;
    checks.push(checks::same_latents(latent, &rendered.latent));
    Ok(rendered.picture)
}

fn compared(path: &PathBuf, ours: &Picture, other: &Picture, checks: &mut Vec<Check>) -> Result<Against> {
    let comparison = compare(ours, other).map_err(|error| error.in_file(path))?;
    let found = match comparison.psnr {
        None => "the same, pixel by pixel".to_owned(),
        Some(psnr) => format!(
            "different: PSNR {psnr:.1} dB, SSIM {:.4}, at most {} of 255, {:.1} % of values by more than 2",
            comparison.ssim,
            comparison.max_difference,
            100.0 * comparison.changed
        ),
    };
    checks.push(Check::info("picture", found));
    Ok(Against { file: path.to_string_lossy().into_owned(), comparison })
}

/// A PNG and its parameters.
fn read_picture(path: &Path) -> Result<(Picture, String)> {
    let fail = |error| Error::io("cannot read", error).in_file(path);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(PICTURE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > PICTURE_BYTES {
        return Err(Error::limit(format!("a picture of more than {PICTURE_BYTES} bytes")).in_file(path));
    }
    let (picture, text) = Picture::from_png(&bytes).map_err(|error| error.in_file(path))?;
    Ok((picture, text.unwrap_or_default()))
}

/// What was typed, or stands in the picture that is to be made again.
fn settings(command: &RenderCheck, liked: Option<&str>) -> Result<Settings> {
    let liked = liked.map(Infotext::parse).unwrap_or_default();
    if command.like.is_some() && liked.fields.is_empty() {
        let found = "the picture has no parameters that WebUI would have written";
        return Err(Error::missing(found).in_file(command.like.clone().unwrap_or_default()));
    }
    let number = |name: &str| liked.get(name).and_then(|value| value.parse::<f64>().ok());
    let said = |name: &str| liked.get(name).map(str::to_owned);
    let name = command.sampler.clone().or(said("Sampler")).unwrap_or_else(|| Sampler::default().name().to_owned());
    let (sampler, spacing) = Sampler::from_name(&name).ok_or_else(|| {
        let known: Vec<&str> = Sampler::ALL.iter().map(|sampler| sampler.name()).collect();
        Error::usage(format!("no sampler {name:?}; there are {} and DPM++ 2M Karras", known.join(", ")))
    })?;
    let spacing = spacing.unwrap_or(match liked.get("Schedule type") {
        Some("Karras") => Spacing::Karras,
        Some("Automatic") => sampler.automatic_spacing(),
        _ => Spacing::Uniform,
    });
    let size = match (&command.size, liked.get("Size")) {
        (Some(size), _) => *size,
        (None, Some(text)) => super::render_args::size(text).map_err(Error::usage)?,
        (None, None) => (512, 512),
    };
    let preset = command.preset.as_deref().and_then(Preset::from_name);
    let negative = command.negative.clone().unwrap_or(liked.negative.clone());
    let rng = match (command.rng, liked.get("RNG")) {
        (Some(RngArgument::Cpu), _) | (None, Some("CPU")) => Source::Cpu,
        _ => Source::Nv,
    };
    Ok(Settings {
        prompt: command.prompt.clone().unwrap_or(liked.prompt.clone()),
        negative: preset.map_or(negative.clone(), |preset| preset.extend(&negative)),
        syntax: match command.prompt_syntax {
            SyntaxArgument::Webui => Syntax::WebUi,
            SyntaxArgument::Trinart => Syntax::Trinart,
        },
        steps: command.steps.map(usize::from).or(number("Steps").map(|it| it as usize)).unwrap_or(20).clamp(1, 1000),
        sampler,
        spacing,
        cfg: command.cfg.or(number("CFG scale")).unwrap_or(7.0),
        seed: command.seed.or(liked.get("Seed").and_then(|it| it.parse().ok())).unwrap_or(0),
        rng,
        width: size.0,
        height: size.1,
        clip_skip: command.clip_skip.map(usize::from).or(number("Clip skip").map(|it| it as usize)).unwrap_or(1),
    })
}

/// What goes into the picture, in WebUI's order.
fn infotext(command: &RenderCheck, settings: &Settings, model: &Model) -> Infotext {
    let mut text = Infotext {
        prompt: settings.prompt.trim().to_owned(),
        negative: settings.negative.trim().to_owned(),
        ..Infotext::default()
    };
    text.push("Steps", settings.steps);
    text.push("Sampler", settings.sampler.name());
    if settings.sampler.has_spacing() {
        text.push("Schedule type", settings.spacing.name());
    }
    text.push("CFG scale", settings.cfg);
    text.push("Seed", settings.seed);
    text.push("Size", format!("{}x{}", settings.width, settings.height));
    if let Some(hash) = &model.hash {
        text.push("Model hash", hash);
    }
    text.push("Model", &model.name);
    if command.prompt_syntax == SyntaxArgument::Trinart {
        text.push("Prompt syntax", "trinart");
    }
    text
}

fn finish_infotext(text: &mut Infotext, settings: &Settings) {
    if settings.clip_skip > 1 {
        text.push("Clip skip", settings.clip_skip);
    }
    text.push("RNG", settings.rng.name());
    text.push("Version", concat!("trinart-ckpt ", env!("CARGO_PKG_VERSION")));
}

/// The numbers of the positions are a constant, which the render knows; where a checkpoint has other ones, WebUI draws
/// another picture.
fn judge_position_ids(state_dict: &StateDict) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (key, tensor) in state_dict.iter().filter(|(key, _)| position_ids::is_key(key)) {
        let state = position_ids::judge(tensor, position_ids::positions(state_dict, key));
        let found = match state.map_err(|error| error.in_tensor(key))? {
            State::Right => continue,
            State::WrongDtype => format!("the right numbers, but {}; rendered with I64", tensor.dtype()),
            State::WrongValues => format!("wrong numbers, {}; rendered with the right ones", tensor.dtype()),
        };
        let expected = "I64, 0 to 76: WebUI takes them as they are; convert --fix-position-ids mends them".to_owned();
        checks.push(Check { name: "position_ids", verdict: Verdict::Repaired, found, expected });
    }
    Ok(checks)
}

/// The most memory the program had, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

impl Report {
    fn to_text(&self) -> String {
        let mut out = String::new();
        let vae = self.vae.as_ref().map(|vae| format!(" with {}", printable(vae))).unwrap_or_default();
        let _ = writeln!(out, "{}{vae} -> {}", printable(&self.checkpoint), printable(&self.picture));
        for line in self.parameters.lines() {
            let _ = writeln!(out, "  {}", printable(line));
        }
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Pass => "pass",
                Verdict::Repaired => "repaired",
                Verdict::Fail => "FAIL",
                Verdict::Info => "-",
            };
            let _ = write!(out, "  {verdict:<8}  {:<16} {}", check.name, printable(&check.found));
            let is_said = matches!(check.verdict, Verdict::Fail | Verdict::Repaired);
            let _ = if is_said { writeln!(out, " (expected {})", check.expected) } else { writeln!(out) };
        }
        let Timings { text, load, sampling, decode } = self.seconds;
        let memory = self.peak_memory.map(|bytes| format!(", {} of memory", crate::report::size(bytes)));
        let _ = writeln!(
            out,
            "  time      text {text:.1} s, load {load:.1} s, sampling {sampling:.1} s, decode {decode:.1} s{}",
            memory.unwrap_or_default()
        );
        let _ = writeln!(out, "{}", if self.verdict == Verdict::Pass { "PASS" } else { "FAIL" });
        out
    }
}
