//! Prints results, errors and progress.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anstream::AutoStream;
use clap::ColorChoice;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;

use super::args::{Common, JsonArgument};
use super::color;
use super::envelopes::{ErrorReport, SummaryLine};
use super::exit::Exit;
use super::{hints, sys};
use crate::report::{BAD, Colors, Failure, to_json, to_json_line};
use trinart_ckpt_formats::error::{Error, Result, printable_json};
use trinart_ckpt_formats::io::Progress;

/// Prints results on stdout, and errors and progress on stderr.
pub(super) struct Terminal {
    json: Option<JsonArgument>,
    color: ColorChoice,
    quiet: bool,
    jobs: Option<usize>,
    bar: ProgressBar,
    is_ticking: AtomicBool,
    interrupted: Arc<AtomicBool>,
    /// Whether the command has several inputs.
    has_several: AtomicBool,
    /// Whether a result could not be printed.
    lost_result: AtomicBool,
}

impl Terminal {
    pub(super) fn new(common: &Common, color: ColorChoice) -> Self {
        let bar = if common.quiet || !io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        };
        let interrupted = Arc::new(AtomicBool::new(false));
        // The operation stops and removes its temporary files.
        sys::catch_interrupts(&interrupted);
        Terminal {
            json: common.json,
            color,
            quiet: common.quiet,
            jobs: common.jobs.map(usize::from),
            bar,
            is_ticking: AtomicBool::new(false),
            interrupted,
            has_several: AtomicBool::new(false),
            lost_result: AtomicBool::new(false),
        }
    }

    /// The number of threads, if the command line sets it.
    pub(super) fn jobs(&self) -> Option<usize> {
        self.jobs
    }

    /// Ends a command: prints its report, or the error that prevented one, and returns the exit code. `text` formats the
    /// report for people, and `exit` returns its exit code.
    pub(super) fn finish<R: Serialize>(
        &self,
        result: Result<R>,
        text: impl FnOnce(&R) -> String,
        exit: impl FnOnce(&R) -> Exit,
    ) -> Exit {
        self.end(result, |report| self.result(|| text(report), report), exit)
    }

    /// Ends a command as [`Self::finish`], but prints the text also if output is turned off.
    pub(super) fn finish_always<R: Serialize>(
        &self,
        result: Result<R>,
        text: impl FnOnce(&R) -> String,
        exit: impl FnOnce(&R) -> Exit,
    ) -> Exit {
        self.end(result, |report| self.print(|| text(report), report), exit)
    }

    fn end<R>(&self, result: Result<R>, print: impl FnOnce(&R), exit: impl FnOnce(&R) -> Exit) -> Exit {
        match result {
            Ok(report) => {
                print(&report);
                exit(&report)
            }
            Err(error) => {
                self.failure(&error);
                Exit::of(&error)
            }
        }
    }

    /// Prints a result: `text` for people, `document` for scripts.
    fn result(&self, text: impl FnOnce() -> String, document: &impl Serialize) {
        if self.is_json() || !self.quiet {
            self.print(text, document);
        }
    }

    /// Whether results are printed as JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json.is_some()
    }

    /// Sets whether the command has several inputs, which decides how JSON is printed unless the command line does.
    pub(super) fn expect_several(&self, has_several: bool) {
        self.has_several.store(has_several, Ordering::Relaxed);
    }

    /// Whether each result is printed at once, as a JSON document on a line.
    pub(super) fn is_lines(&self) -> bool {
        match self.json {
            Some(JsonArgument::Auto) => self.has_several.load(Ordering::Relaxed),
            Some(JsonArgument::Lines) => true,
            Some(JsonArgument::Document) | None => false,
        }
    }

    /// Prints the result of one of several files as a line of JSON.
    pub(super) fn line(&self, result: &impl Serialize) {
        self.print_json(to_json_line(result));
    }

    /// Prints the last line of JSON, behind those of all files.
    pub(super) fn summary(&self, summary: &impl Serialize) {
        self.line(&SummaryLine { summary });
    }

    /// Prints the results of all files as one JSON document, if that is requested.
    pub(super) fn document(&self, results: &impl Serialize) {
        if self.is_json() && !self.is_lines() {
            self.print_json(to_json(results));
        }
    }

    /// Prints a part of the result for people, if there is to be one.
    pub(super) fn text(&self, text: impl FnOnce() -> String) {
        if !self.is_json() && !self.quiet {
            self.write(&text());
        }
    }

    /// Whether results should not be printed as text.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether results are printed in colors.
    pub(super) fn colors(&self) -> Colors {
        if !self.is_json() && color::is_on(self.color, &io::stdout()) { Colors::On } else { Colors::Off }
    }

    fn print(&self, text: impl FnOnce() -> String, document: &impl Serialize) {
        match self.is_json() {
            false => self.write(&text()),
            true if self.is_lines() => self.print_json(to_json_line(document)),
            true => self.print_json(to_json(document)),
        }
    }

    fn print_json(&self, json: Result<String>) {
        match json {
            Ok(json) => self.write(&(printable_json(&json) + "\n")),
            Err(error) => {
                self.lost_result.store(true, Ordering::Relaxed);
                self.error(&error);
            }
        }
    }

    fn write(&self, printed: &str) {
        self.bar.finish_and_clear();
        let mut stdout: Box<dyn Write> = match self.colors() {
            // On Windows, this also turns the escape sequences on, or into calls of the console.
            Colors::On => Box::new(AutoStream::always(io::stdout())),
            Colors::Off => Box::new(io::stdout()),
        };
        match stdout.write_all(printed.as_bytes()).and_then(|()| stdout.flush()) {
            // The reader closed the pipe, as `head` does. That is no error.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.lost_result.store(true, Ordering::Relaxed);
                self.error(&Error::io("cannot print the result", error));
            }
            _ => {}
        }
    }

    /// Whether a result could not be printed.
    pub(super) fn has_lost_result(&self) -> bool {
        self.lost_result.load(Ordering::Relaxed)
    }

    /// Prints an error and its hint on one line.
    pub(super) fn error(&self, error: &Error) {
        self.failed(&Failure::from(error));
    }

    /// Prints an error of a report as [`Self::error`] does.
    pub(super) fn failed(&self, error: &Failure) {
        self.bar.finish_and_clear();
        let (hint, error) = (error.hint, &error.message);
        let hint = hint.and_then(hints::option).map_or_else(String::new, |hint| format!(" ({hint})"));
        // Without a working stderr, the exit code is all that is left.
        let _ = if color::is_on(self.color, &io::stderr()) {
            writeln!(AutoStream::always(io::stderr()), "{BAD}trinart-ckpt:{BAD:#} {error}{hint}")
        } else {
            writeln!(io::stderr(), "trinart-ckpt: {error}{hint}")
        };
    }

    /// Prints an error that ends the command, on stdout too if JSON was requested.
    pub(super) fn failure(&self, error: &Error) {
        self.error(error);
        if self.is_json() {
            self.result(String::new, &ErrorReport { error: Failure::from(error) });
        }
    }
}

