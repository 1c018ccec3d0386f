//! Real S3 servers, started by the test: moto and s3s-fs, both of `tests/cloud/install.py`.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::proxy::Proxy;
use super::server::Asked;
use super::{Folder, PROGRAM, Ran, repository};

/// Environment variables: the path of the Python environment, by default `target/cloud`, and whether the tests need both
/// servers.
const PLACE: &str = "TRINART_CLOUD";
const REQUIRED: &str = "TRINART_CLOUD_REQUIRED";

/// Returns a program of the environment. Prints a message and returns `None` if it is missing.
fn installed(program: PathBuf) -> Option<PathBuf> {
    if program.is_file() {
        return Some(program);
    }
    assert!(env::var_os(REQUIRED).is_none(), "no {}", program.display());
    eprintln!("skipped: {} is missing; run python3 tests/cloud/install.py", program.display());
    None
}

/// Finds the Python interpreter of the environment.
pub(crate) fn python() -> Option<PathBuf> {
    let folder = env::var_os(PLACE).map_or_else(|| repository().join("target/cloud"), PathBuf::from);
    installed(folder.join("bin/python"))
}

/// A server, behind a proxy that counts and injects faults.
pub(crate) struct Store {
    pub(crate) name: &'static str,
    process: Child,
    /// Where s3s-fs has its objects.
    root: Option<Folder>,
    /// The port of the server itself.
    port: u16,
    pub(crate) proxy: Proxy,
}

impl Store {
    pub(crate) const KEY: &str = "KeyIdOfTheTest";
    pub(crate) const SECRET: &str = "S3KeyOfTheTest";
    pub(crate) const TOKEN: &str = "SessionTokenOfTheTest";

    /// Starts each of the servers that are installed, with an empty bucket `models`.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::moto as fn() -> Option<Self>, Self::s3s].into_iter().filter_map(|start| start())
    }

    /// Starts moto, which does not look at signatures.
    pub(crate) fn moto() -> Option<Self> {
        let mut command = Command::new(python()?);
        command.arg("-B").arg(repository().join("tests/cloud/s3.py"));
        let store = Self::start("moto", command, None);
        assert!(store.ask("PUT", "/models", b"").starts_with(b"HTTP/1.1 200"));
        Some(store)
    }

    /// Starts s3s-fs, which refuses wrong signatures.
    pub(crate) fn s3s() -> Option<Self> {
        let program = repository().join("target/s3s/debug").join(format!("s3s-server{}", env::consts::EXE_SUFFIX));
        let root = Folder::new();
        let mut command = Command::new(installed(program)?);
        command.arg(root.path()).args([Self::KEY, Self::SECRET]);
        fs::create_dir(root.join("models")).unwrap();
        Some(Self::start("s3s-fs", command, Some(root)))
    }

    fn start(name: &'static str, mut command: Command, root: Option<Folder>) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the server prints its port");
        Store { name, process, root, port, proxy: Proxy::start(port) }
    }

    /// Sends a request to moto itself, without a signature.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
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

    /// Stores an object behind the back of the proxy.
    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        match &self.root {
            Some(root) => {
                let path = root.join("models").join(key);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            None => assert!(self.ask("PUT", &format!("/_test/object?{key}"), content).starts_with(b"HTTP/1.1 200")),
        }
    }

    /// The content of an object; `None` if the store lacks it.
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        if let Some(root) = &self.root {
            return fs::read(root.join("models").join(key)).ok();
        }
        let answer = self.ask("GET", &format!("/_test/object?{key}"), b"");
        let begin = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        answer.starts_with(b"HTTP/1.1 200").then(|| answer[begin..].to_vec())
    }

    /// The number of uploads that are neither complete nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        if let Some(root) = &self.root {
            let names = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name());
            return names.filter(|name| name.as_encoded_bytes().starts_with(b".upload-")).count();
        }
        let answer = String::from_utf8(self.ask("GET", "/_test/uploads", b"")).unwrap();
        answer.split("\r\n\r\n").nth(1).unwrap().parse().unwrap()
    }

    /// The requests since the last call.
    pub(crate) fn log(&self) -> Vec<Asked> {
        self.proxy.server.take()
    }

    /// The number of requests since the last call, the bytes of the bodies of their answers, and whether one of them wrote.
    pub(crate) fn cost(&self) -> (usize, u64, bool) {
        let log = self.log();
        let writes = log.iter().any(|asked| !matches!(asked.method.as_str(), "GET" | "HEAD"));
        (log.len(), log.iter().map(|asked| asked.sent).sum(), writes)
    }

    /// The environment variables of the server and of its credentials.
    pub(crate) fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.proxy.server.url("")),
            ("AWS_ACCESS_KEY_ID", Self::KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    /// The program with the endpoint and the credentials of this server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).envs(self.variables());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }
}

/// Asserts that text has none of the credentials of the tests.
#[track_caller]
pub(crate) fn assert_no_secret(text: &str) {
    for secret in [Store::KEY, Store::SECRET, Store::TOKEN, "Signature="] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
