//! Requests: redirects, retries, and errors without addresses.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Semaphore;
use trinart_ckpt_formats::error::{Error, Kind, Result};

use crate::loopback::is_loopback;

/// Requests at a time.
const CONNECTIONS: usize = 8;

/// How often a request is sent before it fails.
const ATTEMPTS: u32 = 6;

/// How often it is tried to connect.
const CONNECT_ATTEMPTS: u32 = 3;

/// The wait before the second attempt. It doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Time to connect, and time without a byte of an answer.
const CONNECT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// The value of the header `User-Agent`.
pub(crate) const AGENT: &str = concat!("trinart-ckpt/", env!("CARGO_PKG_VERSION"));

/// Sends requests.
pub(crate) struct Client {
    http: reqwest::Client,
    permits: Semaphore,
    plain_http: AtomicBool,
    received: AtomicU64,
}

/// A request for a range of a file.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub(crate) url: &'a Url,
    /// The value of the header `Authorization`. It goes to the host of `url` alone.
    pub(crate) authorization: Option<&'a HeaderValue>,
    /// The bytes; all if `None`.
    pub(crate) range: Option<Range<u64>>,
    /// Whether to stop at a redirect that states the size and the tag of the file, as those of a hub do.
    pub(crate) stops_at_links: bool,
}

/// An answer that is no error and, unless the request stops there, no redirect.
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Where the answer comes from, if there was a redirect to another place.
    pub(crate) moved_to: Option<Url>,
    /// The headers of the last answer of the host that was asked: those of the hub, not of the store that it redirects to.
    pub(crate) own: HeaderMap,
}

impl Client {
    pub(crate) fn new() -> Result<Self> {
        // Fails if the process has a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        // Ranges of compressed content would be of no use.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let http = reqwest::Client::builder()
            .user_agent(AGENT)
            .default_headers(headers)
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| Error::internal(format!("no HTTP client: {}", cause(error))))?;
        let (plain_http, received) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Client { http, permits: Semaphore::new(CONNECTIONS), plain_http, received })
    }

    /// The header for the user name and the password in an address.
    pub(crate) fn credentials(&self, url: &Url) -> Option<HeaderValue> {
        let mut value = self.http.get(url.clone()).build().ok()?.headers_mut().remove(AUTHORIZATION)?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Allows addresses that begin with http:// on other machines.
    pub(crate) fn plain_http(&self) {
        self.plain_http.store(true, Ordering::Relaxed);
    }

    pub(crate) fn takes_plain_http(&self) -> bool {
        self.plain_http.load(Ordering::Relaxed)
    }

    /// Counts bytes that were received.
    pub(crate) fn count(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of files that were received.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until one of the connections is free.
    pub(crate) async fn connection(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.permits.acquire().await.map_err(|_| Error::internal("the connections are closed"))
    }

    /// Sends a request, and again where that may help.
    pub(crate) async fn get(&self, request: &Request<'_>) -> Result<Answer> {
        let mut attempt = 1;
        loop {
            let (error, wait) = match self.follow(request).await {
                Ok(answer) => match busy(&answer.response) {
                    None => return Ok(answer),
                    Some(wait) => (status_error(answer.response.status(), request.authorization.is_some()), wait),
                },
                Err(Failure { error, attempts }) if attempt < attempts => (error, None),
                Err(Failure { error, .. }) => return Err(error),
            };
            if attempt == ATTEMPTS || wait.is_some_and(|wait| wait > LONGEST_WAIT) {
                return Err(error);
            }
            tokio::time::sleep(wait.unwrap_or_else(|| backoff(attempt))).await;
            attempt += 1;
        }
    }

    /// Sends a request and follows redirects.
    async fn follow(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let mut url = request.url.clone();
        let mut own = HeaderMap::new();
        for _ in 0..=REDIRECTS {
            self.check_scheme(&url).map_err(Failure::last)?;
            let mut builder = self.http.get(url.clone());
            if let Some(range) = &request.range {
                builder = builder.header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
            }
            let is_own = url.origin() == request.url.origin();
            // Credentials go to the first host alone.
            if let Some(value) = request.authorization.filter(|_| is_own) {
                builder = builder.header(AUTHORIZATION, value.clone());
            }
            let response = builder.send().await.map_err(|error| Failure::of(error, &url))?;
            if is_own {
                own.clone_from(response.headers());
            }
            let is_linked = |name: &str| request.stops_at_links && response.headers().contains_key(name);
            let next = if response.status().is_redirection() { response.headers().get(LOCATION) } else { None };
            let Some(next) = next else {
                let moved_to = (url != *request.url).then_some(url);
                return Ok(Answer { response, moved_to, own });
            };
            let next = next.to_str().ok().and_then(|next| url.join(next).ok());
            let next = next.ok_or_else(|| Failure::last(Error::unsupported("the server redirects to no address")))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                let found = "the server redirects from https to an address without encryption";
                return Err(Failure::last(Error::unsupported(found)));
            }
            if is_linked("x-linked-etag") && is_linked("x-linked-size") {
                return Ok(Answer { response, moved_to: Some(next), own });
            }
            url = next;
        }
        Err(Failure::last(Error::unsupported(format!("more than {REDIRECTS} redirects"))))
    }

    fn check_scheme(&self, url: &Url) -> Result<()> {
        if url.scheme() == "https" || is_loopback(url) || self.takes_plain_http() {
            return Ok(());
        }
        Err(Error::usage("an address without encryption; expected https://, or the option --plain-http"))
    }
}

