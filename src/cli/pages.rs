//! Keeps the option tables of `docs/commands` equal to the definition of the command line.
//!
//! A page holds its table between `<!-- options of COMMAND -->` and `<!-- end -->`. To write the tables again after a
//! change of the definition, run `UPDATE_DOCS=1 cargo test --lib option_tables`.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use clap::{Arg, Command};

use super::args::Arguments;

/// One table of the options of a command for each group, in the order of help.
fn tables(command: &Command) -> String {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    let visible = command.get_arguments().filter(|it| !it.is_hide_set());
    for argument in visible {
        let group = argument.get_help_heading().unwrap();
        let row = format!("| {} | {} |", name(argument), description(argument));
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((group, vec![row])),
        }
    }
    // Help ends with the general options, which every command has.
    groups.sort_by_key(|(name, _)| *name == super::args::heading::GENERAL);
    groups.iter().fold(String::new(), |mut text, (name, rows)| {
        write!(text, "\n| {name} | |\n|---|---|\n{}\n", rows.join("\n")).unwrap();
        text
    })
}

/// `-o`, `--output OUTPUT`
fn name(argument: &Arg) -> String {
    let value = match argument.get_value_names() {
        Some(names) if argument.get_action().takes_values() => names.join(" "),
        _ => String::new(),
    };
    if argument.is_positional() {
        return format!("`{value}`");
    }
    let short = argument.get_short().map(|it| format!("-{it}"));
    let long = argument.get_long().map(|it| format!("--{it}"));
    let mut names: Vec<_> = [short, long].into_iter().flatten().collect();
    if let Some(last) = names.last_mut().filter(|_| !value.is_empty()) {
        let optional = argument.get_num_args().is_some_and(|count| count.min_values() == 0);
        last.push_str(&if optional { format!("[={value}]") } else { format!(" {value}") });
    }
    names.iter().map(|name| format!("`{}`", name.replace('|', "\\|"))).collect::<Vec<_>>().join(", ")
}

/// The help text in one line, with the words that the option takes and its default.
fn description(argument: &Arg) -> String {
    let text = argument.get_long_help().or(argument.get_help()).unwrap().to_string();
    let mut text = plain(&text);
    let words = argument.get_possible_values();
    let shown: Vec<_> = words.iter().filter(|it| !it.is_hide_set()).collect();
    if !argument.is_hide_possible_values_set() && argument.get_action().takes_values() && !shown.is_empty() {
        let words = shown.iter().map(|it| match it.get_help() {
            Some(help) => format!("`{}`: {}", it.get_name(), plain(&help.to_string())),
            None => format!("`{}`", it.get_name()),
        });
        let separator = if shown.iter().any(|it| it.get_help().is_some()) { "; " } else { ", " };
        write!(text, "<br>{}", words.collect::<Vec<_>>().join(separator)).unwrap();
    }
    let has_default = argument.get_action().takes_values() && !argument.is_hide_default_value_set();
    for default in argument.get_default_values().iter().filter(|_| has_default) {
        write!(text, "<br>Default: `{}`", default.to_string_lossy()).unwrap();
    }
    text
}

/// `text` in one line of a Markdown table. Paragraphs stay apart.
fn plain(text: &str) -> String {
    let escape = |text: String| {
        ["|", "*", "_", "[", "<"].iter().fold(text, |text, mark| text.replace(mark, &format!("\\{mark}")))
    };
    let paragraphs = text.split("\n\n").map(|it| escape(it.split_whitespace().collect::<Vec<_>>().join(" ")));
    paragraphs.collect::<Vec<_>>().join("<br>")
}

#[test]
fn option_tables_are_current() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/commands");
    let mut definition = Arguments::definition().disable_help_subcommand(true);
    definition.build();
    for command in definition.get_subcommands() {
        let path = folder.join(format!("{}.md", command.get_name()));
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let start = format!("<!-- options of {} -->\n", command.get_name());
        let (before, rest) = page.split_once(&start).unwrap();
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        let wanted = format!("{before}{start}{}\n<!-- end -->{after}", tables(command));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &wanted).unwrap();
        } else {
            assert_eq!(page, wanted, "{}: run UPDATE_DOCS=1 cargo test --lib option_tables", path.display());
        }
    }
}
