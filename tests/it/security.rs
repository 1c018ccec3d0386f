//! Checks that the tests named in SECURITY.md exist.

use std::fs;
use std::path::Path;

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
            let [_, module, _, function, _] = test.split('`').collect::<Vec<_>>()[..] else {
                panic!("expected `module` `function`, found {test}")
            };
            let source = fs::read_to_string(root.join(format!("tests/it/{module}.rs"))).unwrap();
            assert!(source.contains(&format!("#[test]\nfn {function}()")), "{test}");
        }
    }
}
