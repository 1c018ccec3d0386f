//! An HTTP server on this machine that counts what it is asked for. No client of this project is in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a client asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Bytes of the body that were sent.
    pub(crate) sent: u64,
    pub(crate) status: u16,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The same without its range.
    pub(crate) fn without_range(&self) -> Self {
        let headers = self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("range")).cloned().collect();
        Asked { headers, ..self.clone() }
    }

    /// The range, with the byte behind the last.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse::<u64>().ok()? + 1))
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// 0 for none: the connection closes.
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Closes the connection after this number of bytes of the body.
    pub(crate) drop_after: Option<usize>,
    /// Sends this number of bytes at a time, with pauses.
    pub(crate) at_a_time: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// A server, until the end of the process.
pub(crate) struct Server {
    pub(crate) port: u16,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_cutting(|_| None, answer)
    }

    /// Starts a server that closes the connection after some bytes of the body of a request, if `cut` says how many.
    pub(crate) fn start_cutting(
        cut: impl Fn(&Asked) -> Option<usize> + Send + Sync + 'static,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (cut, answer, all) = (Arc::new(cut), Arc::new(answer), Arc::clone(&log));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (cut, answer, all) = (Arc::clone(&cut), Arc::clone(&answer), Arc::clone(&all));
                thread::spawn(move || serve(stream, cut.as_ref(), answer.as_ref(), &all));
            }
        });
        Server { port, log }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What was asked for since the last call.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

/// Answers one request, and closes the connection.
fn serve(
    stream: TcpStream,
    cut: &impl Fn(&Asked) -> Option<usize>,
    answer: &impl Fn(&Asked) -> Answer,
    all: &Mutex<Vec<Asked>>,
) {
    let mut reader = BufReader::new(stream);
    let Some((first, headers)) = read_head(&mut reader) else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut asked = Asked { method, path, headers, body: Vec::new(), sent: 0, status: 0 };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    let taken = cut(&asked).map_or(length, |most| most.min(length));
    if asked.header("expect").is_some() {
        let _ = reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    asked.body = vec![0; taken];
    // A client that was killed sends less.
    if reader.read_exact(&mut asked.body).is_err() || taken < length {
        all.lock().unwrap().push(asked);
        return;
    }
    let answer = answer(&asked);
    let cut = answer.drop_after.unwrap_or(answer.body.len()).min(answer.body.len());
    (asked.sent, asked.status) = (cut as u64, answer.status);
    // Logged before it is sent: a test may look at once.
    all.lock().unwrap().push(asked);
    let mut stream = reader.into_inner();
    if answer.status == 0 {
        return;
    }
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    // The client may have gone.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    for piece in answer.body[..cut].chunks(answer.at_a_time.unwrap_or(cut).max(1)) {
        if stream.write_all(piece).is_err() {
            return;
        }
        if answer.at_a_time.is_some() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Reads the first line and the headers of a request or an answer.
pub(crate) fn read_head(reader: &mut impl BufRead) -> Option<(String, Vec<(String, String)>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.is_empty() {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let headers = lines.iter().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Some((lines.into_iter().next()?, headers))
}
