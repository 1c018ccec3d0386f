//! Runs the transcripts of the README and of `docs`, and checks their links, lines and tables.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::Command;

use serde_json::Value;

use crate::support::{Folder, fixture};

/// Maximum number of characters of a line of the README, except in commands and what they print.
const README_WIDTH: usize = 110;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that users read, with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let of = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|it| it == "md")).collect::<Vec<_>>()
    };
    let mut paths = [of(""), of("docs"), of("docs/commands")].concat();
    paths.extend(["benches", "cuda", "fixtures", "fuzz"].iter().flat_map(|folder| of(folder)));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// A command of a transcript and its expected output.
#[cfg(unix)]
struct Step {
    command: String,
    printed: String,
}

#[cfg(unix)]
fn transcripts(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), printed: String::new() }),
                None => steps.last_mut().unwrap().printed.push_str(&format!("{line}\n")),
            }
        }
    }
    steps
}

/// The words of a command. Words in quotation marks may contain spaces.
#[cfg(unix)]
fn words(command: &str) -> Vec<String> {
    let parts = command.split('"').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

/// Whether `printed` is `expected`, in which `…` at the end of a line stands for any text.
#[cfg(unix)]
fn matches(printed: &str, expected: &str) -> bool {
    let (printed, expected): (Vec<_>, Vec<_>) = (printed.lines().collect(), expected.lines().collect());
    let same = |(line, wanted): (&&str, &&str)| match wanted.strip_suffix('…') {
        Some(start) => line.starts_with(start),
        None => line == wanted,
    };
    printed.len() == expected.len() && printed.iter().zip(&expected).all(same)
}

/// Each page runs in a folder of its own, in which `fixtures` is that of the repository. The transcripts show paths with
/// slashes.
#[cfg(unix)]
#[test]
fn transcripts_match_the_output() {
    let mut count = 0;
    for (path, page) in pages() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(root().join("fixtures"), folder.path().join("fixtures")).unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        let mut exit = String::new();
        for step in transcripts(&page) {
            count += 1;
            if step.command == "echo $?" {
                assert_eq!(format!("{exit}\n"), step.printed);
                continue;
            }
            let words = words(step.command.strip_prefix("trinart-ckpt ").expect("transcripts run only trinart-ckpt"));
            if words.first().is_some_and(|command| command == "render-check") && !cfg!(feature = "render") {
                continue;
            }
            let program = env!("CARGO_BIN_EXE_trinart-ckpt");
            let output = Command::new(program).args(words).current_dir(folder.path()).output().unwrap();
            let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(matches(&printed, &step.printed), "{}: $ {}\n{printed}", path.display(), step.command);
            exit = output.status.code().unwrap().to_string();
        }
        #[cfg(feature = "render")]
        if path.ends_with("README.md") && folder.path().join("check.sheet.png").exists() {
            compare_with_contact_sheet(&folder.path().join("check.sheet.png"));
        }
    }
    assert!(count >= 15, "only {count} commands in transcripts");
}

/// The commands of the program in a block of shell code, without what follows them in a pipe.
#[cfg(unix)]
fn shell_commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ").replace("|\n", "|");
    let lines = joined.lines().filter_map(|line| line.trim_start().strip_prefix("trinart-ckpt "));
    let end = |line: &str| {
        // Neither is in an argument of the pages, except in quotation marks.
        let mut is_quoted = false;
        let at = line.char_indices().find(|(_, letter)| {
            is_quoted ^= *letter == '\'';
            !is_quoted && "|>#".contains(*letter)
        });
        at.map_or(line.len(), |(at, _)| at)
    };
    lines.map(|line| line[..end(line)].trim().replace('\'', "\"")).collect()
}

/// The transcripts run their commands. Those of shell code name files that do not exist, so they end with an error; but it
/// must not be one of usage. Addresses are left out, because each would be asked for.
#[cfg(unix)]
#[test]
fn commands_in_shell_code_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (path, page) in pages() {
        let blocks = page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
        let tables =
            page.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split("`trinart-ckpt ").nth(1));
        let tables = tables.map(|command| format!("trinart-ckpt {}", command.split('`').next().unwrap()));
        let commands = blocks.map(str::to_owned).chain(tables).flat_map(|block| shell_commands(&block));
        for command in commands.filter(|command| !command.contains("://") && !command.contains('$')) {
            if command.starts_with("render-check") && !cfg!(feature = "render") {
                continue;
            }
            count += 1;
            let program = env!("CARGO_BIN_EXE_trinart-ckpt");
            let ran = Command::new(program).args(words(&command)).current_dir(folder.path()).output().unwrap();
            let error = String::from_utf8(ran.stderr).unwrap();
            assert!(!error.contains("--help"), "{}: {command}: {error}", path.display());
        }
    }
    assert!(count >= 50, "only {count} commands");
}

