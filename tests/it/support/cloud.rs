//! A real S3 server, started by the test: moto, in the Python environment of `tests/cloud/install.py`.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{PROGRAM, Ran, repository};

/// Environment variables: the path of the Python environment, by default `target/cloud`, and whether the tests need it.
const PLACE: &str = "TRINART_CLOUD";
const REQUIRED: &str = "TRINART_CLOUD_REQUIRED";

/// Finds the Python interpreter of the environment. Prints a message and returns `None` if it is missing.
pub(crate) fn python() -> Option<PathBuf> {
    let folder = env::var_os(PLACE).map_or_else(|| repository().join("target/cloud"), PathBuf::from);
    let python = folder.join("bin/python");
    if python.is_file() {
        return Some(python);
    }
    assert!(env::var_os(REQUIRED).is_none(), "no Python environment in {}", folder.display());
    eprintln!("skipped: the Python environment is missing; run python3 tests/cloud/install.py");
    None
}

pub(crate) struct Store {
    process: Child,
    pub(crate) port: u16,
}

impl Store {
    pub(crate) const SECRET: &str = "S3KeyOfTheTest";

    /// Starts a server with an empty bucket `models`.
    pub(crate) fn start() -> Option<Self> {
        let mut command = Command::new(python()?);
        command.arg("-B").arg(repository().join("tests/cloud/s3.py"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let store = Store { process, port: line.trim().parse().expect("the server prints its port") };
        assert!(store.ask("PUT", "/models", b"").starts_with("HTTP/1.1 200"));
        Some(store)
    }

    /// Sends a request without a signature, which this server does not need. Returns the answer with its headers.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> String {
        String::from_utf8_lossy(&self.ask_bytes(method, path, body)).into_owned()
    }

    fn ask_bytes(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        assert!(self.ask("PUT", &format!("/models/{key}"), content).starts_with("HTTP/1.1 200"));
    }

    /// The content of an object; `None` if the store lacks it.
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.ask_bytes("GET", &format!("/_test/object?{key}"), b"");
        let begin = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        answer.starts_with(b"HTTP/1.1 200").then(|| answer[begin..].to_vec())
    }

    /// The number of uploads that are neither complete nor aborted.
    pub(crate) fn open_uploads(&self) -> String {
        self.ask("GET", "/_test/uploads", b"").split("\r\n\r\n").nth(1).unwrap().to_owned()
    }

    /// The requests since the last call: the method, the path with its query, and the bytes of the answer.
    pub(crate) fn log(&self) -> Vec<(String, String, u64)> {
        let answer = self.ask("GET", "/_test/log", b"");
        let log: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        serde_json::from_value(log).unwrap()
    }

    /// Runs the program with the endpoint and the credentials of this server.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_ACCESS_KEY_ID", "KeyIdOfTheTest")
            .env("AWS_SECRET_ACCESS_KEY", Self::SECRET)
            .env("AWS_REGION", "us-east-1");
        command.output().unwrap().into()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
