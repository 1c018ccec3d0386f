//! The direction of the dependencies, read from the source: each room of `src/` uses only the rooms below it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The rooms, from the bottom up. Those on one line do not know each other.
const FLOORS: &[&[&str]] = &[
    &["error", "limits"],
    &["io"],
    &["tensor"],
    &["state_dict", "metadata", "pickle"],
    &["danger"],
    &["format"],
    &["checkpoint", "scan"],
    &["model"],
    &["plan"],
    &["render"],
    &["report"],
    &["ops"],
    &["cli"],
];

/// Lines a file may have: more than this is two subjects.
const LONGEST_FILE: usize = 400;

const PRINTS: [&str; 4] = ["print", "println", "eprint", "eprintln"];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The room of a file, by its path within `src/`: the first folder, or the name of a file beside the folders.
fn room(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_str().unwrap();
    match first.strip_suffix(".rs").unwrap_or(first) {
        "main" => "cli".to_owned(),
        name => name.to_owned(),
    }
}

/// How deep a file's module lies under the crate: 1 for `tensor/mod.rs`, 2 for `tensor/lazy.rs`.
fn depth(path: &Path) -> usize {
    path.iter().count() - usize::from(path.ends_with("mod.rs") && path.iter().count() > 1)
}

struct File {
    /// Within `src/`.
    path: PathBuf,
    text: String,
}

impl File {
    fn problem(&self, line: usize, what: &str) -> String {
        format!("src/{}:{line}: {what}", self.path.display())
    }
}

/// Every `.rs` file but `lib.rs`, which lists the rooms and is in none of them.
fn files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push(File { path: path.strip_prefix(&src).unwrap().to_owned(), text });
            }
        }
    }
    files.retain(|file| file.path != Path::new("lib.rs"));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Where the comments and where the texts and characters between quotes lie, as ranges of `source`.
fn asides(source: &[char]) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
    let at = |index: usize| source.get(index).copied().unwrap_or('\0');
    let (mut comments, mut quotes) = (Vec::new(), Vec::new());
    let mut index = 0;
    while index < source.len() {
        let start = index;
        index += 1;
        match at(start) {
            '/' if at(index) == '/' => {
                index = (start..source.len()).find(|&end| at(end) == '\n').unwrap_or(source.len());
                comments.push(start..index);
            }
            '/' if at(index) == '*' => {
                let mut open = 0;
                loop {
                    match (at(index - 1), at(index)) {
                        ('/', '*') => (open, index) = (open + 1, index + 2),
                        ('*', '/') => (open, index) = (open - 1, index + 2),
                        _ => index += 1,
                    }
                    if open == 0 || index > source.len() {
                        break;
                    }
                }
                index = (index - 1).min(source.len());
                comments.push(start..index);
            }
            '"' => {
                // Hashes before the quote, and an `r` before them, make it a raw text, which knows no escapes.
                let before = source[..start].iter().rev().take_while(|&&hash| hash == '#').count();
                let raw = start > before && at(start - before - 1) == 'r';
                let ends = |end: usize| at(end) == '"' && (1..=before).all(|hash| !raw || at(end + hash) == '#');
                while index < source.len() && !ends(index) {
                    index += if at(index) == '\\' && !raw { 2 } else { 1 };
                }
                quotes.push(start + 1..index.min(source.len()));
                index += 1;
            }
            // Anything else behind an apostrophe is a lifetime.
            '\'' if at(index) == '\\' || at(index + 1) == '\'' => {
                index += if at(index) == '\\' { 2 } else { 1 };
                while index < source.len() && at(index) != '\'' {
                    index += 1;
                }
                quotes.push(start + 1..index);
                index += 1;
            }
            _ => {}
        }
    }
    (comments, quotes)
}

fn blank(source: &mut [char], ranges: &[Range<usize>]) {
    for character in ranges.iter().flat_map(Range::clone) {
        if source[character] != '\n' {
            source[character] = ' ';
        }
    }
}

/// A word, `::`, or another character, with its line and its place in the source.
#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
    start: usize,
}

/// The code of a source, without what comments and quotes say.
fn tokens(source: &str) -> Vec<Token> {
    let mut source: Vec<char> = source.chars().collect();
    let (comments, quotes) = asides(&source);
    blank(&mut source, &comments);
    blank(&mut source, &quotes);
    let is_word = |character: &char| character.is_alphanumeric() || *character == '_';
    let (mut tokens, mut line, mut start) = (Vec::new(), 1, 0);
    while start < source.len() {
        let length = match source[start..].iter().take_while(|character| is_word(character)).count() {
            0 if source[start..].starts_with(&[':', ':']) => 2,
            0 => 1,
            word => word,
        };
        line += usize::from(source[start] == '\n');
        if !source[start].is_whitespace() {
            tokens.push(Token { text: source[start..start + length].iter().collect(), line, start });
        }
        start += length;
    }
    tokens
}

