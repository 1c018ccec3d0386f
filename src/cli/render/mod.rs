//! The command `render-check`.

pub(super) mod args;

use std::path::Path;

use self::args::{RenderCheck as Command, RngArgument, SyntaxArgument};
use super::Exit;
use super::terminal::Terminal;
use crate::formats::error::Result;
use crate::formats::io::Overwrite;
use crate::ops::render_check::{RenderCheck, RenderOutputs};
use crate::render::checks::Verdict;
use crate::render::prompt::{Preset, Syntax};
use crate::render::rng::NoiseSource;
use crate::render::settings::RenderOptions;
use crate::report::{RenderChecked, RenderPaths};

/// Renders, writes the files and prints the report.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    match check(command, terminal) {
        Ok((report, verdict)) => {
            terminal.result(|| report.to_text(), &report);
            if verdict == Verdict::Pass { Exit::Yes } else { Exit::No }
        }
        Err(error) => {
            terminal.failure(&error);
            Exit::from(&error)
        }
    }
}

fn check(command: &Command, terminal: &Terminal) -> Result<(RenderChecked, Verdict)> {
    let outputs = outputs(command);
    outputs.check()?;
    let mut check = RenderCheck::new(&command.checkpoint)
        .options(options(command))
        .device(command.device)
        .jobs(terminal.jobs())
        .dump(outputs.dump.is_some());
    if let Some(vae) = &command.vae {
        check = check.vae(vae);
    }
    if let Some(against) = &command.against {
        check = check.against(against);
    }
    if let Some(like) = &command.like {
        check = check.like(like);
    }
    let report = check.run(terminal)?;
    outputs.write(&report, terminal.jobs(), terminal)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let paths = RenderPaths {
        checkpoint: text(&command.checkpoint),
        vae: command.vae.as_deref().map(text),
        picture: text(&outputs.picture),
        sheet: outputs.sheet.as_deref().map(text),
    };
    Ok((RenderChecked::new(&report, paths), report.verdict))
}

fn outputs(command: &Command) -> RenderOutputs {
    let mut outputs = RenderOutputs::new(&command.output);
    let is_compared = command.against.is_some() || command.like.is_some();
    let sheet = || command.sheet.clone().unwrap_or_else(|| command.output.with_extension("sheet.png"));
    outputs.sheet = is_compared.then(sheet);
    outputs.dump = command.dump.clone();
    outputs.overwrite = if command.force { Overwrite::Replace } else { Overwrite::Refuse };
    outputs
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
