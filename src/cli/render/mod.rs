//! A picture, to see whether a checkpoint still draws.

mod against;
pub(super) mod args;
mod device;
mod like;
mod model;
mod report;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::against::{Other, read_picture};
use self::args::RenderCheck;
use self::like::ReferencePicture;
use self::model::{Model, judge_position_ids};
use self::report::{Report, peak_memory};
use super::Exit;
use super::terminal::Terminal;
use crate::error::{Error, Result};
use crate::format::{self, Target, WriteOptions};
use crate::io::{Overwrite, Scratch};
use crate::metadata::Metadata;
use crate::render::checks::Verdict;
use crate::render::dump::Dump;
use crate::render::observer::Trace;
use crate::render::pipeline::render;

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

fn check(command: &RenderCheck, terminal: &Terminal) -> Result<Report> {
    let overwrite = if command.force { Overwrite::Replace } else { Overwrite::Refuse };
    let sheet = sheet_path(command);
    check_destinations(command, sheet.as_deref(), overwrite)?;
    let reference = command.like.as_deref().map(read_picture).transpose()?;
    let like = match (&command.like, &reference) {
        (Some(path), Some((_, text))) => ReferencePicture::parse(path, text)?,
        _ => ReferencePicture::default(),
    };
    let mut model = Model::open(&command.checkpoint)?;
    let hash = model.hash();
    let place = command.device.open()?;
    let settings = settings::settings(command, &like, place.dtype)?;
    let mut vae = None;
    if let Some(path) = &command.vae {
        let (merged, name, hash) = model.with_autoencoder(&command.checkpoint, path, terminal)?;
        model = merged;
        vae = Some((name, hash));
    }
    let vae = vae.as_ref().map(|(name, hash)| (name.as_str(), hash.as_str()));
    let dump = command.dump.as_ref().map(|path| (path, Arc::new(Dump::default())));
    let stages = dump.as_ref().map_or_else(Trace::default, |(_, dump)| Trace::to(dump.clone()));
    let mut rendered = render(&model.state_dict, &settings, place.machine.as_ref(), &stages, terminal)
        .map_err(|error| error.in_file(&command.checkpoint))?;
    let hash = hash.digits()?;
    let infotext = settings::infotext(&settings, &model.name, hash.as_deref(), vae);
    let mut checks = like.judge(hash.as_deref(), vae);
    checks.append(&mut judge_position_ids(&model.state_dict)?);
    checks.append(&mut rendered.checks);
    let other = match (&command.against, &command.like, reference) {
        (Some(path), ..) => {
            Some((path, Other::open(path, &model, &settings, place.machine.as_ref(), &mut checks, terminal)?))
        }
        (None, Some(path), Some((picture, _))) => Some((path, Other::Picture(picture))),
        _ => None,
    };
    let against = other.as_ref().map(|(path, other)| other.compare(path, &rendered, &mut checks)).transpose()?;
    if let Some((path, dump)) = dump {
        let options = WriteOptions { overwrite, verify: false, jobs: terminal.jobs(), progress: terminal };
        format::write(path, Target::Safetensors, &dump.to_state_dict()?, &Metadata::default(), &options)?;
    }
    if let (Some(sheet), Some((path, other)), Some(against)) = (&sheet, &other, &against) {
        let picture = other.sheet((&command.checkpoint, &rendered.picture), path, against);
        write_file(sheet, &picture.to_png("")?, overwrite)?;
    }
    let parameters = infotext.to_text();
    write_file(&command.output, &rendered.picture.to_png(&parameters)?, overwrite)?;
    let has_failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    let name = |path: &PathBuf| path.to_string_lossy().into_owned();
    Ok(Report {
        checkpoint: name(&command.checkpoint),
        vae: command.vae.as_ref().map(name),
        picture: name(&command.output),
        sheet: sheet.as_ref().map(name),
        device: place.name(),
        arithmetic: place.arithmetic(settings.dtype),
        dtype: settings.dtype.to_string(),
        verdict: if has_failed { Verdict::Fail } else { Verdict::Pass },
        checks,
        against,
        parameters,
        seconds: rendered.timings,
        peak_memory: peak_memory(),
        peak_device_memory: place.peak_memory(),
    })
}

/// Where the contact sheet goes, if there is something to compare with: as said, or beside the picture.
fn sheet_path(command: &RenderCheck) -> Option<PathBuf> {
    command.against.as_ref().or(command.like.as_ref())?;
    Some(command.sheet.clone().unwrap_or_else(|| command.output.with_extension("sheet.png")))
}

/// All of them may be written, and none is another, before the first second of work.
fn check_destinations(command: &RenderCheck, sheet: Option<&Path>, overwrite: Overwrite) -> Result<()> {
    let mut seen: Vec<&Path> = Vec::new();
    for path in [Some(command.output.as_path()), sheet, command.dump.as_deref()].into_iter().flatten() {
        Scratch::check_destination(path, overwrite)?;
        if seen.contains(&path) {
            return Err(Error::usage("two outputs cannot be one file").in_file(path));
        }
        seen.push(path);
    }
    Ok(())
}

/// The whole file or what was there before.
fn write_file(path: &Path, bytes: &[u8], overwrite: Overwrite) -> Result<()> {
    let scratch = Scratch::create(path, overwrite)?;
    scratch.reserve(bytes.len() as u64)?;
    scratch.write_at(0, bytes)?;
    scratch.sync()?;
    scratch.persist()
}
