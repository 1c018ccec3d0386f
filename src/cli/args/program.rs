//! The commands about the program itself.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

use super::heading::{INPUT, OUTPUT};
use crate::cli::help;

/// Print a script that completes commands and options in a shell
///
/// bash: trinart-ckpt completions bash > ~/.local/share/bash-completion/completions/trinart-ckpt
///
/// zsh: trinart-ckpt completions zsh > DIR/_trinart-ckpt, where DIR is in $fpath
///
/// fish: trinart-ckpt completions fish > ~/.config/fish/completions/trinart-ckpt.fish
///
/// PowerShell: trinart-ckpt completions powershell >> $PROFILE
#[derive(Debug, Args)]
pub(in crate::cli) struct Completions {
    /// Shell that runs the script
    #[arg(value_enum, help_heading = INPUT)]
    pub shell: Shell,
}

/// Print the manual, for man
///
/// trinart-ckpt man | man -l - shows it.
///
/// Prints all commands on one page, or the page of one command. With --out-dir, writes a page for the program and one for
/// each command: trinart-ckpt.1, trinart-ckpt-convert.1 and so on.
#[derive(Debug, Args)]
pub(in crate::cli) struct Man {
    /// Command to describe [default: all]
    #[arg(value_parser = PossibleValuesParser::new(help::PAGES.iter().map(|page| page.command)), help_heading = INPUT)]
    #[arg(hide_possible_values = true)]
    pub command: Option<String>,
    /// Write the pages to this folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = OUTPUT)]
    pub out_dir: Option<PathBuf>,
    /// Replace existing pages
    #[arg(long, requires = "out_dir", help_heading = OUTPUT)]
    pub force: bool,
}
