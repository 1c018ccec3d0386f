//! `examples/fleet`: a Ray cluster of two workers on this machine, each a node of its own, and an S3 server.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use trinart_ckpt_formats::tensor::Dtype;

use crate::s3::text;
use crate::support::cloud::{Store, assert_no_secret, python};
use crate::support::{Folder, PROGRAM, repository, save, tensor};

const FILES: usize = 30;

/// A Ray cluster of two workers.
struct Cluster {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Cluster {
    fn start(python: &Path, store: &Store, folder: &Folder) -> Self {
        let mut command = Command::new(python);
        command.arg("-B").arg(repository().join("tests/cloud/cluster.py")).envs(store.variables());
        // The paths of its sockets must be short.
        command.env("TMPDIR", folder.path()).env("RAY_TMPDIR", "/tmp");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (process.stdin.take(), BufReader::new(process.stdout.take().unwrap()));
        let mut cluster = Cluster { process, input, output, address: String::new() };
        cluster.address = cluster.line();
        cluster
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Kills the node of a worker, and returns its ID.
    fn kill(&mut self) -> String {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        self.line()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // At the end of its input, it ends the processes of its nodes.
        self.input = None;
        let _ = self.process.wait();
    }
}

#[test]
fn thirty_files_are_converted_although_a_node_is_killed_and_a_rerun_writes_nothing() {
    let (Some(python), Some(store)) = (python(), Store::s3s().or_else(Store::moto)) else { return };
    let folder = Folder::new();
    let mut expected = Vec::new();
    for index in 0..FILES {
        let path = folder.join(&format!("{index}.safetensors"));
        let values: Vec<u8> = (0..1000_u32).flat_map(|it| ((it % 100) as f32 + index as f32).to_le_bytes()).collect();
        save(&path, [("layer.weight".to_owned(), tensor(Dtype::F32, &[1000], values))]);
        store.put(&format!("in/{index}.safetensors"), &fs::read(&path).unwrap());
        let output = folder.join(&format!("{index}.ckpt"));
        store.run(&["convert", text(&path), "-o", text(&output), "--dtype", "f16", "-q"]).done();
        expected.push(fs::read(output).unwrap());
    }
    let report = folder.join("report.jsonl");
    // A program that takes long enough for a node to be killed while it works.
    let slow = folder.write("slow", format!("#!/bin/sh\nsleep 0.5\nexec {PROGRAM} \"$@\"\n"));
    assert!(Command::new("chmod").arg("+x").arg(&slow).status().unwrap().success());
    let mut cluster = Cluster::start(&python, &store, &folder);
    let command = |cluster: &Cluster| {
        let mut command = Command::new(&python);
        command.arg("-B").arg(repository().join("examples/fleet/fleet.py")).args(["s3://models/in", "s3://models/out"]);
        command.args(["--per-node", "1", "--program", text(&slow), "--report", text(&report)]);
        command.args(["--", "convert", "--dtype", "f16", "--to", "ckpt"]);
        command.envs(store.variables()).env("RAY_ADDRESS", &cluster.address).env("TMPDIR", folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let running = command(&cluster).spawn().unwrap();
    let outputs = || (0..FILES).filter(|index| store.get(&format!("out/{index}.ckpt")).is_some()).count();
    let killed = thread::scope(|scope| {
        let ended = scope.spawn(|| running.wait_with_output().unwrap());
        while outputs() < FILES / 5 && !ended.is_finished() {
            thread::sleep(Duration::from_millis(50));
        }
        let before = outputs();
        assert!(before < FILES, "all was done before a node was killed");
        let killed = cluster.kill();
        let output = ended.join().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        assert!(printed.contains("0 failed\n"), "{printed}");
        assert_no_secret(&printed);
        killed
    });
    for (index, expected) in expected.iter().enumerate() {
        assert!(store.get(&format!("out/{index}.ckpt")).as_ref() == Some(expected), "{index}");
    }
    assert_eq!(store.open_uploads(), 0);
    let written = fs::read_to_string(&report).unwrap();
    assert_no_secret(&written);
    let lines: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), FILES);
    // A file whose node was killed behind its output is up to date when its task runs again.
    let is_done = |report: &Value| report["verified"] == true || report["skipped"] == "up-to-date";
    assert!(lines.iter().all(|line| line["exit"] == 0 && is_done(&line["report"])), "{written}");
    let nodes: BTreeSet<&str> = lines.iter().map(|line| line["node"].as_str().unwrap()).collect();
    assert!(nodes.len() == 2 && nodes.contains(killed.as_str()), "{killed} of {nodes:?}");

    store.log();
    let again = command(&cluster).output().unwrap();
    let printed = String::from_utf8_lossy(&again.stdout);
    assert!(printed.ends_with("0 done, 30 up to date, 0 failed\n"), "{printed}");
    assert!(!store.cost().2, "a rerun writes nothing");
}
