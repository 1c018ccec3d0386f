//! The command `inspect`.

use std::num::NonZeroUsize;

use super::args::Inspect as Command;
use super::each::each;
use super::exit::Exit;
use super::hints;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use super::vae_dir;
use crate::ops::Inspect;
use crate::report::Inspection;

/// Inspects each file.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let vaes = match vae_dir::read(&command.vae_dir, &command.files, terminal) {
        Ok(vaes) => vaes,
        Err(exit) => return exit,
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
        inspect.set_if_some(vaes.known.as_ref(), Inspect::known_vaes).run()
    };
    let text = |report: &Inspection| report.to_text_with(&hints::tip, terminal.colors());
    each(&command.files, terminal, inspect, text)
}
