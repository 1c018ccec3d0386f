//! Files behind HTTPS and on hubs.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED};
use reqwest::{Response, StatusCode, Url};
use trinart_ckpt_formats::error::{Error, Kind, OrInternal, Result};

use crate::client::{Answer, Request, backoff, cause, status_error};
use crate::file::{Boxed, Fetch, HEAD, Opened, Shared, changed};

/// Bytes of the largest file that is read whole from a server that sends no ranges.
const WHOLE: u64 = 8 << 20;

/// How often a connection may drop without a byte between.
const DROPS: u32 = 6;

/// A file behind an address.
pub(crate) struct WebFile {
    shared: Arc<Shared>,
    url: Url,
    authorization: Option<HeaderValue>,
    bytes: u64,
    /// The tag that the hub states.
    linked_tag: Option<HeaderValue>,
    known: Mutex<Known>,
    /// All bytes, of a small file whose server sends no ranges.
    whole: Option<Bytes>,
}

/// What answers said.
#[derive(Clone, Default)]
struct Known {
    /// Where the first answer came from, if it was redirected: often a signed address that expires.
    resolved: Option<Url>,
    /// The tag of the content.
    tag: Option<HeaderValue>,
}

impl std::fmt::Debug for WebFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address may have secrets.
        f.debug_struct("WebFile").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// The tag of the content, or the time of its last change.
fn tag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

/// The first byte, the byte behind the last, and the length of the file, in the header `Content-Range`.
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, bytes) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, bytes): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, bytes.parse().ok()?);
    (first <= last && last < bytes).then(|| (first..last + 1, bytes))
}

/// The number in a header.
fn number(headers: &HeaderMap, name: impl reqwest::header::AsHeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// The sha256 that a hub gives as the tag of a large file.
fn linked_sha256(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("x-linked-etag")?.to_str().ok()?;
    let text = text.trim_start_matches("W/").trim_matches('"');
    let is_sha256 = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sha256.then(|| text.to_ascii_lowercase())
}

fn refuse_encoding(headers: &HeaderMap) -> Result<()> {
    match headers.get(CONTENT_ENCODING) {
        Some(value) if value.as_bytes() != b"identity" => Err(Error::unsupported("the server compresses the file")),
        _ => Ok(()),
    }
}

/// What opening an address found.
pub(crate) struct Found {
    pub(crate) opened: Opened,
    /// The commit of the repository, if a hub states it.
    pub(crate) commit: Option<String>,
}

/// Opens an address: asks for the first bytes. `pinned` makes the address of the same file at a commit.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    url: Url,
    authorization: Option<HeaderValue>,
    pinned: impl FnOnce(&str) -> Result<Url>,
) -> Result<Found> {
    let request =
        Request { url: &url, authorization: authorization.as_ref(), range: Some(0..HEAD), stops_at_links: true };
    let permit = shared.client.connection().await?;
    let Answer { response, moved_to, own } = shared.client.get(&request).await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let (mut head, mut whole, mut content_tag) = (Bytes::new(), None, tag(&headers));
    let bytes = match status {
        _ if status.is_redirection() => {
            content_tag = None;
            let bytes = number(&headers, "x-linked-size");
            bytes.ok_or_else(|| Error::unsupported("the hub states no size of the file"))?
        }
        StatusCode::PARTIAL_CONTENT => {
            refuse_encoding(&headers)?;
            let found = content_range(&headers).filter(|(range, _)| range.start == 0);
            let (range, bytes) = found.ok_or_else(|| Error::unsupported("the server answers with another range"))?;
            // What is missing after a drop is requested when it is needed.
            head = take(shared, response, range.end.min(HEAD)).await.0;
            bytes
        }
        StatusCode::OK => {
            refuse_encoding(&headers)?;
            let most = number(&headers, CONTENT_LENGTH);
            let (found, end) = match most {
                Some(most) if most > WHOLE => (Bytes::new(), Ok(true)),
                _ => take(shared, response, WHOLE + 1).await,
            };
            if end? || found.len() as u64 > WHOLE {
                let size = most.map_or_else(String::new, |bytes| format!(" of {bytes} bytes"));
                let found =
                    format!("the server sends the whole file{size} instead of ranges; download it, and give its path");
                return Err(Error::unsupported(found));
            }
            whole = Some(found.clone());
            head = found;
            head.len() as u64
        }
        StatusCode::RANGE_NOT_SATISFIABLE
            if headers.get(CONTENT_RANGE).is_some_and(|range| range.as_bytes() == b"bytes */0") =>
        {
            0
        }
        _ => return Err(status_error(status, authorization.is_some())),
    };
    drop(permit);
    let commit = own.get("x-repo-commit").and_then(|commit| commit.to_str().ok()).map(str::to_owned);
    let is_commit = |commit: &&str| !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let commit = commit.filter(|commit| is_commit(&commit.as_str()));
    let linked_tag = own.get("x-linked-etag").cloned();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let version = linked_tag.as_ref().or(content_tag.as_ref()).map(text);
    let url = commit.as_deref().map(pinned).transpose()?.unwrap_or(url);
    let known = Mutex::new(Known { resolved: moved_to, tag: content_tag });
    let file = WebFile { shared: Arc::clone(shared), url, authorization, bytes, linked_tag, known, whole };
    let opened = Opened { bytes, tag: version, stated_sha256: linked_sha256(&own), fetch: Arc::new(file), head };
    Ok(Found { opened, commit })
}

