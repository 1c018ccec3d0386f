//! Checks that the tests named in SECURITY.md exist.

use std::fs;
use std::path::{Path, PathBuf};

/// The source file of a test, as SECURITY.md names it.
fn source_file(root: &Path, name: &str) -> PathBuf {
    if name.ends_with(".rs") {
        return root.join(name);
    }
    match name.split_once("::") {
        Some((package, module)) => root.join(format!("crates/{package}/tests/it/{module}.rs")),
        None => root.join(format!("tests/it/{name}.rs")),
    }
}

/// Whether a source file has a test function of this name, at the top level or in a module.
fn has_test(source: &str, function: &str) -> bool {
    let start = format!("fn {function}()");
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    lines.windows(2).any(|pair| pair[0] == "#[test]" && pair[1].starts_with(&start))
}

#[test]
fn every_promise_names_an_existing_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let table = text.split_once("| promise | tested by |\n|---|---|\n").expect("the table of promises").1;
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert!(!rows.is_empty(), "the table of promises is empty");
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        assert!(tests.contains('`'), "a promise without a test: {row}");
        for test in tests.split(", ") {
            let [_, file, _, function, _] = test.split('`').collect::<Vec<_>>()[..] else {
                panic!("expected `file` `function`, found {test}")
            };
            let path = source_file(root, file);
            let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(has_test(&source, function), "{test}");
        }
    }
}
