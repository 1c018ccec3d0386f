//! The command `hash`.

use super::args::Hash as Command;
use super::each::each;
use super::exit::Exit;
use super::set_if_some::SetIfSome;
use super::terminal::Terminal;
use super::vae_dir;
use crate::ops::HashCheckpoint;
use crate::report::Hashes;

/// Hashes each file.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let vaes = match vae_dir::read(&command.vae_dir, &command.files, terminal) {
        Ok(vaes) => vaes,
        Err(exit) => return exit,
    };
    let hash = |path: &_| {
        let hash =
            HashCheckpoint::new(path).progress(terminal).set_if_some(vaes.known.as_ref(), HashCheckpoint::known_vaes);
        hash.set_if_some(terminal.jobs(), HashCheckpoint::jobs).run()
    };
    each(&command.files, terminal, hash, Hashes::to_text, |_| Exit::Success)
}