/// Fails unless the contact sheet that the README shows is this one, but for rounding and for letters that tell of it.
#[cfg(all(unix, feature = "render"))]
fn compare_with_contact_sheet(path: &Path) {
    use trinart_ckpt::render::picture::{Picture, compare};
    let read = |path: &Path| Picture::from_png(&fs::read(path).unwrap()).unwrap().0;
    let (found, shown) = (read(path), read(&root().join("docs/pictures/contact-sheet.png")));
    let found = compare(&found, &shown).unwrap_or_else(|error| panic!("{error}: run docs/pictures/make.py"));
    assert!(found.psnr.is_none_or(|psnr| psnr > 30.0), "{found:?}: run docs/pictures/make.py");
}

/// Runs where `python3` is installed.
#[cfg(all(unix, feature = "render"))]
#[test]
fn pictures_of_the_readme_are_current() {
    let script = root().join("docs/pictures/make.py");
    let Ok(ran) = Command::new("python3").arg(script).args([env!("CARGO_BIN_EXE_trinart-ckpt"), "--check"]).output()
    else {
        eprintln!("skipped: no python3");
        return;
    };
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The name by which a link leads to a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let headings = page.lines().filter(|line| {
        in_code ^= line.starts_with("```");
        !in_code && line.starts_with('#')
    });
    headings.map(anchor).collect()
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut count = 0;
    for (path, page) in pages() {
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(' ') {
                continue;
            }
            count += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !heading.is_empty() {
                let found = anchors(&fs::read_to_string(&target).unwrap());
                assert!(found.contains(heading), "{}: no heading {link}: {found:?}", path.display());
            }
        }
    }
    assert!(count >= 50, "only {count} links");
}

#[test]
fn lines_of_the_readme_are_short() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    let mut in_code = false;
    for line in page.lines() {
        in_code ^= line.starts_with("```");
        assert!(in_code || line.chars().count() <= README_WIDTH, "{line}");
    }
}

/// A page for each command, which the README links.
#[test]
fn every_command_has_a_page() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in crate::help::commands() {
        let page = format!("docs/commands/{command}.md");
        assert!(root().join(&page).exists(), "{page}");
        assert!(readme.contains(&format!("]({page})")), "the README has no link to {page}");
    }
}

#[test]
fn the_json_table_lists_every_field() {
    let section = fs::read_to_string(root().join("docs/json.md")).unwrap();
    let folder = Folder::new();
    let (base, vae) = (fixture("tiny-sd1.ckpt"), fixture("tiny-vae.ckpt"));
    let output = folder.join("out.safetensors");
    let runs = [
        ("[`merge-vae`]", run!["merge-vae", &base, "--vae", &vae, "-o", &output, "--json"]),
        ("`convert --out-dir`", run!["convert", &base, "--out-dir", folder.path(), "--to", "ckpt", "--json"]),
        ("[`inspect`]", run!["inspect", &base, "--keys", "--json"]),
        ("[`hash`]", run!["hash", &base, "--json"]),
        ("[`audit`]", run!["audit", &base, "--deep", "--no-cache", "--json"]),
        ("[`diff`]", run!["diff", &base, &vae, "--json"]),
        ("[`scan`]", run!["scan", &base, "--json"]),
        ("An error", run!["inspect", "--json", folder.join("missing"), "-q"]),
    ];
    for (start, ran) in runs {
        let line = section.lines().find(|line| line.trim_start_matches("| ").starts_with(start)).unwrap();
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        let fields = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        let listed = match start {
            "An error" => fields(&document["files"][0]["error"]),
            "`convert --out-dir`" => fields(&document),
            _ => {
                let of_file = document["files"].get(0).map_or_else(Vec::new, fields);
                [fields(&document), of_file].concat()
            }
        };
        for field in listed.iter().filter(|field| *field != "schema") {
            let is_listed = [format!("`{field}`"), format!("\"{field}\"")].iter().any(|word| line.contains(word));
            assert!(is_listed, "{start}: {field} is not in {line}");
        }
    }
}
