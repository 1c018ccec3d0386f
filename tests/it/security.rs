//! SECURITY.md names the tests that hold its promises: they exist.

use std::fs;
use std::path::Path;

#[test]
fn every_promise_names_an_existing_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let mut promises = 0;
    for row in rows {
        let holders = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for holder in holders.split(", ") {
            let names: Vec<&str> = holder.split('`').skip(1).step_by(2).collect();
            let source = fs::read_to_string(root.join(format!("tests/it/{}.rs", names[0]))).unwrap();
            assert!(source.contains(&format!("#[test]\nfn {}()", names[1])), "{holder}");
        }
        promises += 1;
    }
    assert_eq!(promises, 16);
}
