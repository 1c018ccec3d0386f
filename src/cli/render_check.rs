//! The command `render-check`.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use super::args::{RenderCheck as Command, RngArgument, SyntaxArgument};
use super::each::each;
use super::exit::Exit;
use super::set_if_some::SetIfSome;
use super::sys::keep_freed_memory;
use super::terminal::Terminal;
use crate::ops::{Inputs, MergeVae, RenderCheck, RenderSheet};
use crate::report::RenderCheckReport;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_render::prompt::{Preset, Syntax};
use trinart_ckpt_render::sampling::NoiseSource;
use trinart_ckpt_render::settings::RenderOptions;

/// The size and the number of steps of `--quick`.
const QUICK: ((usize, usize), usize) = ((256, 256), 10);

/// Renders, writes the files and prints the report. Exits with 1 if a check failed.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    keep_freed_memory();
    match &command.out_dir {
        Some(folder) => many(command, folder, terminal),
        None => terminal.finish(one(command, terminal), RenderCheckReport::to_text, exit),
    }
}

fn exit(report: &RenderCheckReport) -> Exit {
    if report.passed() { Exit::Success } else { Exit::Negative }
}

fn one(command: &Command, terminal: &Terminal) -> Result<RenderCheckReport> {
    let output = command.output.as_ref().ok_or_else(|| Error::usage("no output is given"))?;
    match command.checkpoints.as_slice() {
        [checkpoint] => check(command, checkpoint, output, command.sheet.as_deref(), terminal),
        _ => Err(Error::usage("--output takes one checkpoint; use --out-dir for several")),
    }
}

/// Renders with each checkpoint into a folder. The contact sheet is written after each, so that it exists after an
/// interrupt too.
fn many(command: &Command, folder: &Path, terminal: &Terminal) -> Exit {
    let inputs = Inputs::list(&command.checkpoints).without_below(folder);
    let is_other = |path: &Path| Checkpoint::open(path).is_ok_and(|found| !MergeVae::takes(&found));
    let (skipped, inputs_to_render): (Vec<_>, Vec<_>) =
        inputs.files.into_iter().partition(|input| input.is_found && is_other(&input.path));
    let outputs: Vec<(PathBuf, PathBuf)> = inputs_to_render
        .into_iter()
        .map(|input| (input.path, folder.join(input.relative.with_extension("png"))))
        .collect();
    let failed = inputs.errors.iter().filter_map(|error| error.file().map(Path::to_owned));
    let paths: Vec<PathBuf> = failed.chain(outputs.iter().map(|(input, _)| input.clone())).collect();
    let sheet = command.sheet.clone().unwrap_or_else(|| folder.join("sheet.png"));
    let pictures = RefCell::new(RenderSheet::new(&sheet, command.force));
    let work = |path: &Path| {
        let output = output_of(path, &outputs)?;
        if let Some(parent) = output.parent() {
            let failed = |error| Error::io("cannot create the folder", error).in_file(parent);
            fs::create_dir_all(parent).map_err(failed)?;
        }
        pictures.borrow().check()?;
        let mut report = check(command, path, output, None, terminal)?;
        pictures.borrow_mut().add(&report)?;
        report.sheet.get_or_insert_with(|| sheet.to_string_lossy().into_owned());
        Ok(report)
    };
    let exit = each(&paths, terminal, work, RenderCheckReport::to_text, exit);
    if !skipped.is_empty() {
        terminal.text(|| format!("{} skipped: no Stable Diffusion checkpoints\n", skipped.len()));
    }
    exit
}

/// The output of an input. Fails if another input has the same.
fn output_of<'a>(path: &Path, outputs: &'a [(PathBuf, PathBuf)]) -> Result<&'a Path> {
    let (_, output) = outputs.iter().find(|(input, _)| input == path).or_internal("an input without an output")?;
    match outputs.iter().find(|(input, other)| input != path && other == output) {
        Some((other, _)) => {
            let found = format!("has the same output as {}: {}", other.display(), output.display());
            Err(Error::conflict(found).in_file(path))
        }
        None => Ok(output),
    }
}

fn check(
    command: &Command,
    path: &Path,
    output: &Path,
    sheet: Option<&Path>,
    terminal: &Terminal,
) -> Result<RenderCheckReport> {
    let checkpoint = Checkpoint::open(path)?;
    let vae = command.vae.as_ref().map(Checkpoint::open).transpose()?;
    let refiner = command.refiner.as_ref().map(Checkpoint::open).transpose()?;
    RenderCheck::new(&checkpoint)
        .set_if_some(vae.as_ref(), RenderCheck::vae)
        .set_if_some(refiner.as_ref(), RenderCheck::refiner)
        .set_if_some(command.against.as_ref(), RenderCheck::against)
        .set_if_some(command.like.as_ref(), RenderCheck::like)
        .set_if_some(command.lora_dir.as_ref(), RenderCheck::loras)
        .set_if_some(command.embeddings_dir.as_ref(), RenderCheck::embeddings)
        .set_if_some(sheet, RenderCheck::sheet)
        .set_if_some(command.dump.as_ref(), RenderCheck::dump)
        .set_if_some(terminal.jobs(), RenderCheck::jobs)
        .options(options(command))
        .device(command.device)
        .overwrite(command.force)
        .progress(terminal)
        .write(output)
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
    let (size, steps) = if command.quick { (Some(QUICK.0), Some(QUICK.1)) } else { (None, None) };
    RenderOptions::default()
        .set_if_some(command.prompt.as_ref(), RenderOptions::prompt)
        .set_if_some(command.negative.as_ref(), RenderOptions::negative)
        .set_if_some(command.preset.as_deref().and_then(Preset::from_name), RenderOptions::preset)
        .set_if_some(syntax, RenderOptions::syntax)
        .set_if_some(command.steps.map(usize::from).or(steps), RenderOptions::steps)
        .set_if_some(command.sampler.as_ref(), RenderOptions::sampler)
        .set_if_some(command.schedule.as_ref(), RenderOptions::schedule)
        .set_if_some(command.cfg, RenderOptions::cfg)
        .set_if_some(command.seed, RenderOptions::seed)
        .set_if_some(rng, RenderOptions::rng)
        .set_if_some(command.size.or(size), RenderOptions::size)
        .set_if_some(command.clip_skip.map(usize::from), RenderOptions::clip_skip)
        .set_if_some(command.switch_at, RenderOptions::switch_at)
        .set_if_some(command.dtype, RenderOptions::dtype)
}
