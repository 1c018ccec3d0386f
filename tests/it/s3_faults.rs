//! What S3 servers and networks do wrong: the right output or one clear error, and nothing half visible.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::s3::{large, text};
use crate::support::cloud::{Store, assert_no_secret};
use crate::support::proxy::Fate;
use crate::support::server::{Answer, Asked};
use crate::support::{Folder, Ran, fixture};

/// The answer of a store with an error.
fn error(status: u16, code: &str, rest: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>injected</Message>{rest}</Error>");
    Answer::new(status).header("Content-Type", "application/xml").body(body)
}

fn is_part(asked: &Asked, number: usize) -> bool {
    asked.method == "PUT" && asked.path.contains(&format!("partNumber={number}&"))
}

fn completes(asked: &Asked) -> bool {
    asked.method == "POST" && asked.path.contains("uploadId=")
}

fn reads(asked: &Asked) -> bool {
    asked.method == "GET" && asked.header("range").is_some()
}

const INPUT: &str = "s3://models/in/large.safetensors";
const OUTPUT: &str = "s3://models/out/large.safetensors";

/// Stores a large file, and returns what a conversion to S3 makes of it.
fn prepare(store: &Store, folder: &Folder) -> Vec<u8> {
    let path = large(folder);
    store.put("in/large.safetensors", &fs::read(&path).unwrap());
    let expected = folder.join("expected.safetensors");
    store.run(&["convert", text(&path), "-o", text(&expected), "-q"]).done();
    fs::read(expected).unwrap()
}

fn convert(store: &Store) -> Ran {
    store.run(&["convert", INPUT, "-o", OUTPUT, "--force", "-q"])
}

type Fault = fn(usize, &Asked) -> Fate;

#[test]
fn goes_on_after_faults_that_pass() {
    let faults: [(&str, Fault); 10] = [
        ("answers drop in the middle", |number, asked| match reads(asked) && number % 2 == 1 {
            true => Fate::Changed(|answer| answer.drop_after = Some(answer.body.len() / 3)),
            false => Fate::Passes,
        }),
        ("answers drop before the first byte", |number, asked| match reads(asked) && number == 3 {
            true => Fate::Changed(|answer| answer.status = 0),
            false => Fate::Passes,
        }),
        ("503 SlowDown", |number, _| match number % 2 == 1 {
            true => Fate::Answered(error(503, "SlowDown", "")),
            false => Fate::Passes,
        }),
        ("slow answers", |_, asked| match reads(asked) {
            true => Fate::Changed(|answer| answer.at_a_time = Some(1 << 19)),
            false => Fate::Passes,
        }),
        ("a part drops in the middle", |number, asked| match is_part(asked, 2) && number < 3 {
            true => Fate::Cut(3_000_000),
            false => Fate::Passes,
        }),
        ("the answer to a part is lost", |number, asked| match is_part(asked, 1) && number < 3 {
            true => Fate::Changed(|answer| answer.status = 0),
            false => Fate::Passes,
        }),
        ("a part is refused for a time", |number, asked| match is_part(asked, 3) && number < 3 {
            true => Fate::Answered(error(500, "InternalError", "")),
            false => Fate::Passes,
        }),
        ("completing fails inside of a success", |number, asked| match completes(asked) && number < 3 {
            true => Fate::Answered(error(200, "InternalError", "")),
            false => Fate::Passes,
        }),
        ("the answer to the completion is lost", |number, asked| match completes(asked) && number < 3 {
            true => Fate::Changed(|answer| answer.status = 0),
            false => Fate::Passes,
        }),
        ("the completion answers with an error behind its work", |_, asked| match completes(asked) {
            true => Fate::Changed(|answer| *answer = error(403, "AccessDenied", "")),
            false => Fate::Passes,
        }),
    ];
    for store in Store::all() {
        let folder = Folder::new();
        let right = prepare(&store, &folder);
        for (name, fault) in faults {
            store.proxy.faults(fault);
            let ran = convert(&store);
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}: {name}", store.name);
            assert!(store.get("out/large.safetensors").unwrap() == right, "{}: {name}", store.name);
            assert_eq!(store.open_uploads(), 0, "{}: {name}", store.name);
        }
    }
}

