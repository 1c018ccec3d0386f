//! Addresses in place of paths: the same results as for local files, and what they cost.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use trinart_ckpt_formats::tensor::Dtype;

use crate::support::hub::{Content, Hub};
use crate::support::server::{Answer, Server};
use crate::support::{Folder, PROGRAM, Ran, assert_one_line, fixture, repository, save, tensor};

const GB: u64 = 1_000_000_000;

/// Runs the program with a hub and its token.
pub(crate) fn run_at(hub: Option<&Hub>, arguments: &[&str]) -> Ran {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_remove("HF_HOME").env("HF_TOKEN", Hub::TOKEN);
    // A proxy would see requests to this machine.
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    if let Some(hub) = hub {
        command.env("HF_ENDPOINT", hub.hub.url(""));
    }
    command.output().unwrap().into()
}

/// A server of files that states tags and answers with ranges.
pub(crate) fn server_of(files: &[(&'static str, Content)]) -> Server {
    let files: Vec<(&'static str, Content)> = files.to_vec();
    Server::start(move |asked| {
        let name = asked.path.trim_start_matches('/').split('?').next().unwrap();
        let found = files.iter().find(|(file, _)| *file == name);
        found.map_or_else(|| Answer::new(404), |(_, content)| content.answer(asked))
    })
}

pub(crate) fn content(path: &Path) -> Content {
    Content::new(fs::read(path).unwrap())
}

/// The document without the names of files.
fn without_names(mut document: Value) -> Value {
    for file in document["files"].as_array_mut().unwrap() {
        file.as_object_mut().unwrap().remove("file");
        file.as_object_mut().unwrap().remove("unread_bytes");
    }
    document
}

/// A safetensors file of SD v1 with EMA weights, as its authors published it: 7.7 GB, of which all values are zero.
fn sd1_with_ema(sha256: &str, is_in: impl Fn(&str) -> bool) -> Content {
    let keys = fs::read_to_string(fixture("sd1-ldm.keys")).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for line in keys.lines().filter(|line| !line.starts_with('#') && is_in(line)) {
        let mut words = line.split(' ');
        let (key, dtype) = (words.next().unwrap(), words.next().unwrap());
        let shape: Vec<u64> = words.flat_map(|word| word.split('x')).filter_map(|size| size.parse().ok()).collect();
        let size = if dtype == "I64" { 8 } else { 4 };
        let begin = end;
        end += shape.iter().product::<u64>() * size;
        header.insert(key.to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat();
    let len = file.len() as u64 + end;
    Content::sparse(file, Vec::new(), len, sha256)
}

#[test]
fn reads_as_local_files_are_read() {
    let names = [
        "tiny-sd1.safetensors",
        "tiny-sd1.ckpt",
        "tiny-sd1-legacy.ckpt",
        "tiny-vae.ckpt",
        "tiny-vae.vae.pt",
        "dtypes.ckpt",
        "views.ckpt",
        "hostile/calls-system.ckpt",
    ];
    let files: Vec<_> = names.iter().map(|name| (*name, content(&fixture(name)))).collect();
    let server = server_of(&files);
    for name in names {
        let path = fixture(name).to_str().unwrap().to_owned();
        for command in ["inspect", "scan", "hash"] {
            let (local, remote) = (
                run_at(None, &[command, &path, "--json"]),
                run_at(None, &[command, &server.url(&format!("/{name}")), "--json"]),
            );
            assert_eq!(remote.code, local.code, "{command} {name}: {}", remote.stderr);
            let document = |ran: &Ran| without_names(serde_json::from_str(&ran.stdout).unwrap());
            if local.code != Some(2) {
                assert_eq!(document(&remote), document(&local), "{command} {name}");
            }
        }
    }
}

#[test]
fn seven_gigabytes_are_inspected_with_two_requests() {
    let file = sd1_with_ema(&"ab".repeat(32), |_| true);
    assert!(file.len > 7 * GB);
    let hub = Hub::start(&[("model.safetensors", file.clone())], true);
    let report = run_at(Some(&hub), &["inspect", "hf://owner/name/model.safetensors", "--json"]).json();
    assert_eq!(report["files"][0]["bytes"], file.len);
    assert_eq!(report["files"][0]["kind"], "checkpoint");
    let (of_hub, of_store) = (hub.hub.take(), hub.store.take());
    assert_eq!(of_hub.len(), 1);
    let bytes: u64 = of_store.iter().map(|asked| asked.sent).sum();
    assert!(of_store.len() <= 2 && bytes < 1_000_000, "{of_store:?}");

    let server = server_of(&[("model.safetensors", file)]);
    let report = run_at(None, &["inspect", &server.url("/model.safetensors"), "--json"]).json();
    assert_eq!(report["files"][0]["file"], server.url("/model.safetensors"));
    let asked = server.take();
    assert!(asked.len() <= 2 && asked.iter().map(|it| it.sent).sum::<u64>() < 1_000_000, "{asked:?}");
}

#[test]
fn of_a_torch_zip_the_directory_and_the_pickle_are_read() {
    let folder = Folder::new();
    let path = folder.join("large.ckpt");
    let numbers = |index: u64| (0..500_000_u32).flat_map(|it| (it as f32 + index as f32).to_le_bytes()).collect();
    let key = |index: u64| format!("model.diffusion_model.input_blocks.{index}.0.weight");
    save(&path, (0..10).map(|index| (key(index), tensor(Dtype::F32, &[500_000], numbers(index)))));
    let server = server_of(&[("large.ckpt", content(&path))]);
    let url = server.url("/large.ckpt");
    for command in ["inspect", "scan"] {
        let local = run_at(None, &[command, path.to_str().unwrap(), "--json"]).json();
        let remote = run_at(None, &[command, &url, "--json"]).json();
        if command == "scan" {
            assert!(remote["files"][0]["unread_bytes"].as_u64().unwrap() > 15_000_000, "{remote}");
        }
        assert_eq!(without_names(remote), without_names(local));
        let asked = server.take();
        let bytes: u64 = asked.iter().map(|it| it.sent).sum();
        assert!(asked.len() <= 3 && bytes < 1_000_000, "{command}: {} requests, {bytes} bytes", asked.len());
    }
    let text = run_at(None, &["scan", &url]).done();
    assert!(text.contains("not read"), "{text}");
}

#[test]
fn converts_and_merges_to_the_same_bytes() {
    let folder = Folder::new();
    let names = ["tiny-sd1.safetensors", "tiny-sd1.ckpt", "tiny-sd1-legacy.ckpt", "tiny-vae.vae.pt"];
    let files: Vec<_> = names.iter().map(|name| (*name, content(&fixture(name)))).collect();
    let server = server_of(&files);
    let hub = Hub::start(&files.iter().map(|(name, file)| (*name, file.clone())).collect::<Vec<_>>(), true);
    let vae = "tiny-vae.vae.pt";
    for name in &names[..3] {
        let local = fixture(name).to_str().unwrap().to_owned();
        let local_vae = fixture(vae).to_str().unwrap().to_owned();
        let write = |inputs: &[&str], output: &str| {
            let output = folder.join(output);
            run_at(Some(&hub), &[inputs, &["-o", output.to_str().unwrap(), "--force", "-q"]].concat()).done();
            fs::read(output).unwrap()
        };
        let expected = write(&["convert", &local, "--dtype", "f16"], "a.safetensors");
        let web = server.url(&format!("/{name}"));
        assert_eq!(write(&["convert", &web, "--dtype", "f16"], "b.safetensors"), expected, "{name}");
        let of_hub = format!("hf://owner/name/{name}");
        assert_eq!(write(&["convert", &of_hub, "--dtype", "f16"], "c.safetensors"), expected, "{name}");
        let expected = write(&["merge-vae", &local, "--vae", &local_vae], "a.ckpt");
        let merged = write(&["merge-vae", &web, "--vae", &format!("hf://owner/name@main/{vae}")], "b.ckpt");
        assert_eq!(merged, expected, "{name}");
    }
}

#[test]
fn reads_the_folder_of_a_pipeline_from_a_hub() {
    let root = repository().join("fixtures/diffusers/sd1");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            files.push((name, content(&path)));
        }
    }
    let files: Vec<(&str, Content)> = files.iter().map(|(name, file)| (name.as_str(), file.clone())).collect();
    let hub = Hub::start(&files, true);
    let folder = Folder::new();
    let write = |input: &str, output: &str| {
        let output = folder.join(output);
        run_at(Some(&hub), &["convert", input, "-o", output.to_str().unwrap(), "-q"]).done();
        fs::read(output).unwrap()
    };
    assert_eq!(write("hf://owner/name", "a.safetensors"), write(root.to_str().unwrap(), "b.safetensors"));
    // Without a name that says what it is, a file is looked up in the list.
    let found = run_at(Some(&hub), &["inspect", "hf://owner/name/nothing", "--json"]);
    assert_eq!(found.code, Some(2));
    assert_one_line(&found.stderr, &["hf://owner/name/nothing", "no such file"]);
}

#[test]
fn names_a_published_file_and_refuses_a_withdrawn_one_before_a_byte_of_it() {
    let withdrawn = "d2dd1c82220e31a72bd9958dda249ed7f94faf875d5123ae3aab7a1950a82a8f";
    let published = "42d3f359b02c944cb2e8f666b10bda05015792f10bfd4e9deee44bb66969ce3d";
    let vae = Content::sparse(Vec::new(), Vec::new(), 404_661_793, withdrawn);
    // Bytes behind the tensors are reported, and do not hinder the report.
    let large = sd1_with_ema(published, |key| key.starts_with("model.")).of_bytes(4_265_481_056);
    let hub = Hub::start(&[("vae.ckpt", vae), ("large.safetensors", large)], false);
    let base = fixture("tiny-sd1.ckpt");
    let folder = Folder::new();
    let output = folder.join("out.ckpt");
    let (base, output) = (base.to_str().unwrap(), output.to_str().unwrap());
    let merge = ["merge-vae", base, "--vae", "hf://owner/name/vae.ckpt", "-o", output];
    let refused = run_at(Some(&hub), &merge);
    refused.refused(&["hf://owner/name/vae.ckpt", "autoencoder_kl-f8-trinart_characters.ckpt", "withdrawn"]);
    assert_eq!((hub.hub.take().len(), hub.store.take().len()), (1, 0));
    assert_eq!(folder.names().len(), 0);
    let report = run_at(Some(&hub), &["inspect", "hf://owner/name/large.safetensors", "--json"]).json();
    assert_eq!(report["files"][0]["published"]["name"], "derrida_final.ckpt");
    assert!(hub.cost().1 < 1_000_000);
}

#[test]
fn keeps_secrets_to_itself() {
    let file = content(&fixture("tiny-sd1.ckpt"));
    let server = Server::start({
        let file = file.clone();
        move |asked| match asked.header("authorization") {
            _ if !asked.path.contains("key=QuerySecret") => Answer::new(403),
            Some("Basic dXNlcjpQYXNzd29yZFNlY3JldA==") => file.answer(asked),
            _ => Answer::new(401),
        }
    });
    let hub = Hub::start(&[("a.ckpt", file)], true);
    let folder = Folder::new();
    let url =
        |host: &str, path: &str| format!("http://user:PasswordSecret@{host}:{}{path}?key=QuerySecret", server.port);
    let (good, output) = (url("127.0.0.1", "/a.ckpt"), folder.join("out.safetensors"));
    let output = output.to_str().unwrap();
    let of_hub = "hf://owner/name/a.ckpt";
    let mut all = String::new();
    for arguments in [
        vec!["inspect", &good, of_hub, "--json"],
        vec!["scan", &good, of_hub],
        vec!["hash", &good],
        vec!["diff", &good, of_hub, "--json"],
        vec!["convert", &good, "-o", output, "--force", "--json"],
        vec!["convert", of_hub, "-o", output, "--force"],
        vec!["merge-vae", of_hub, &format!("--vae={good}"), "-o", output, "--force"],
        vec!["convert", &good, "--nonsense"],
        vec!["inspect", &url("localhost.invalid", "/a.ckpt")],
        vec!["inspect", &good.replace("QuerySecret", "Secret"), "--json"],
        vec!["inspect", &good.replace("PasswordSecret", "OtherSecret")],
    ] {
        let ran = run_at(Some(&hub), &arguments);
        all += &format!("{:?} {}{}", ran.code, ran.stdout, ran.stderr);
        all += &String::from_utf8_lossy(&fs::read(output).unwrap_or_default());
    }
    for secret in ["Secret", Hub::TOKEN, Hub::SIGNATURE, "dXNlcjp"] {
        assert!(!all.contains(secret), "{secret} in {}", all.chars().take(4000).collect::<String>());
    }
    // Credentials do not follow a redirect to another host.
    assert!(hub.hub.take().iter().all(|asked| asked.header("authorization").is_some()));
    assert!(hub.store.take().iter().all(|asked| asked.header("authorization").is_none()));
}

#[test]
fn says_in_one_line_what_prevents_reading() {
    let hub = Hub::start(&[("a.ckpt", content(&fixture("tiny-vae.ckpt")))], true);
    let gone = Server::start(|_| Answer::new(404));
    let web = Server::start(|_| Answer::new(200).body("<!doctype html><p>Sign in"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (address, words) in [
        (gone.url("/a.ckpt"), &["no such file", "404"][..]),
        (web.url("/a.ckpt"), &["a web page"]),
        (format!("http://127.0.0.1:{closed}/a.ckpt"), &["cannot reach 127.0.0.1"]),
        ("http://example.invalid/a.ckpt".to_owned(), &["without encryption", "--plain-http"]),
        ("hf://owner/name/b.ckpt".to_owned(), &["no such file"]),
        ("hf://owner".to_owned(), &["hf://OWNER/NAME"]),
        ("https://".to_owned(), &["not an address"]),
    ] {
        let ran = run_at(Some(&hub), &["inspect", &address]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{address}");
        assert_one_line(&ran.stderr, words);
    }
    let mut command = Command::new(PROGRAM);
    let arguments: [OsString; 2] = ["inspect".into(), "hf://owner/name/a.ckpt".into()];
    command.args(arguments).env("HF_ENDPOINT", hub.hub.url("")).env("HF_TOKEN", "").env("HF_HOME", "nowhere");
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, Some(2));
    assert_one_line(&ran.stderr, &["asks for credentials", "401", "HF_TOKEN"]);
}
