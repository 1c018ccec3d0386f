//! The definition of the command line: commands, options, and the groups in which help shows them.
//!
//! Each option stands under one of the headings of [`heading`]. Options that few people need are left out of `-h` by
//! `hide_short_help`. Examples and exit codes of the commands are in [`super::help`].

mod convert;
mod merge_vae;
mod program;
mod reading;
#[cfg(feature = "render")]
mod render_check;
mod writing;

use clap::{ArgAction, Args, ColorChoice, Command as Definition, CommandFactory, Parser, Subcommand, ValueEnum};

pub(super) use convert::Convert;
pub(super) use merge_vae::MergeVae;
pub(super) use program::{Completions, Man};
pub(super) use reading::{Audit, Diff, Hash, Inspect, Scan};
#[cfg(feature = "render")]
pub(super) use render_check::{RenderCheck, RngArgument, SyntaxArgument};
pub(super) use writing::{Content, FolderWriting, OutputFileOrFolder, Reading, Writing};

use super::help;
use super::styles::STYLES;

/// The groups of options, in the order in which help shows them.
pub(super) mod heading {
    pub(in crate::cli) const INPUT: &str = "Input";
    pub(in crate::cli) const OUTPUT: &str = "Output";
    pub(in crate::cli) const CONTENT: &str = "Content";
    #[cfg(feature = "render")]
    pub(in crate::cli) const RENDERING: &str = "Rendering";
    #[cfg(feature = "render")]
    pub(in crate::cli) const COMPARISON: &str = "Comparison";
    pub(in crate::cli) const FOLDERS: &str = "Diffusers folders";
    pub(in crate::cli) const GENERAL: &str = "General";
}

/// Merge, convert, inspect and check Stable Diffusion checkpoints
///
/// Reads .safetensors files, PyTorch files (.ckpt .pt .pth .bin, zip or legacy) and diffusers folders, and detects the
/// format from the content. Never executes code from a file.
#[derive(Debug, Parser)]
#[command(
    name = "trinart-ckpt",
    version,
    arg_required_else_help = true,
    disable_help_flag = true,
    disable_version_flag = true,
    styles = STYLES
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = heading::GENERAL)]
    version: Option<bool>,
}

impl Arguments {
    /// The definition with the examples and exit codes of every command.
    pub(super) fn definition() -> Definition {
        Self::command().after_long_help(help::of_program()).mut_subcommands(|command| {
            // Without an order, clap lists positional arguments after the options of their group.
            let mut order = 0;
            let command = command.mut_args(|it| {
                order += 1;
                let is_positional = it.is_positional();
                it.display_order(if is_positional { 0 } else { order })
            });
            let after = help::of(command.get_name()).map(|page| page.to_text());
            match after {
                Some(text) => command.after_long_help(text),
                None => command,
            }
        })
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = heading::GENERAL)]
pub(super) struct Common {
    /// Print JSON on stdout: a line for each of several files
    ///
    /// One input has one JSON document. Folders and several inputs have JSON lines: the result of each file on a line, as soon
    /// as it is done, and a last line with a summary. --json=lines and --json=document print one of the two whatever the inputs,
    /// for scripts.
    #[arg(long, global = true, value_enum, value_name = "HOW", hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub json: Option<JsonArgument>,
    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Use N threads [default: depends on the CPU]
    ///
    /// Without it, reading and writing use two threads per CPU, at most eight, and rendering uses one per CPU.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
    /// Accept http:// addresses of other machines
    ///
    /// Without encryption, anyone between the machines can read and change the file. Addresses of this machine are always
    /// accepted.
    #[cfg(feature = "remote")]
    #[arg(long, global = true, hide_short_help = true)]
    plain_http: bool,
    /// Use colors: auto, always or never [default: auto]
    ///
    /// auto uses colors in a terminal, unless NO_COLOR or CLICOLOR=0 is set. CLICOLOR_FORCE=1 uses them in a pipe too.
    /// JSON has no colors.
    #[arg(long, global = true, value_enum, value_name = "WHEN", hide_possible_values = true)]
    pub color: Option<ColorArgument>,
    /// Print help: a summary with -h, everything with --help
    #[arg(short, long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum JsonArgument {
    /// A document for one input, lines for several.
    Auto,
    Document,
    Lines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ColorArgument {
    Auto,
    Always,
    Never,
}

impl From<ColorArgument> for ColorChoice {
    fn from(argument: ColorArgument) -> Self {
        match argument {
            ColorArgument::Auto => ColorChoice::Auto,
            ColorArgument::Always => ColorChoice::Always,
            ColorArgument::Never => ColorChoice::Never,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    MergeVae(MergeVae),
    Convert(Convert),
    Audit(Audit),
    Inspect(Inspect),
    Diff(Diff),
    Hash(Hash),
    Scan(Scan),
    #[cfg(feature = "render")]
    RenderCheck(Box<RenderCheck>),
    Completions(Completions),
    Man(Man),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_definitions() {
        Arguments::definition().debug_assert();
    }
}
