//! Outputs in S3.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::io::Progress;

use crate::s3::failure;

/// Bytes of a part, at least: stores accept at most 10,000 parts.
const PART: u64 = 8 << 20;
const MOST_PARTS: u64 = 10_000;

/// Parts that are sent at a time.
const AT_A_TIME: usize = 4;

/// Whether an object exists.
pub(crate) async fn exists(store: &AmazonS3, key: &Key) -> Result<bool> {
    match store.head(key).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(failure(error)),
    }
}

/// Stores the content of a file. The object appears whole, or not at all: after an error, its parts are discarded.
///
/// Fails if the object exists and must not be replaced.
pub(crate) async fn upload(
    store: &AmazonS3,
    key: &Key,
    path: &Path,
    replace: bool,
    progress: &dyn Progress,
) -> Result<()> {
    let fail = |error| Error::io("cannot read the staged output", error).in_file(path);
    let mut file = File::open(path).map_err(fail)?;
    let bytes = file.metadata().map_err(fail)?.len();
    progress.begin("uploading", bytes);
    if bytes <= PART {
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(fail)?;
        let mode = if replace { PutMode::Overwrite } else { PutMode::Create };
        let put = store.put_opts(key, content.into(), PutOptions::from(mode)).await;
        put.map_err(failure)?;
        progress.advance(bytes);
        return Ok(());
    }
    let mut upload = store.put_multipart(key).await.map_err(failure)?;
    let sent = match send(upload.as_mut(), &mut file, bytes, progress).await {
        // Something else may have been stored meanwhile.
        Ok(()) if !replace => match exists(store, key).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::conflict("already exists")),
            Err(error) => Err(error),
        },
        other => other,
    };
    let done = match sent {
        Ok(()) => upload.complete().await.map(drop).map_err(failure),
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        // The first error is the one to report. Stores also discard parts of old uploads, if their owner wants that.
        let _ = upload.abort().await;
        return Err(error);
    }
    let found = store.head(key).await.map_err(failure)?;
    if found.size != bytes {
        return Err(Error::unverified(format!("the object has {} bytes, expected {bytes}", found.size)));
    }
    Ok(())
}

/// Sends all parts.
async fn send(upload: &mut dyn MultipartUpload, file: &mut File, bytes: u64, progress: &dyn Progress) -> Result<()> {
    let size = PART.max(bytes.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
    let mut left = bytes;
    let mut parts = FuturesUnordered::new();
    while left > 0 || !parts.is_empty() {
        if progress.interrupted() {
            return Err(Error::interrupted());
        }
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
        if let Some(sent) = parts.next().await {
            progress.advance(sent.map_err(failure)?);
        }
    }
    Ok(())
}
