//! A proxy on this machine, in front of a real server: it counts what passes, and does what servers and networks do wrong.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use super::server::{Answer, Asked, Server, read_head};

/// What becomes of a request.
pub(crate) enum Fate {
    /// The server gets it, and the client gets the answer.
    Passes,
    /// The client gets this answer, and the server nothing.
    Answered(Answer),
    /// The connection closes after this number of bytes of the body of the request.
    Cut(usize),
    /// The server gets it, and the client gets its answer after this change.
    Changed(fn(&mut Answer)),
}

type Faults = Box<dyn Fn(usize, &Asked) -> Fate + Send>;

pub(crate) struct Proxy {
    pub(crate) server: Server,
    faults: Arc<Mutex<(HashMap<String, usize>, Faults)>>,
}

impl Proxy {
    /// Starts a proxy in front of the server at a port.
    pub(crate) fn start(port: u16) -> Self {
        let none: Faults = Box::new(|_, _| Fate::Passes);
        let faults = Arc::new(Mutex::new((HashMap::new(), none)));
        // The first closure decides for each request; its body follows.
        let fates: Arc<Mutex<Vec<(String, Fate)>>> = Arc::default();
        let (deciding, decided) = (Arc::clone(&faults), Arc::clone(&fates));
        let cut = move |asked: &Asked| {
            let mut faults = deciding.lock().unwrap();
            let (counts, decide) = &mut *faults;
            let count = counts.entry(format!("{} {}", asked.method, asked.path)).or_default();
            *count += 1;
            let fate = decide(*count, asked);
            drop(faults);
            let most = if let Fate::Cut(most) = &fate { Some(*most) } else { None };
            if most.is_none() {
                decided.lock().unwrap().push((key(asked), fate));
            }
            most
        };
        let answer = move |asked: &Asked| {
            let fate = {
                let mut fates = fates.lock().unwrap();
                let key = key(asked);
                let found = fates.iter().position(|(of, _)| *of == key).unwrap();
                fates.remove(found).1
            };
            match fate {
                Fate::Answered(answer) => answer,
                Fate::Changed(change) => {
                    let mut answer = forward(port, asked);
                    change(&mut answer);
                    answer
                }
                Fate::Passes | Fate::Cut(_) => forward(port, asked),
            }
        };
        Proxy { server: Server::start_cutting(cut, answer), faults }
    }

    /// Decides from now on what becomes of each request, by how often its method and path were requested, from 1.
    pub(crate) fn faults(&self, fault: impl Fn(usize, &Asked) -> Fate + Send + 'static) {
        *self.faults.lock().unwrap() = (HashMap::new(), Box::new(fault));
    }

    /// Passes all requests on from now on.
    pub(crate) fn no_faults(&self) {
        self.faults(|_, _| Fate::Passes);
    }
}

/// What tells requests that are under way at the same time from each other.
fn key(asked: &Asked) -> String {
    format!("{} {} {:?}", asked.method, asked.path, asked.header("range"))
}

/// Sends a request to the server, and returns its answer.
fn forward(port: u16, asked: &Asked) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", asked.method, asked.path);
    let is_of_connection = |name: &str| ["connection", "expect"].iter().any(|it| name.eq_ignore_ascii_case(it));
    for (name, value) in asked.headers.iter().filter(|(name, _)| !is_of_connection(name)) {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(&asked.body)).unwrap();
    let mut reader = BufReader::new(stream);
    let (first, headers) = read_head(&mut reader).unwrap();
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    let is = |name: &str, of: &str| name.eq_ignore_ascii_case(of);
    if headers.iter().any(|(name, value)| is(name, "transfer-encoding") && value.contains("chunked")) {
        body = without_chunks(&body);
    }
    let mut answer = Answer::new(first.split(' ').nth(1).unwrap().parse().unwrap()).body(body);
    let drops = |name: &str| {
        is(name, "connection") || is(name, "transfer-encoding") || is(name, "content-length") && asked.method != "HEAD"
    };
    answer.headers = headers.into_iter().filter(|(name, _)| !drops(name)).collect();
    answer
}

/// The content of a body in chunks.
fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let end = body.windows(2).position(|it| it == b"\r\n").unwrap();
        let size = std::str::from_utf8(&body[..end]).unwrap().split(';').next().unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
}
