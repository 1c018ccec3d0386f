//! `examples/fleet`: a Ray cluster of two workers on this machine, and an S3 server.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use trinart_ckpt_formats::tensor::Dtype;

use crate::support::cloud::{Store, python};
use crate::support::{Folder, PROGRAM, repository, save, tensor};

const FILES: usize = 30;

/// The processes of Ray's workers that work on a file below this one.
fn workers_below(process: u32) -> Vec<u32> {
    let list = Command::new("ps").args(["-eo", "pid=,ppid=,args="]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let rows: Vec<(u32, u32, String)> = list
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some((pid, parent, words.collect::<Vec<_>>().join(" ")))
        })
        .collect();
    let parent_of = |pid: u32| rows.iter().find(|(it, ..)| *it == pid).map(|(_, parent, _)| *parent);
    let is_below = |pid: u32| std::iter::successors(Some(pid), |&pid| parent_of(pid)).take(20).any(|it| it == process);
    rows.iter().filter(|(pid, _, args)| args.starts_with("ray::work") && is_below(*pid)).map(|(pid, ..)| *pid).collect()
}

#[test]
fn thirty_files_are_converted_although_a_worker_is_killed_and_a_rerun_does_nothing() {
    let (Some(python), Some(store)) = (python(), Store::start()) else { return };
    let folder = Folder::new();
    let mut expected = Vec::new();
    for index in 0..FILES {
        let path = folder.join(&format!("{index}.safetensors"));
        let values: Vec<u8> = (0..1000_u32).flat_map(|it| ((it % 100) as f32 + index as f32).to_le_bytes()).collect();
        save(&path, [("layer.weight".to_owned(), tensor(Dtype::F32, &[1000], values))]);
        store.put(&format!("in/{index}.safetensors"), &fs::read(&path).unwrap());
        let output = folder.join(&format!("{index}.ckpt"));
        store.run(&["convert", path.to_str().unwrap(), "-o", output.to_str().unwrap(), "--dtype", "f16", "-q"]).done();
        expected.push(fs::read(output).unwrap());
    }
    let report = folder.join("report.jsonl");
    // A program that takes long enough for a worker to be killed in the middle.
    let slow = folder.write("slow", format!("#!/bin/sh\nsleep 0.5\nexec {PROGRAM} \"$@\"\n"));
    Command::new("chmod").arg("+x").arg(&slow).status().unwrap();
    let command = || {
        let mut command = Command::new(&python);
        command
            .arg("-B")
            .arg(repository().join("examples/fleet/fleet.py"))
            .args(["s3://models/in", "s3://models/out", "--per-node", "2", "--program"])
            .arg(&slow)
            .arg("--report")
            .arg(&report)
            .args(["--", "convert", "--dtype", "f16", "--to", "ckpt"])
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", store.port))
            .env("AWS_ACCESS_KEY_ID", "KeyIdOfTheTest")
            .env("AWS_SECRET_ACCESS_KEY", Store::SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("TMPDIR", folder.path())
            .env("RAY_TMPDIR", "/tmp");
        command
    };
    let running = command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let process = running.id();
    let killer = thread::spawn(move || {
        for _ in 0..600 {
            if let Some(worker) = workers_below(process).first() {
                thread::sleep(Duration::from_millis(800));
                return Command::new("kill").args(["-9", &worker.to_string()]).status().unwrap().success();
            }
            thread::sleep(Duration::from_millis(200));
        }
        false
    });
    let output = running.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(killer.join().unwrap(), "no worker was killed");
    assert!(text.ends_with("30 done, 0 up to date, 0 failed\n"), "{text}");
    for (index, expected) in expected.iter().enumerate() {
        assert!(store.get(&format!("out/{index}.ckpt")).as_ref() == Some(expected), "{index}");
    }
    let lines: Vec<Value> =
        fs::read_to_string(&report).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), FILES);
    assert!(
        lines.iter().all(|line| line["report"]["files"][0]["verified"] == true || line["report"]["verified"] == true)
    );
    let all = text + &fs::read_to_string(&report).unwrap();
    assert!(!all.contains(Store::SECRET) && !all.contains("KeyIdOfTheTest"));

    store.log();
    let again = command().output().unwrap();
    assert!(String::from_utf8_lossy(&again.stdout).ends_with("0 done, 30 up to date, 0 failed\n"));
    assert!(store.log().iter().all(|(method, ..)| method == "GET" || method == "HEAD"), "a rerun writes nothing");
}
