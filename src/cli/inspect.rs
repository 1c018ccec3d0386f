//! The command `inspect`.

use std::num::NonZeroUsize;
use std::path::Path;

use super::args::Inspect as Command;
use super::each::each;
use super::exit::Exit;
use super::hints;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use super::vae_dir;
use crate::ops::Inspect;
use crate::report::Inspection;
use trinart_ckpt_formats::{OpenOptions, Result};
use trinart_ckpt_models::Checkpoint;
use trinart_ckpt_models::lora::BaseModel;

/// Inspects each file. Exits with 1 if a LoRA does not fit the model that it is checked against.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let vaes = match vae_dir::read(&command.vae_dir, &command.files, terminal) {
        Ok(vaes) => vaes,
        Err(exit) => return exit,
    };
    let model = match command.model.as_deref().map(base_model).transpose() {
        Ok(model) => model,
        Err(error) => {
            terminal.failure(&error);
            return Exit::Error;
        }
    };
    let inspect = |path: &_| {
        let inspect = Inspect::new(path)
            .keys(command.keys)
            .statistics(command.stats)
            .hint_vae(vaes.is_requested)
            .progress(terminal);
        let inspect = inspect.set_if_some(terminal.jobs(), Inspect::jobs);
        let depth = command.tree.map(|depth| depth.map_or(usize::MAX, NonZeroUsize::get));
        let inspect = inspect.set_if_some(depth, Inspect::tree);
        let inspect = inspect.set_if_some(model.as_ref(), Inspect::base_model);
        inspect.set_if_some(vaes.known.as_ref(), Inspect::known_vaes).run()
    };
    let text = |report: &Inspection| report.to_text_with(&hints::tip, terminal.colors());
    let fits = |report: &Inspection| report.lora_fit.as_ref().is_none_or(|fit| fit.fits);
    let exit = |report: &Inspection| if fits(report) { Exit::Success } else { Exit::Negative };
    each(&command.files, terminal, inspect, text, exit)
}

/// Opens the model that LoRAs are checked against.
fn base_model(path: &Path) -> Result<BaseModel> {
    // Only headers are read, so dangerous pickles do no harm.
    BaseModel::of(&Checkpoint::open_with(path, &OpenOptions::new().keep_dangers())?)
}
