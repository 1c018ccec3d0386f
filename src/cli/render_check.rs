//! The command `render-check`.

use super::args::{RenderCheck as Command, RngArgument, SyntaxArgument};
use super::exit::Exit;
use super::set_if_some::SetIfSome;
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
    terminal.finish(check(command, terminal), RenderCheckReport::to_text, exit)
}

fn check(command: &Command, terminal: &Terminal) -> Result<RenderCheckReport> {
    let checkpoint = Checkpoint::open(&command.checkpoint)?;
    let vae = command.vae.as_ref().map(Checkpoint::open).transpose()?;
    let refiner = command.refiner.as_ref().map(Checkpoint::open).transpose()?;
    RenderCheck::new(&checkpoint)
        .set_if_some(vae.as_ref(), RenderCheck::vae)
        .set_if_some(refiner.as_ref(), RenderCheck::refiner)
        .set_if_some(command.against.as_ref(), RenderCheck::against)
        .set_if_some(command.like.as_ref(), RenderCheck::like)
        .set_if_some(command.lora_dir.as_ref(), RenderCheck::loras)
        .set_if_some(command.embeddings_dir.as_ref(), RenderCheck::embeddings)
        .set_if_some(command.sheet.as_ref(), RenderCheck::sheet)
        .set_if_some(command.dump.as_ref(), RenderCheck::dump)
        .set_if_some(terminal.jobs(), RenderCheck::jobs)
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
        .set_if_some(command.prompt.as_ref(), RenderOptions::prompt)
        .set_if_some(command.negative.as_ref(), RenderOptions::negative)
        .set_if_some(command.preset.as_deref().and_then(Preset::from_name), RenderOptions::preset)
        .set_if_some(syntax, RenderOptions::syntax)
        .set_if_some(command.steps.map(usize::from), RenderOptions::steps)
        .set_if_some(command.sampler.as_ref(), RenderOptions::sampler)
        .set_if_some(command.schedule.as_ref(), RenderOptions::schedule)
        .set_if_some(command.cfg, RenderOptions::cfg)
        .set_if_some(command.seed, RenderOptions::seed)
        .set_if_some(rng, RenderOptions::rng)
        .set_if_some(command.size, RenderOptions::size)
        .set_if_some(command.clip_skip.map(usize::from), RenderOptions::clip_skip)
        .set_if_some(command.switch_at, RenderOptions::switch_at)
        .set_if_some(command.dtype, RenderOptions::dtype)
}