/// Takes at most `most` bytes of a body. Returns them and whether more follow, or the error that ended it.
async fn take(shared: &Shared, mut response: Response, most: u64) -> (Bytes, Result<bool>) {
    let mut taken = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                shared.client.count(bytes.len());
                let room = (most as usize).saturating_sub(taken.len());
                taken.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
                if bytes.len() > room {
                    return (taken.freeze(), Ok(true));
                }
            }
            Ok(None) => return (taken.freeze(), Ok(false)),
            Err(error) => {
                let error = Error::new(Kind::Io, format!("the connection dropped: {}", cause(error)));
                return (taken.freeze(), Err(error));
            }
        }
    }
}

impl WebFile {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to where the file was last, or to its address if that has expired.
    async fn ask(&self, range: Range<u64>, from_its_address: bool) -> Result<Answer> {
        let resolved = self.known().resolved.clone().filter(|_| !from_its_address);
        let ask = async |url: &Url| {
            let authorization = self.authorization.as_ref().filter(|_| url.origin() == self.url.origin());
            let request = Request { url, authorization, range: Some(range.clone()), stops_at_links: false };
            self.shared.client.get(&request).await
        };
        if let Some(url) = &resolved {
            let answer = ask(url).await?;
            if !matches!(answer.response.status().as_u16(), 400 | 401 | 403 | 404 | 410) {
                return Ok(answer);
            }
            self.known().resolved = None;
        }
        let answer = ask(&self.url).await?;
        let is_other =
            answer.own.get("x-linked-etag").is_some_and(|tag| self.linked_tag.as_ref().is_some_and(|it| it != tag));
        if is_other {
            return Err(changed("the hub states another hash"));
        }
        if answer.response.status().is_success() {
            self.known().resolved.clone_from(&answer.moved_to);
        }
        Ok(answer)
    }

    /// Fails if an answer is not that range of the file that was opened.
    fn check_answer(&self, answer: &Answer, range: &Range<u64>) -> Result<()> {
        let headers = answer.response.headers();
        match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (found, bytes) =
                    content_range(headers).ok_or_else(|| Error::unsupported("the server answers with no range"))?;
                if bytes != self.bytes {
                    return Err(changed(&format!("it has {bytes} bytes, and had {}", self.bytes)));
                }
                if found.start != range.start || found.end > range.end {
                    return Err(Error::unsupported("the server answers with another range"));
                }
            }
            StatusCode::OK if *range == (0..self.bytes) => {}
            StatusCode::OK => {
                let bytes = number(headers, CONTENT_LENGTH);
                let is_other = bytes.is_some_and(|bytes| bytes != self.bytes);
                let error = || Error::unsupported("the server no longer answers with ranges");
                return Err(if is_other { changed("it has another length") } else { error() });
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(changed("it is shorter")),
            StatusCode::PRECONDITION_FAILED => return Err(changed("it has another tag")),
            status => return Err(status_error(status, self.authorization.is_some())),
        }
        refuse_encoding(headers)?;
        let mut known = self.known();
        match (&known.tag, tag(headers)) {
            (Some(before), Some(now)) if *before != now => Err(changed("it has another tag")),
            (None, now) => {
                known.tag = now;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn bring(&self, range: Range<u64>, sink: &mut (dyn FnMut(Bytes) + Send)) -> Result<()> {
        if let Some(whole) = &self.whole {
            let is_within = range.end <= whole.len() as u64;
            is_within.then_some(()).or_internal("a range lies outside a file that was read whole")?;
            sink(whole.slice(range.start as usize..range.end as usize));
            return Ok(());
        }
        let (mut at, mut drops) = (range.start, 0);
        while at < range.end {
            let left = at..range.end;
            let mut answer = self.ask(left.clone(), false).await?;
            self.check_answer(&answer, &left)?;
            let cause = loop {
                match answer.response.chunk().await {
                    Ok(Some(bytes)) if bytes.len() as u64 > range.end - at => {
                        return Err(Error::unsupported("the server sends more bytes than were asked for"));
                    }
                    Ok(Some(bytes)) => {
                        self.shared.client.count(bytes.len());
                        at += bytes.len() as u64;
                        drops = 0;
                        sink(bytes);
                    }
                    Ok(None) => break "the answer ended early".to_owned(),
                    Err(error) => break cause(error),
                }
            };
            if at < range.end {
                drops += 1;
                if drops == DROPS {
                    let found = format!("the connection dropped at byte {at}, {DROPS} times in a row: {cause}");
                    return Err(Error::new(Kind::Io, found));
                }
                tokio::time::sleep(backoff(drops)).await;
            }
        }
        Ok(())
    }
}

impl Fetch for WebFile {
    fn fetch<'a>(&'a self, range: Range<u64>, sink: &'a mut (dyn FnMut(Bytes) + Send)) -> Boxed<'a, ()> {
        Box::pin(self.bring(range, sink))
    }

    fn check(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            let range = 0..self.bytes.min(1);
            if self.whole.is_some() || range.is_empty() {
                return Ok(());
            }
            let answer = self.ask(range.clone(), true).await?;
            self.check_answer(&answer, &range)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn reads_ranges_and_refuses_what_is_none() {
        let range = |value: &str| content_range(&headers("content-range", value));
        assert_eq!(range("bytes 0-4/10"), Some((0..5, 10)));
        for wrong in
            ["bytes 5-4/10", "bytes 0-10/10", "bytes */10", "bytes 0-4/*", "0-4/10", "bytes 0-4", "bytes -1-4/10"]
        {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_a_sha256_is_one() {
        let sha256 = "ab".repeat(32);
        let found = |value: &str| linked_sha256(&headers("x-linked-etag", value));
        assert_eq!(found(&format!("\"{sha256}\"")), Some(sha256.clone()));
        assert_eq!(found(&sha256.to_uppercase()), Some(sha256));
        assert_eq!(found("\"da39a3ee5e6b4b0d3255bfef95601890afd80709\""), None);
    }
}