/// The wait before the attempt after this one.
pub(crate) fn backoff(attempt: u32) -> Duration {
    FIRST_WAIT * 2_u32.saturating_pow(attempt.saturating_sub(1).min(5))
}

/// Why a request has no answer.
struct Failure {
    error: Error,
    /// How often to ask.
    attempts: u32,
}

impl Failure {
    fn last(error: Error) -> Self {
        Failure { error, attempts: 1 }
    }

    fn of(error: reqwest::Error, url: &Url) -> Self {
        let is_connecting = error.is_connect();
        let text = cause(error);
        let attempts = match is_connecting {
            // A wrong certificate stays wrong.
            true if text.contains("certificate") => 1,
            // Most likely, the machine is not connected, or the server does not run.
            true => CONNECT_ATTEMPTS,
            false => ATTEMPTS,
        };
        let host = url.host_str().unwrap_or_default();
        Failure { error: Error::new(Kind::Io, format!("cannot reach {host}: {text}")), attempts }
    }
}

/// The innermost cause of an error, which names no address.
pub(crate) fn cause(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the server did not answer in time".to_owned();
    }
    let error = error.without_url();
    let mut found: &dyn std::error::Error = &error;
    while let Some(inner) = found.source() {
        found = inner;
    }
    found.to_string()
}

/// The wait that a busy server asks for, if it states one; `None` if the server is not busy.
fn busy(response: &Response) -> Option<Option<Duration>> {
    let is_busy = matches!(response.status().as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    is_busy.then(|| seconds.map(Duration::from_secs))
}

/// The error for an answer that is no success.
pub(crate) fn status_error(status: StatusCode, is_authorized: bool) -> Error {
    let code = status.as_u16();
    match code {
        401 | 403 if is_authorized => Error::unsupported(format!("the server refuses the credentials (HTTP {code})")),
        401 | 403 => {
            Error::unsupported(format!("the server asks for credentials (HTTP {code}); set HF_TOKEN for a hub"))
        }
        404 | 410 => Error::missing(format!("the server has no such file (HTTP {code})")),
        429 => Error::new(Kind::Io, "too many requests (HTTP 429); try again later"),
        _ => Error::new(Kind::Io, format!("the server answered HTTP {code}")),
    }
}