#[test]
fn a_small_output_whose_answer_is_lost_is_no_conflict() {
    for store in Store::all() {
        let base = fixture("tiny-sd1.ckpt");
        for (index, fate) in [(|answer: &mut Answer| answer.status = 0) as fn(&mut Answer), |answer| {
            *answer = error(500, "InternalError", "")
        }]
        .into_iter()
        .enumerate()
        {
            store.proxy.faults(move |number, asked| match asked.method == "PUT" && number < 3 {
                true => Fate::Changed(fate),
                false => Fate::Passes,
            });
            let output = format!("s3://models/{index}.ckpt");
            store.run(&["convert", text(&base), "-o", &output, "-q"]).done();
            assert!(store.get(&format!("{index}.ckpt")).is_some());
        }
    }
}

#[test]
fn what_stays_wrong_is_one_clear_error_and_nothing_is_visible() {
    type Answers = fn() -> Answer;
    let answers: [(Answers, &str); 5] = [
        (|| error(400, "ExpiredToken", "<Token-0>SessionTokenOfTheTest</Token-0>"), "have expired: ExpiredToken"),
        (|| error(403, "InvalidAccessKeyId", "<AWSAccessKeyId>KeyIdOfTheTest</AWSAccessKeyId>"), "InvalidAccessKeyId"),
        (|| error(403, "AccessDenied", ""), "refuses the credentials"),
        (|| error(404, "NoSuchBucket", ""), "no such bucket"),
        (|| error(400, "InvalidRequest", "<Detail>Signature=abc</Detail>"), "HTTP 400 Bad Request: InvalidRequest"),
    ];
    for (answer, secret) in [(answers[0].0, Store::TOKEN), (answers[1].0, Store::KEY)] {
        assert!(String::from_utf8(answer().body).unwrap().contains(secret));
    }
    type IsThere = fn(&Asked) -> bool;
    let places: [(&str, IsThere); 5] = [
        ("the first read", reads),
        ("a later read", |asked| reads(asked) && !asked.header("range").unwrap().starts_with("bytes=0-")),
        ("the beginning of the upload", |asked| asked.method == "POST" && asked.path.contains("?uploads")),
        ("a part", |asked| is_part(asked, 2)),
        ("the completion", completes),
    ];
    for store in Store::all() {
        let folder = Folder::new();
        let staging = folder.join("staging");
        fs::create_dir(&staging).unwrap();
        prepare(&store, &folder);
        let mut all = String::new();
        let all_at_a_part = answers.map(|answer| (places[3], answer));
        let one_at_all_places = places.map(|place| (place, answers[2]));
        for (index, ((place, is_there), (answer, words))) in
            all_at_a_part.into_iter().chain(one_at_all_places).enumerate()
        {
            // First nothing is there, then something.
            if index == 2 {
                store.put("out/large.safetensors", b"before");
            }
            let before = if index < 2 { None } else { Some(&b"before"[..]) };
            store.proxy.faults(move |_, asked| match is_there(asked) {
                true => Fate::Answered(answer()),
                false => Fate::Passes,
            });
            let arguments = ["convert", INPUT, "-o", OUTPUT, "--force", "-q"];
            let ran = Ran::from(store.command(&arguments).env("TMPDIR", &staging).output().unwrap());
            let file = if place.contains("read") { INPUT } else { OUTPUT };
            assert!(ran.stderr.contains(words), "{}: {place}, {words}: {}", store.name, ran.stderr);
            ran.refused(&[file]);
            assert_eq!(ran.stderr.contains("are discarded"), place == "a part" || place == "the completion");
            assert_eq!(store.get("out/large.safetensors").as_deref(), before, "{place}");
            assert_eq!(store.open_uploads(), 0, "{}: {place}, {words}", store.name);
            assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
            all += &ran.stderr;
        }
        assert_no_secret(&all);
        // Parts that the store does not discard are mentioned.
        store.proxy.faults(|_, asked| match is_part(asked, 2) || asked.method == "DELETE" {
            true => Fate::Answered(error(403, "AccessDenied", "")),
            false => Fate::Passes,
        });
        convert(&store).refused(&[OUTPUT, "could not be discarded"]);
        assert_eq!(store.open_uploads(), 1);
    }
}

