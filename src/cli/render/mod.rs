//! The command `render-check`.

pub(super) mod args;

use self::args::{RenderCheck as Command, RngArgument, SyntaxArgument};
use super::exit::Exit;
use super::given::Given;
use super::terminal::Terminal;
use crate::ops::RenderCheck;
use crate::report::RenderCheckReport;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_render::prompt::{Preset, Syntax};
use trinart_ckpt_render::sampling::NoiseSource;
use trinart_ckpt_render::settings::RenderOptions;

/// Renders, writes the files and prints the report. Exits with 1 if a check failed.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let exit = |report: &RenderCheckReport| if report.passed() { Exit::Success } else { Exit::Negative };
    terminal.conclude(check(command, terminal), RenderCheckReport::to_text, exit)
}

fn check(command: &Command, terminal: &Terminal) -> Result<RenderCheckReport> {
    let checkpoint = Checkpoint::open(&command.checkpoint)?;
    let vae = command.vae.as_ref().map(Checkpoint::open).transpose()?;
    RenderCheck::new(&checkpoint)
        .given(vae.as_ref(), RenderCheck::vae)
        .given(command.against.as_ref(), RenderCheck::against)
        .given(command.like.as_ref(), RenderCheck::like)
        .given(command.sheet.as_ref(), RenderCheck::sheet)
        .given(command.dump.as_ref(), RenderCheck::dump)
        .given(terminal.requested_jobs(), RenderCheck::jobs)
        .options(options(command))
        .device(command.device)
        .overwrite(command.force)
        .progress(terminal)
        .write(&command.output)
}

fn options(command: &Command) -> RenderOptions {
    let syntax = command.prompt_syntax.map(|syntax| match syntax {
        SyntaxArgument::Webui => Syntax::WebUi,
        SyntaxArgument::Trinart => Syntax::Trinart,
    });
    let rng = command.rng.map(|rng| match rng {
        RngArgument::Nv => NoiseSource::Nv,
        RngArgument::Cpu => NoiseSource::Cpu,
    });
    RenderOptions::default()
        .given(command.prompt.as_ref(), RenderOptions::prompt)
        .given(command.negative.as_ref(), RenderOptions::negative)
        .given(command.preset.as_deref().and_then(Preset::from_name), RenderOptions::preset)
        .given(syntax, RenderOptions::syntax)
        .given(command.steps.map(usize::from), RenderOptions::steps)
        .given(command.sampler.as_ref(), RenderOptions::sampler)
        .given(command.cfg, RenderOptions::cfg)
        .given(command.seed, RenderOptions::seed)
        .given(rng, RenderOptions::rng)
        .given(command.size, RenderOptions::size)
        .given(command.clip_skip.map(usize::from), RenderOptions::clip_skip)
        .given(command.dtype.map(Into::into), RenderOptions::dtype)
}
