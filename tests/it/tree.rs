//! `inspect --tree`.

use std::collections::BTreeMap;

use crate::support::{expected, fixture};
use serde_json::{Value, json};

/// Collects the tensors below nodes, with their whole names.
fn leaves(nodes: &Value, before: &str, found: &mut BTreeMap<String, (Value, Value)>) {
    for node in nodes.as_array().unwrap() {
        let name = format!("{before}{}", node["name"].as_str().unwrap());
        if node["tensors"] == 1 && !node["shape"].is_null() {
            found.insert(name.clone(), (node["dtypes"].clone(), node["shape"].clone()));
        }
        leaves(&node["children"], &format!("{name}."), found);
    }
}

fn tree(name: &str, option: &str) -> Value {
    run!["inspect", fixture(name), option, "--json"].json()["files"][0]["tree"].take()
}

fn sum(nodes: &Value, field: &str) -> u64 {
    nodes.as_array().unwrap().iter().map(|node| node[field].as_u64().unwrap()).sum()
}

#[test]
fn has_the_tensors_that_pytorch_reads() {
    for name in ["tiny-sd1.ckpt", "tiny-sd1.safetensors", "tiny-vae.vae.pt"] {
        let nodes = tree(name, "--tree");
        let mut found = BTreeMap::new();
        leaves(&nodes, "", &mut found);
        let rows = expected(name).into_iter();
        let rows: BTreeMap<_, _> = rows.map(|row| (row.0, (json!({ row.1: 1 }), json!(row.2)))).collect();
        assert_eq!(found, rows, "{name}");
        let inspection = run!["inspect", fixture(name), "--json"].json()["files"][0].take();
        assert_eq!(inspection["tree"], Value::Null);
        for option in ["--tree", "--tree=1", "--tree=3"] {
            let nodes = tree(name, option);
            assert_eq!(sum(&nodes, "tensors"), inspection["tensors"]);
            assert_eq!(sum(&nodes, "parameters"), inspection["parameters"]);
            assert_eq!(sum(&nodes, "bytes"), inspection["tensor_bytes"]);
        }
    }
}

#[test]
fn has_as_many_levels_as_requested() {
    fn levels(nodes: &Value) -> usize {
        let children = nodes.as_array().unwrap().iter().map(|node| levels(&node["children"]));
        children.max().map_or(0, |below| below + 1)
    }
    for depth in [1, 2, 5] {
        assert_eq!(levels(&tree("tiny-vae.vae.pt", &format!("--tree={depth}"))), depth);
    }
    assert_eq!(run!["inspect", fixture("tiny-vae.vae.pt"), "--tree=0"].code, Some(2));
}
