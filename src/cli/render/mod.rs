//! The command `render-check`.

pub(super) mod args;

use self::args::{RenderCheck as Command, RngArgument, SyntaxArgument};
use super::Exit;
use super::terminal::Terminal;
use crate::formats::error::Result;
use crate::models::Checkpoint;
use crate::ops::RenderCheck;
use crate::render::prompt::{Preset, Syntax};
use crate::render::sampling::NoiseSource;
use crate::render::settings::RenderOptions;
use crate::report::RenderCheckReport;

/// Renders, writes the files and prints the report. Exits with 1 if a check failed.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    match check(command, terminal) {
        Ok(report) => {
            terminal.result(|| report.to_text(), &report);
            if report.passed() { Exit::Yes } else { Exit::No }
        }
        Err(error) => {
            terminal.failure(&error);
            Exit::from(&error)
        }
    }
}

fn check(command: &Command, terminal: &Terminal) -> Result<RenderCheckReport> {
    let checkpoint = Checkpoint::open(&command.checkpoint)?;
    let vae = command.vae.as_ref().map(Checkpoint::open).transpose()?;
    let mut check = RenderCheck::new(&checkpoint)
        .options(options(command))
        .device(command.device)
        .overwrite(command.force)
        .jobs(terminal.jobs())
        .progress(terminal);
    if let Some(vae) = &vae {
        check = check.vae(vae);
    }
    if let Some(against) = &command.against {
        check = check.against(against);
    }
    if let Some(like) = &command.like {
        check = check.like(like);
    }
    if let Some(sheet) = &command.sheet {
        check = check.sheet(sheet);
    }
    if let Some(dump) = &command.dump {
        check = check.dump(dump);
    }
    check.write(&command.output)
}

#[expect(clippy::field_reassign_with_default, reason = "a literal cannot build a non-exhaustive struct of a library")]
fn options(command: &Command) -> RenderOptions {
    let mut options = RenderOptions::default();
    options.prompt = command.prompt.clone();
    options.negative = command.negative.clone();
    options.preset = command.preset.as_deref().and_then(Preset::from_name);
    options.syntax = command.prompt_syntax.map(|syntax| match syntax {
        SyntaxArgument::Webui => Syntax::WebUi,
        SyntaxArgument::Trinart => Syntax::Trinart,
    });
    options.steps = command.steps.map(usize::from);
    options.sampler = command.sampler.clone();
    options.cfg = command.cfg;
    options.seed = command.seed;
    options.rng = command.rng.map(|rng| match rng {
        RngArgument::Nv => NoiseSource::Nv,
        RngArgument::Cpu => NoiseSource::Cpu,
    });
    options.size = command.size;
    options.clip_skip = command.clip_skip.map(usize::from);
    options.dtype = command.dtype.map(Into::into);
    options
}
