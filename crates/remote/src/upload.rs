//! Outputs in S3.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, GetOptions, MultipartUpload, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
};
use trinart_ckpt_formats::error::{Error, Kind, OrInternal, Result};
use trinart_ckpt_formats::io::remote::{Stored, Storing};
use trinart_ckpt_formats::io::{Overwrite, Progress};

use crate::failure::failure;

/// Bytes of a part, at least: stores accept at most 10,000 parts.
const PART: u64 = 8 << 20;
const MOST_PARTS: u64 = 10_000;

/// Parts that are sent at a time.
const AT_A_TIME: usize = 4;

/// The names of what is kept with an object: the text of its caller, and what tells this upload from all others.
const RECORD: &str = "trinart-ckpt-record";
const UPLOAD: &str = "trinart-ckpt-upload";

/// How often it is looked whether to stop, while nothing else happens.
const TICK: Duration = Duration::from_millis(100);

/// An object that exists.
struct Present {
    bytes: u64,
    record: Option<String>,
    upload: Option<String>,
}

/// Asks the store about an object. Returns `None` if the object does not exist.
async fn look(store: &AmazonS3, key: &Key) -> Result<Option<Present>> {
    let options = GetOptions { head: true, ..GetOptions::default() };
    match store.get_opts(key, options).await {
        Ok(found) => {
            let text = |name: &'static str| {
                found.attributes.get(&Attribute::Metadata(name.into())).map(|value| value.as_ref().to_owned())
            };
            Ok(Some(Present { bytes: found.meta.size, record: text(RECORD), upload: text(UPLOAD) }))
        }
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

/// Returns the record of an object. Returns `None` if the object does not exist.
pub(crate) async fn stored(store: &AmazonS3, key: &Key) -> Result<Option<Stored>> {
    Ok(look(store, key).await?.map(|present| Stored { record: present.record }))
}

/// A text that no other upload has.
fn name_of_upload() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_nanos(), std::process::id())
}

/// Stores the content of a file. The object appears whole, or not at all: after an error, its parts are discarded.
///
/// Fails if the object exists and must not be replaced.
pub(crate) async fn upload(store: &AmazonS3, key: &Key, path: &Path, how: &Storing<'_>) -> Result<()> {
    let fail = |error| Error::io("cannot read the staged output", error).in_file(path);
    let mut file = File::open(path).map_err(fail)?;
    let bytes = file.metadata().map_err(fail)?.len();
    how.progress.begin("uploading", bytes);
    let name = name_of_upload();
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::Metadata(UPLOAD.into()), name.clone().into());
    if let Some(record) = how.record {
        attributes.insert(Attribute::Metadata(RECORD.into()), record.to_owned().into());
    }
    let sent = match bytes <= PART {
        true => {
            let mut content = Vec::new();
            file.read_to_end(&mut content).map_err(fail)?;
            at_once(store, key, content, attributes, how).await
        }
        false => in_parts(store, key, &mut file, bytes, attributes, how).await,
    };
    let found = match &sent {
        Ok(()) => look(store, key).await?,
        Err(error) if error.kind() == Kind::Interrupted => None,
        // The answer may have been lost behind the work.
        Err(_) => look(store, key).await.ok().flatten().filter(|present| present.upload.as_ref() == Some(&name)),
    };
    match (found, sent) {
        (Some(present), _) if present.bytes == bytes => Ok(()),
        (Some(present), _) => {
            Err(Error::unverified(format!("the object has {} bytes, expected {bytes}", present.bytes)))
        }
        (None, Ok(())) => Err(Error::unverified("the object is not there after it was stored")),
        (None, Err(error)) => Err(error),
    }
}

/// Stores an object with one request.
async fn at_once(
    store: &AmazonS3,
    key: &Key,
    content: Vec<u8>,
    attributes: Attributes,
    how: &Storing<'_>,
) -> Result<()> {
    let bytes = content.len() as u64;
    let mode = if how.overwrite == Overwrite::Replace { PutMode::Overwrite } else { PutMode::Create };
    let options = PutOptions { mode, attributes, ..PutOptions::default() };
    until_interrupted(store.put_opts(key, content.into(), options), how.progress).await?.map_err(failure)?;
    how.progress.advance(bytes);
    Ok(())
}

/// Stores an object in parts, and discards them after an error.
async fn in_parts(
    store: &AmazonS3,
    key: &Key,
    file: &mut File,
    bytes: u64,
    attributes: Attributes,
    how: &Storing<'_>,
) -> Result<()> {
    let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
    let mut upload = store.put_multipart_opts(key, options).await.map_err(failure)?;
    let sent = match send(upload.as_mut(), file, bytes, how.progress).await {
        // Something else may have been stored meanwhile.
        Ok(()) if how.overwrite == Overwrite::Refuse => match look(store, key).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Error::conflict("already exists")),
            Err(error) => Err(error),
        },
        other => other,
    };
    let done = match sent {
        Ok(()) => upload.complete().await.map(drop).map_err(failure),
        Err(error) => Err(error),
    };
    let Err(error) = done else { return Ok(()) };
    let discarded = match upload.abort().await.map_err(failure) {
        Ok(()) => "the parts that were sent are discarded".to_owned(),
        // Complete, or discarded already.
        Err(abort) if abort.kind() == Kind::Missing => return Err(error),
        Err(abort) => format!("the parts that were sent could not be discarded ({})", abort.message()),
    };
    Err(Error::new(error.kind(), format!("{}; {discarded}", error.message())))
}

/// Waits for a request. Fails if the user asks to stop meanwhile.
async fn until_interrupted<T>(request: impl Future<Output = T>, progress: &dyn Progress) -> Result<T> {
    let mut request = pin!(request);
    loop {
        if let Ok(done) = tokio::time::timeout(TICK, request.as_mut()).await {
            return Ok(done);
        }
        progress.check()?;
    }
}

/// Sends all parts.
async fn send(upload: &mut dyn MultipartUpload, file: &mut File, bytes: u64, progress: &dyn Progress) -> Result<()> {
    let size = PART.max(bytes.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
    let mut left = bytes;
    let mut parts = FuturesUnordered::new();
    while left > 0 || !parts.is_empty() {
        progress.check()?;
        if left > 0 && parts.len() < AT_A_TIME {
            let mut part = vec![0; usize::try_from(size.min(left)).ok().or_internal("a part larger than the memory")?];
            file.read_exact(&mut part).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => Error::mismatch("the staged output was cut short"),
                _ => Error::io("cannot read the staged output", error),
            })?;
            let count = part.len() as u64;
            left -= count;
            let sent = upload.put_part(Bytes::from(part).into());
            parts.push(async move { sent.await.map(|()| count) });
            continue;
        }
        if let Some(sent) = until_interrupted(parts.next(), progress).await? {
            progress.advance(sent.map_err(failure)?);
        }
    }
    Ok(())
}