/// What every path from the root of the crate names first, with its line: `crate::a::b`, `use crate::{a, b::c}`, and
/// `super::a` where that is the root. `depth` is that of the file's module.
fn names_from_root(tokens: &[Token], depth: usize) -> Vec<(String, usize)> {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    let mut names = Vec::new();
    // For each open brace, whether it is that of a module within the file.
    let mut braces: Vec<bool> = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let mut first = None;
        match text(index) {
            "{" => braces.push(index >= 2 && text(index - 2) == "mod"),
            "}" => drop(braces.pop()),
            "crate" if text(index + 1) == "::" => first = Some(index + 2),
            "super" => {
                let modules = depth + braces.iter().filter(|&&module| module).count();
                let supers = (0..).take_while(|step| text(index + 2 * step) == "super").count();
                first = (supers == modules).then_some(index + 2 * supers);
                index += 2 * (supers - 1);
            }
            _ => {}
        }
        index += 1;
        let Some(first) = first else { continue };
        if text(first) != "{" {
            names.extend(tokens.get(first).map(|token| (token.text.clone(), token.line)));
            continue;
        }
        let mut open = 1;
        for pair in tokens[first..].windows(2) {
            match pair[1].text.as_str() {
                "{" => open += 1,
                "}" => open -= 1,
                name if open == 1 && name != "," && matches!(pair[0].text.as_str(), "{" | ",") => {
                    names.push((name.to_owned(), pair[1].line));
                }
                _ => {}
            }
            if open == 0 {
                break;
            }
        }
    }
    names
}

/// The room that each name which `lib.rs` hands on comes from: `Error` is at home in `error`.
fn reexports(lib: &str) -> HashMap<String, String> {
    let tokens = tokens(lib);
    let mut homes = HashMap::new();
    for item in tokens.split(|token| token.text == ";") {
        let Some(start) = item.iter().position(|token| token.text == "use") else { continue };
        let mut path = item[start + 1..].iter().filter(|token| token.text != "::").peekable();
        path.next_if(|token| matches!(token.text.as_str(), "crate" | "self"));
        let Some(home) = path.next() else { continue };
        while let Some(name) = path.next() {
            let is_word = !matches!(name.text.as_str(), "{" | "}" | ",");
            // The last word of each branch: what stands behind `as`, where there is one.
            if is_word && path.peek().is_none_or(|next| matches!(next.text.as_str(), "," | "}")) {
                homes.insert(name.text.clone(), home.text.clone());
            }
        }
    }
    homes
}

/// Each use of a room that is not below the file's own.
fn edges_up(file: &File, homes: &HashMap<String, String>) -> Vec<String> {
    let from = room(&file.path);
    let mut problems = Vec::new();
    for (name, line) in names_from_root(&tokens(&file.text), depth(&file.path)) {
        let to = homes.get(&name).unwrap_or(&name);
        match (floor(&from), floor(to)) {
            _ if *to == from => {}
            (Some(above), Some(below)) if below < above => {}
            (Some(_), Some(_)) => problems.push(file.problem(line, &format!("{from} must not use {to}"))),
            (_, None) => {
                problems.push(file.problem(line, &format!("crate::{name} is in no room of this test's table")))
            }
            (None, _) => problems.push(file.problem(line, &format!("{from} is no room of this test's table"))),
        }
    }
    problems
}

#[test]
fn dependencies_point_down() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let homes = reexports(&lib);
    let problems: Vec<String> = files().iter().flat_map(|file| edges_up(file, &homes)).collect();
    assert_none(&problems);
}

#[test]
fn every_room_has_its_place() {
    let mut problems = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name != "lib.rs" && floor(&room(Path::new(&name))).is_none() {
            problems.push(format!("src/{}: place it in the table of this test", name.display()));
        }
    }
    assert_none(&problems);
}

