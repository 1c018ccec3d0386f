//! The place of a file among all files of a command, for the progress bar.

use std::path::Path;
use std::time::{Duration, Instant};

use super::terminal::Terminal;
use crate::ops::Inputs;
use trinart_ckpt_formats::error::printable;

/// Characters of a file's name that the bar shows.
const SHOWN: usize = 30;

/// The files of a command. With several, the progress bar shows the name of the current one, its number, and the time that
/// all of them still take.
pub(super) struct Queue<'a> {
    terminal: &'a Terminal,
    count: usize,
    bytes: u64,
    start: Instant,
    number: usize,
    /// The size of the files before the current one, and of the current one.
    done: u64,
    current: u64,
}

impl<'a> Queue<'a> {
    pub(super) fn new(inputs: &Inputs, terminal: &'a Terminal) -> Self {
        let (count, bytes) = (inputs.files.len(), inputs.bytes());
        Queue { terminal, count, bytes, start: Instant::now(), number: 0, done: 0, current: 0 }
    }

    /// Begins with the next file.
    pub(super) fn next(&mut self, path: &Path) {
        self.number += 1;
        self.done = self.done.saturating_add(self.current);
        self.current = path.metadata().ok().filter(|found| found.is_file()).map_or(0, |found| found.len());
        if self.count < 2 {
            return;
        }
        let name = path.file_name().map_or_else(String::new, |name| printable(&name.to_string_lossy()));
        let cut = name.chars().count() > SHOWN;
        let name: String = name.chars().take(SHOWN).chain(cut.then_some('…')).collect();
        let left = self.left().map_or_else(String::new, |left| format!(", {left} left"));
        self.terminal.set_place(format!("{}/{} {name}{left} ", self.number, self.count));
    }

    /// The time that the remaining files take at the pace so far.
    fn left(&self) -> Option<String> {
        let elapsed = self.start.elapsed();
        if self.done == 0 || elapsed < Duration::from_secs(1) {
            return None;
        }
        let seconds = elapsed.as_secs_f64() * self.bytes.saturating_sub(self.done) as f64 / self.done as f64;
        Some(match seconds as u64 {
            seconds @ ..60 => format!("{seconds} s"),
            seconds @ 60..3600 => format!("{} min", seconds.div_ceil(60)),
            seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        })
    }
}