#[test]
fn an_object_that_changes_is_an_error() {
    for store in Store::all() {
        let folder = Folder::new();
        prepare(&store, &folder);
        // Real ones: the object is replaced between two requests, by one of the same length or another.
        let old = fs::read(folder.join("large.safetensors")).unwrap();
        let mut same_length = old.clone();
        *same_length.last_mut().unwrap() ^= 1;
        let mut longer = old.clone();
        longer.push(0);
        for new in [same_length, longer] {
            store.put("in/large.safetensors", &old);
            store.proxy.no_faults();
            // The last request of a conversion to a file asks whether the object is still the same.
            store.log();
            let output = folder.join("out.safetensors");
            let arguments = ["convert", INPUT, "-o", text(&output), "--force", "-q"];
            store.run(&arguments).done();
            fs::remove_file(&output).unwrap();
            let last = store.log().len();
            for at in [2, last] {
                store.put("in/large.safetensors", &old);
                let (sender, receiver) = std::sync::mpsc::channel();
                let (done, waits) = std::sync::mpsc::channel();
                let count = AtomicUsize::new(0);
                store.proxy.faults(move |_, _| {
                    if count.fetch_add(1, Ordering::Relaxed) + 1 == at {
                        sender.send(()).unwrap();
                        waits.recv().unwrap();
                    }
                    Fate::Passes
                });
                let ran = thread::scope(|scope| {
                    let running = scope.spawn(|| store.run(&arguments));
                    receiver.recv().unwrap();
                    store.put("in/large.safetensors", &new);
                    done.send(()).unwrap();
                    running.join().unwrap()
                });
                ran.refused(&[INPUT, "changed while it was being read"]);
                assert!(!output.exists());
            }
        }
    }
}

#[test]
fn wrong_lengths_and_ranges_are_errors() {
    type Change = fn(&mut Answer);
    let faults: [(&str, Change); 5] = [
        ("another length of the object", |answer| change_range(answer, |range| range.replace("/24", "/25"))),
        ("another range", |answer| change_range(answer, |range| range.replace("bytes ", "bytes 1"))),
        ("no range", |answer| answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-range"))),
        ("the whole object", |answer| answer.status = 200),
        ("fewer bytes than the range", |answer| answer.body.truncate(1000)),
    ];
    for store in Store::all() {
        let folder = Folder::new();
        prepare(&store, &folder);
        let output = folder.join("out.safetensors");
        for (name, fault) in faults {
            store.proxy.faults(move |number, asked| match reads(asked) && number > 1 {
                true => Fate::Changed(fault),
                false => Fate::Passes,
            });
            let ran = store.run(&["convert", INPUT, "-o", text(&output), "-q"]);
            assert_eq!(ran.code, Some(2), "{}: {name}", store.name);
            ran.refused(&[INPUT]);
            assert!(!output.exists(), "{}: {name}", store.name);
        }
    }
}

fn change_range(answer: &mut Answer, change: fn(&str) -> String) {
    let range = answer.headers.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case("content-range"));
    if let Some((_, range)) = range {
        *range = change(range);
    }
}

/// Runs a conversion until the second part is sent again and again, and ends it with a signal.
#[cfg(unix)]
fn ended_in_the_middle(store: &Store, signal: &str, staging: &Path) -> Ran {
    store.proxy.faults(|_, asked| match is_part(asked, 2) {
        true => Fate::Answered(error(503, "SlowDown", "")),
        false => Fate::Passes,
    });
    store.log();
    let mut command = store.command(&["convert", INPUT, "-o", OUTPUT, "--force", "-q"]);
    command.env("TMPDIR", staging).stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    while !store.log().iter().any(|asked| is_part(asked, 2)) {
        thread::sleep(Duration::from_millis(20));
    }
    let kill = std::process::Command::new("kill").args([signal, &running.id().to_string()]).status().unwrap();
    assert!(kill.success());
    running.wait_with_output().unwrap().into()
}

#[cfg(unix)]
#[test]
fn an_upload_that_is_killed_leaves_nothing_visible() {
    for store in Store::all() {
        let folder = Folder::new();
        let staging = folder.join("staging");
        fs::create_dir(&staging).unwrap();
        let right = prepare(&store, &folder);
        for before in [None, Some(b"before")] {
            if let Some(before) = before {
                store.put("out/large.safetensors", before);
            }
            let visible = || store.get("out/large.safetensors");
            // Ctrl-C: the upload is aborted.
            let ran = ended_in_the_middle(&store, "-INT", &staging);
            assert_ne!(ran.code, Some(0));
            assert!(ran.stderr.contains("interrupted; the parts that were sent are discarded"), "{}", ran.stderr);
            assert_eq!((visible().as_deref(), store.open_uploads()), (before.map(|it| &it[..]), 0));
            assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
        }
        // SIGKILL: the parts stay with the store, invisible, until it discards them.
        fs::create_dir(folder.join("killed")).unwrap();
        ended_in_the_middle(&store, "-KILL", &folder.join("killed"));
        assert_eq!(store.get("out/large.safetensors").unwrap(), b"before");
        assert_eq!(store.open_uploads(), 1);
        // They do not hinder the next run.
        store.proxy.no_faults();
        convert(&store).done();
        assert!(store.get("out/large.safetensors").unwrap() == right);
    }
}