/// The lines of a source that mention a word outside of comments and of what is only built for tests.
fn mentions(source: &str, word: &str) -> Vec<usize> {
    let code = tokens(source);
    let mut characters: Vec<char> = source.chars().collect();
    let (comments, _) = asides(&characters);
    blank(&mut characters, &comments);
    for (index, window) in code.windows(7).enumerate() {
        if window.iter().map(|token| token.text.as_str()).eq(["#", "[", "cfg", "(", "test", ")", "]"]) {
            // The item ends with the brace that closes the first one it opens, or before that with a semicolon.
            let mut open = 0;
            let end = code[index + 7..].iter().find(|token| {
                open += i32::from(token.text == "{") - i32::from(token.text == "}");
                open == 0 && matches!(token.text.as_str(), "}" | ";")
            });
            let end = end.map_or(characters.len(), |token| token.start);
            blank(&mut characters, std::slice::from_ref(&(window[0].start..end)));
        }
    }
    let text: String = characters.into_iter().collect();
    let lines = text.lines().zip(1..).filter(|(line, _)| line.to_lowercase().contains(word));
    lines.map(|(_, number)| number).collect()
}

#[test]
fn pickle_knows_no_torch() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| room(&file.path) == "pickle") {
        let lines = mentions(&file.text, "torch");
        problems.extend(lines.into_iter().map(|line| file.problem(line, "pickle must not know torch")));
    }
    assert_none(&problems);
}

#[test]
fn only_the_command_line_prints() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| room(&file.path) != "cli") {
        for pair in tokens(&file.text).windows(2) {
            if pair[1].text == "!" && PRINTS.contains(&pair[0].text.as_str()) {
                problems.push(file.problem(pair[0].line, "only the command line prints"));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn no_file_is_long() {
    let long = files().into_iter().filter(|file| file.text.lines().count() > LONGEST_FILE);
    let problem = |file: File| file.problem(file.text.lines().count(), &format!("more than {LONGEST_FILE} lines"));
    assert_none(&long.map(problem).collect::<Vec<_>>());
}

/// Every way to write a path that the tests above have to see, and every way to write what is none.
const SAMPLE: &str = r##"
//! use crate::cli;
use crate::{limits, plan::{Plan, format}, io::{self, Source},
    report};
use super::model::{self, Layout};
/* crate::cli /* nested */ crate::cli */
pub(in crate::tensor) fn read<'a>(text: &'a str) -> crate::Result<char> {
    let quotes = ("\" crate::cli", r#"" crate::cli"#, b'"', '\'', '"', "use crate::cli;");
    println!("{quotes:?} torch"); // crate::cli println!
    crate::render::draw::<'a>(crate::Layout::read(text)?, crate::nowhere::at_all)
}
#[cfg(test)]
mod tests {
    use super::*;
    use super::super::checkpoint::Checkpoint; // torch
    fn torch() {}
}
const AFTER: &str = "torch";
"##;

#[test]
fn finds_edges_however_they_are_written() {
    let homes = reexports("pub use error::{Error, Result};\npub use crate::model::{layout::Found as Layout};");
    assert_eq!((homes.len(), homes["Result"].as_str(), homes["Layout"].as_str()), (3, "error", "model"));
    let found = |path: &str| edges_up(&File { path: path.into(), text: SAMPLE.into() }, &homes);
    let expected = [
        "src/tensor/mod.rs:3: tensor must not use plan",
        "src/tensor/mod.rs:4: tensor must not use report",
        "src/tensor/mod.rs:5: tensor must not use model",
        "src/tensor/mod.rs:10: tensor must not use render",
        "src/tensor/mod.rs:10: tensor must not use model",
        "src/tensor/mod.rs:10: crate::nowhere is in no room of this test's table",
        "src/tensor/mod.rs:15: tensor must not use checkpoint",
    ];
    assert_eq!(found("tensor/mod.rs"), expected);
    // One module deeper, `super` is the room itself, and `super::super` the test module's way there.
    let deeper = found("tensor/lazy.rs");
    assert!(!deeper.iter().any(|problem| problem.contains(":5:") || problem.contains(":15:")), "{deeper:?}");
    assert_eq!(found("main.rs").len(), 1);
    assert_eq!(found("error.rs")[0], "src/error.rs:3: error must not use limits");
    assert!(found("attic/mod.rs")[0].ends_with("attic is no room of this test's table"));
}

#[test]
fn finds_words_outside_of_comments_and_tests() {
    assert_eq!(mentions(SAMPLE, "torch"), [9, 18]);
    let prints = tokens(SAMPLE).windows(2).filter(|pair| pair[0].text == "println" && pair[1].text == "!").count();
    assert_eq!(prints, 1);
}
