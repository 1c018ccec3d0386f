//! A model hub on this machine: two servers, one with repositories that redirects, and one with the contents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::server::{Answer, Asked, Server};

/// A file of any length: its first bytes, zeros, and its last bytes.
#[derive(Clone)]
pub(crate) struct Content {
    head: Arc<Vec<u8>>,
    tail: Arc<Vec<u8>>,
    pub(crate) len: u64,
    pub(crate) sha256: String,
}

impl Content {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Content { len: bytes.len() as u64, head: Arc::new(bytes), tail: Arc::default(), sha256 }
    }

    /// A file of this length that begins and ends with these bytes.
    pub(crate) fn sparse(head: Vec<u8>, tail: Vec<u8>, len: u64, sha256: &str) -> Self {
        Content { head: Arc::new(head), tail: Arc::new(tail), len, sha256: sha256.to_owned() }
    }

    /// The same bytes, of which the hub states another hash.
    pub(crate) fn stating(self, sha256: &str) -> Self {
        Content { sha256: sha256.to_owned(), ..self }
    }

    /// The same with zeros at the end, up to this length.
    pub(crate) fn of_bytes(self, len: u64) -> Self {
        Content { len, ..self }
    }

    fn slice(&self, begin: u64, end: u64) -> Vec<u8> {
        let tail = self.len - self.tail.len() as u64;
        let byte = |at: u64| match at {
            at if at < self.head.len() as u64 => self.head[at as usize],
            at if at >= tail => self.tail[(at - tail) as usize],
            _ => 0,
        };
        (begin..end.min(self.len)).map(byte).collect()
    }

    /// Answers with a range, as servers do.
    pub(crate) fn answer(&self, asked: &Asked) -> Answer {
        let tag = format!("\"{}\"", &self.sha256[..32]);
        let Some((begin, end)) = asked.range() else {
            return Answer::new(200).header("ETag", tag).body(self.slice(0, self.len));
        };
        if begin >= self.len {
            return Answer::new(416).header("Content-Range", format!("bytes */{}", self.len));
        }
        let end = end.min(self.len);
        let range = format!("bytes {begin}-{}/{}", end - 1, self.len);
        Answer::new(206).header("ETag", tag).header("Content-Range", range).body(self.slice(begin, end))
    }
}

/// A hub with one repository, `owner/name`, at the commit [`Hub::COMMIT`].
pub(crate) struct Hub {
    pub(crate) hub: Server,
    pub(crate) store: Server,
}

impl Hub {
    pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    pub(crate) const TOKEN: &str = "hf_TheTokenOfTheTest";
    /// In the address of the redirect, as the signatures of stores are.
    pub(crate) const SIGNATURE: &str = "SignatureOfTheTest";

    /// Starts a hub with these files. Without the token, it answers 401 if `is_private`.
    pub(crate) fn start(files: &[(&str, Content)], is_private: bool) -> Self {
        Self::start_with(files, is_private, |_, _, answer| answer)
    }

    /// Starts a hub whose store changes its answers.
    pub(crate) fn start_with(
        files: &[(&str, Content)],
        is_private: bool,
        fault: impl Fn(usize, &Asked, Answer) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let files: HashMap<String, Content> =
            files.iter().map(|(name, content)| ((*name).to_owned(), content.clone())).collect();
        let contents = files.clone();
        let count = Mutex::new(0);
        let store = Server::start(move |asked| {
            let name = asked.path.trim_start_matches("/store/").split('?').next().unwrap();
            let number = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count
            };
            let is_signed = asked.path.ends_with(&format!("?Signature={}", Self::SIGNATURE));
            let answer = match contents.get(name) {
                _ if !is_signed => Answer::new(403),
                Some(content) => content.answer(asked),
                None => Answer::new(404),
            };
            fault(number, asked, answer)
        });
        let port = store.port;
        let hub = Server::start(move |asked| answer(&files, port, is_private, asked));
        Hub { hub, store }
    }

    /// The requests to both servers since the last call, and the bytes of their bodies.
    pub(crate) fn cost(&self) -> (usize, u64) {
        let all = [self.hub.take(), self.store.take()].concat();
        (all.len(), all.iter().map(|asked| asked.sent).sum())
    }
}

fn answer(files: &HashMap<String, Content>, store: u16, is_private: bool, asked: &Asked) -> Answer {
    let is_known = asked.header("authorization") == Some(&format!("Bearer {}", Hub::TOKEN));
    if is_private && !is_known {
        return Answer::new(401);
    }
    let path = asked.path.split('?').next().unwrap();
    if path == "/api/models/owner/name/tree/main" {
        let entries = files.iter().map(|(name, content)| {
            serde_json::json!({"type": "file", "path": name, "size": content.len, "lfs": {"oid": content.sha256}})
        });
        return Answer::new(200).body(serde_json::Value::from_iter(entries).to_string());
    }
    let found = ["main", Hub::COMMIT].iter().find_map(|revision| {
        path.strip_prefix(&format!("/owner/name/resolve/{revision}/")).and_then(|name| Some((name, files.get(name)?)))
    });
    let Some((name, content)) = found else { return Answer::new(404).body("Entry not found") };
    Answer::new(302)
        .header("X-Repo-Commit", Hub::COMMIT)
        .header("X-Linked-Size", content.len)
        .header("X-Linked-ETag", format!("\"{}\"", content.sha256))
        .header("Location", format!("http://127.0.0.1:{store}/store/{name}?Signature={}", Hub::SIGNATURE))
        .body("Found. Redirecting")
}