impl Progress for Terminal {
    fn begin(&self, what: &'static str, bytes: u64) {
        let template = "{prefix}{msg:>9} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}{network}";
        self.show(what, bytes, template);
    }

    fn begin_steps(&self, what: &'static str, steps: u64) {
        self.show(what, steps, "{prefix}{msg:>9} [{bar:30}] {pos}/{len} {elapsed} {pace} ETA {eta}");
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

impl Terminal {
    /// Sets what the progress bar shows about the place of the current file among all files.
    pub(super) fn set_place(&self, place: String) {
        self.bar.set_prefix(place);
    }

    fn show(&self, what: &'static str, length: u64, template: &str) {
        // Each setter draws, so the style comes last.
        self.bar.set_message(what);
        self.bar.set_length(length);
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.with_key("pace", write_pace).with_key("network", write_network).progress_chars("=> "));
        self.bar.reset();
        self.start_ticking();
    }

    /// Starts the thread that redraws the bar while a step takes long. Without one, if the system allows no further thread,
    /// the bar is redrawn after each step. `ProgressBar::enable_steady_tick` would panic then.
    fn start_ticking(&self) {
        if self.bar.is_hidden() || self.is_ticking.swap(true, Ordering::Relaxed) {
            return;
        }
        let bar = self.bar.clone();
        let _ = thread::Builder::new().spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(200));
                if !bar.is_finished() {
                    bar.tick();
                }
            }
        });
    }
}

/// Writes the bytes that were received from servers, if there are any.
fn write_network(_: &ProgressState, out: &mut dyn std::fmt::Write) {
    #[cfg(feature = "remote")]
    if let received @ 1.. = super::addresses::received() {
        let _ = write!(out, ", {} received", indicatif::DecimalBytes(received));
    }
    #[cfg(not(feature = "remote"))]
    let _ = out;
}

/// Writes the steps per second, or the seconds per step if a step takes longer, as WebUI does.
fn write_pace(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let per_second = state.per_sec();
    let _ = match per_second {
        none if none <= 0.0 => write!(out, "?it/s"),
        slow if slow < 1.0 => write!(out, "{:.2}s/it", 1.0 / slow),
        fast => write!(out, "{fast:.2}it/s"),
    };
}
