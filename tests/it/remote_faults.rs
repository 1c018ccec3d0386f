//! What servers do wrong: the right output or one clear error, and nothing half written.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use trinart_ckpt_formats::tensor::Dtype;

use crate::remote::{content, run_at, server_of};
use crate::support::hub::{Content, Hub};
use crate::support::server::{Answer, Asked, Server};
use crate::support::{Folder, assert_one_line, fixture, save, tensor};

/// A file of 24 MB, of which no read has all.
fn large(folder: &Folder) -> (String, Content) {
    let path = folder.join("large.safetensors");
    let numbers =
        |index: u64| (0..500_000_u32).flat_map(|it| ((it % 1000) as f32 * 0.5 + index as f32).to_le_bytes()).collect();
    save(&path, (0..12).map(|index| (format!("layer.{index}.weight"), tensor(Dtype::F32, &[500_000], numbers(index)))));
    (path.to_str().unwrap().to_owned(), content(&path))
}

/// A server that changes its answers: the number of the request, what was asked, the right answer.
fn faulty(file: Content, fault: impl Fn(usize, &Asked, Answer) -> Answer + Send + Sync + 'static) -> Server {
    let count = Mutex::new(0);
    Server::start(move |asked| {
        let number = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count
        };
        fault(number, asked, file.answer(asked))
    })
}

/// Converts the file of a server to f16, and returns the output or the one line of the error.
fn convert(folder: &Folder, url: &str) -> Result<Vec<u8>, String> {
    let output = folder.join("out.safetensors");
    let before = folder.names();
    let ran = run_at(None, &["convert", url, "-o", output.to_str().unwrap(), "--dtype", "f16", "-q"]);
    if ran.code == Some(0) {
        let bytes = fs::read(&output).unwrap();
        fs::remove_file(&output).unwrap();
        return Ok(bytes);
    }
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert_one_line(&ran.stderr, &[url]);
    assert_eq!(folder.names(), before, "a failed command left something");
    Err(ran.stderr)
}

fn expected(folder: &Folder, path: &str) -> Vec<u8> {
    let output = folder.join("expected.safetensors");
    run_at(None, &["convert", path, "-o", output.to_str().unwrap(), "--dtype", "f16", "-q"]).done();
    let bytes = fs::read(&output).unwrap();
    fs::remove_file(output).unwrap();
    bytes
}

#[test]
fn goes_on_after_faults_that_pass() {
    let folder = Folder::new();
    let (path, file) = large(&folder);
    let right = expected(&folder, &path);
    type Fault = fn(usize, &Asked, Answer) -> Answer;
    let faults: [(&str, Fault); 5] = [
        ("drops in the middle", |number, _, answer| Answer {
            drop_after: (number % 2 == 1).then_some(answer.body.len() / 3),
            ..answer
        }),
        ("drops before the first byte", |number, _, answer| Answer {
            drop_after: (number % 3 == 0).then_some(0),
            ..answer
        }),
        ("429 with a time", |number, _, answer| match number % 4 {
            0 => Answer::new(429).header("Retry-After", 0),
            _ => answer,
        }),
        ("503", |number, _, answer| if number == 2 { Answer::new(503) } else { answer }),
        ("no tags", |_, _, mut answer| {
            answer.headers.retain(|(name, _)| name != "ETag");
            answer
        }),
    ];
    for (name, fault) in faults {
        let server = faulty(file.clone(), fault);
        assert!(convert(&folder, &server.url("/a.safetensors")).unwrap() == right, "{name}");
    }
}

#[test]
fn fetches_each_byte_once() {
    let folder = Folder::new();
    let (path, file) = large(&folder);
    let len = file.len;
    let server = server_of(&[("a.safetensors", file)]);
    assert!(convert(&folder, &server.url("/a.safetensors")).unwrap() == expected(&folder, &path));
    let asked = server.take();
    let bytes: u64 = asked.iter().map(|it| it.sent).sum();
    // The last request asks whether the file is still the same.
    assert!(bytes <= len + 1, "{bytes} of {len}");
    assert!(asked.len() <= 16, "{} requests", asked.len());
}

#[test]
fn refuses_a_file_that_changes() {
    let folder = Folder::new();
    let (_, file) = large(&folder);
    let other_tag = |mut answer: Answer| {
        answer.headers.retain(|(name, _)| name != "ETag");
        answer.header("ETag", "\"other\"")
    };
    let server = faulty(file.clone(), move |number, _, answer| if number > 3 { other_tag(answer) } else { answer });
    assert!(convert(&folder, &server.url("/a.safetensors")).unwrap_err().contains("changed while it was being read"));
    // The file changes behind the last byte: the final check asks for the first byte alone.
    let server = faulty(file.clone(), move |number, asked, answer| match asked.range() {
        Some((0, 1)) if number > 1 => other_tag(answer),
        _ => answer,
    });
    assert!(convert(&folder, &server.url("/a.safetensors")).unwrap_err().contains("changed while it was being read"));
    let shorter = faulty(file.clone(), |number, asked, answer| match asked.range() {
        Some((begin, end)) if number > 3 => {
            let mut answer = answer;
            answer.headers.retain(|(name, _)| name != "Content-Range");
            answer.header("Content-Range", format!("bytes {begin}-{}/{}", end - 1, end))
        }
        _ => answer,
    });
    assert!(convert(&folder, &shorter.url("/a.safetensors")).unwrap_err().contains("changed while it was being read"));
}

