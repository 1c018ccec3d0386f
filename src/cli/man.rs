//! The command `man`: manual pages in the format of man(7).

use std::io;
use std::path::PathBuf;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use schemars::JsonSchema;
use serde::Serialize;

use super::args::{Arguments, Man as Command};
use super::exit::Exit;
use super::help;
use super::terminal::Terminal;
use trinart_ckpt_formats::error::{OrInternal, Result};
use trinart_ckpt_formats::io::{AtomicFile, Overwrite};

/// The date of the last change of the manual that is more than a correction. It is no clock time, so that a program prints
/// the same pages every day.
const DATE: &str = "2026-11-26";

/// Pages of the manual.
#[derive(Serialize, JsonSchema)]
pub(super) struct Pages {
    pages: Vec<Page>,
}

#[derive(Clone, Serialize, JsonSchema)]
struct Page {
    /// `trinart-ckpt-convert.1`
    name: String,
    text: String,
    /// The path, if the page was written to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

/// Prints the manual, or writes its pages to a folder.
pub(super) fn run(command: &Command, terminal: &Terminal) -> Exit {
    let text = |result: &Pages| {
        let line = |page: &Page| match &page.file {
            Some(file) => format!("{}\n", file.display()),
            None => page.text.clone(),
        };
        result.pages.iter().map(line).collect()
    };
    let result = pages(command);
    match command.out_dir {
        Some(_) => terminal.finish(result, text, |_| Exit::Success),
        None => terminal.finish_always(result, text, |_| Exit::Success),
    }
}

fn pages(command: &Command) -> Result<Pages> {
    // Unlike `-h`, a page describes every option.
    let describe_all = |command: clap::Command| command.mut_args(|it| it.hide_short_help(false));
    let definition = Arguments::definition().disable_help_subcommand(true).subcommand_help_heading("COMMANDS");
    let mut definition = definition.mut_subcommands(describe_all);
    definition.build();
    let of_commands: Vec<_> = match &command.command {
        Some(name) => vec![definition.find_subcommand(name).or_internal("an unknown command")?],
        None => definition.get_subcommands().collect(),
    };
    let pages = match (&command.out_dir, &command.command) {
        (None, None) => vec![manual(&definition)],
        (Some(_), None) => [vec![page(&definition)], of_commands.into_iter().map(page).collect()].concat(),
        (_, Some(_)) => of_commands.into_iter().map(page).collect(),
    };
    let overwrite = Overwrite::allowed(command.force);
    let pages = pages.into_iter().map(|mut page| {
        if let Some(folder) = &command.out_dir {
            let path = folder.join(&page.name);
            AtomicFile::write(&path, overwrite, page.text.as_bytes())?;
            page.file = Some(path);
        }
        Ok(page)
    });
    Ok(Pages { pages: pages.collect::<Result<_>>()? })
}

/// The page of one command.
fn page(command: &clap::Command) -> Page {
    let man = man(command);
    let name = man.get_filename();
    let title = command.get_display_name().unwrap_or_else(|| command.get_name()).to_uppercase();
    let man = man.title(title);
    let text = rendered(|out| {
        man.render_title(out)?;
        sections(&man, command, out)
    });
    Page { name, text, file: None }
}

/// The page of the program, with the pages of all commands as its sections.
fn manual(program: &clap::Command) -> Page {
    let page = page(program);
    let mut text = page.text;
    for command in program.get_subcommands() {
        let man = man(command);
        let body = rendered(|out| sections(&man, command, out));
        let title = format!("{} {}", program.get_name(), command.get_name()).to_uppercase();
        let mut heading = Roff::new();
        heading.control("SH", [title.as_str()]);
        text.push_str(&heading.to_roff());
        text.push_str(&body.replace("\n.SH ", "\n.SS "));
    }
    Page { name: page.name, text, file: None }
}

fn man(command: &clap::Command) -> Man {
    let version = concat!("trinart-ckpt ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).date(DATE).source(version).manual("User Commands")
}

fn sections(man: &Man, command: &clap::Command, out: &mut Vec<u8>) -> io::Result<()> {
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    man.render_options_section(out)?;
    let page = help::of(command.get_name());
    let mut roff = Roff::new();
    if let Some(page) = &page {
        roff.control("SH", ["EXAMPLES"]);
        for (task, arguments) in page.examples {
            roff.control("TP", []);
            roff.text([roman(*task)]);
            roff.text([bold(format!("trinart-ckpt {arguments}"))]);
        }
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in page.map_or(help::EXIT_CODES, |page| page.exit_codes) {
        let code = code.to_string();
        roff.control("TP", ["4"]);
        roff.text([bold(code)]);
        roff.text([roman(*meaning)]);
    }
    roff.to_writer(out)
}

/// The length of lines in bytes that `mandoc -T lint` accepts.
const LINE: usize = 80;

/// Returns what `render` writes, with vertical space for empty lines, and without line breaks beside it. Long lines of text
/// are broken at spaces, where man fills the lines again.
fn rendered(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = render(&mut out);
    let text = String::from_utf8_lossy(&out);
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        let line = if line.is_empty() { ".sp" } else { line };
        match lines.last_mut() {
            Some(last @ &mut (".sp" | ".br")) if matches!(line, ".sp" | ".br") => *last = ".sp",
            _ => lines.push(line),
        }
    }
    let mut text = String::new();
    let mut is_tag = false;
    for line in lines {
        // The line behind .TP is a tag, and the next one belongs to its description.
        if line.starts_with('.') || is_tag || line.len() <= LINE {
            text.push_str(line);
        } else {
            fill(line, &mut text);
        }
        is_tag = line.starts_with(".TP");
        text.push('\n');
    }
    text
}

/// Appends a line of text, with line breaks in place of spaces.
fn fill(line: &str, text: &mut String) {
    let mut length = 0;
    for (index, word) in line.split(' ').enumerate() {
        // At the start of a line, these would be requests, and two spaces a line break.
        let may_start = !word.starts_with(['.', '\'']) && !word.is_empty();
        if index > 0 {
            let breaks = may_start && length + 1 + word.len() > LINE;
            text.push(if breaks { '\n' } else { ' ' });
            length = if breaks { 0 } else { length + 1 };
        }
        text.push_str(word);
        length += word.len();
    }
}