#[test]
fn refuses_answers_that_are_wrong() {
    let folder = Folder::new();
    let (_, file) = large(&folder);
    type Fault = fn(usize, &Asked, Answer) -> Answer;
    let faults: [(&str, Fault, &str); 5] = [
        ("always drops", |number, _, answer| Answer { drop_after: (number > 1).then_some(0), ..answer }, "dropped"),
        (
            "too long",
            |number, _, answer| match number {
                1 => answer,
                _ => {
                    let mut answer = answer;
                    answer.body.extend(*b"more");
                    answer
                }
            },
            "more bytes than were asked for",
        ),
        (
            "another range",
            |number, _, answer| match number {
                1 => answer,
                _ => {
                    let mut answer = answer;
                    let (_, value) = answer.headers.iter_mut().find(|(name, _)| name == "Content-Range").unwrap();
                    *value = format!("bytes 0-{}/{}", answer.body.len() - 1, value.split('/').nth(1).unwrap());
                    answer
                }
            },
            "another range",
        ),
        ("compressed", |_, _, answer| answer.header("Content-Encoding", "gzip"), "compresses"),
        ("not there any more", |number, _, answer| if number > 2 { Answer::new(404) } else { answer }, "no such file"),
    ];
    for (name, fault, words) in faults {
        let server = faulty(file.clone(), fault);
        let error = convert(&folder, &server.url("/a.safetensors")).unwrap_err();
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn a_server_without_ranges_serves_small_files_alone() {
    let folder = Folder::new();
    let (_, file) = large(&folder);
    let whole = |file: Content| {
        Server::start(move |asked| {
            let body = file.answer(&asked.without_range());
            Answer { headers: body.headers, ..Answer::new(200).body(body.body) }
        })
    };
    let error = convert(&folder, &whole(file).url("/a.safetensors")).unwrap_err();
    assert!(error.contains("instead of ranges") && error.contains("download it"), "{error}");
    let small = fixture("tiny-sd1.safetensors");
    let right = expected(&folder, small.to_str().unwrap());
    assert!(convert(&folder, &whole(content(&small)).url("/a.safetensors")).unwrap() == right);
}

#[test]
fn asks_a_hub_again_when_a_signed_address_expires() {
    let folder = Folder::new();
    let (path, file) = large(&folder);
    let right = expected(&folder, &path);
    let hub = Hub::start_with(&[("a.safetensors", file)], true, |number, _, answer| match number {
        3 => Answer::new(403),
        _ => answer,
    });
    let output = folder.join("out.safetensors");
    let arguments =
        ["convert", "hf://owner/name/a.safetensors", "-o", output.to_str().unwrap(), "--dtype", "f16", "-q"];
    run_at(Some(&hub), &arguments).done();
    assert!(fs::read(output).unwrap() == right);
    let asked = hub.hub.take();
    assert!(asked.iter().skip(1).all(|it| it.path.contains(Hub::COMMIT)), "later requests name the commit");
}

#[test]
fn takes_what_the_hub_states_for_no_more_than_a_statement() {
    // The store has other bytes than the hub says: a merge computes the sha256 itself.
    let vae = content(&fixture("tiny-vae.vae.pt"));
    let hub = Hub::start(&[("a.vae.pt", vae.stating(&"ab".repeat(32)))], true);
    let folder = Folder::new();
    let (base, output) = (fixture("tiny-sd1.ckpt"), folder.join("out.ckpt"));
    let (base, output) = (base.to_str().unwrap(), output.to_str().unwrap());
    let ran = run_at(Some(&hub), &["merge-vae", base, "--vae", "hf://owner/name/a.vae.pt", "-o", output]);
    ran.refused(&["hf://owner/name/a.vae.pt", "its server states"]);
    assert!(folder.names().is_empty());
}

#[test]
fn an_interrupted_answer_of_the_first_request_is_no_error() {
    let first = AtomicBool::new(true);
    let file = content(&fixture("tiny-sd1.ckpt"));
    let server = Server::start(move |asked| {
        let answer = file.answer(asked);
        Answer { drop_after: first.swap(false, Ordering::Relaxed).then_some(1000), ..answer }
    });
    let report = run_at(None, &["inspect", &server.url("/a.ckpt"), "--json"]).json();
    assert_eq!(report["files"][0]["kind"], "checkpoint");
}
