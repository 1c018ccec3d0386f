//! Objects in S3, and in stores with its interface: `s3://BUCKET/KEY`.
//!
//! Credentials, regions, endpoints, signatures and retries are those of the crate `object_store`, which reads the
//! environment variables of the AWS tools.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as Key;
use object_store::{ClientOptions, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, RetryConfig};
use reqwest::Url;
use trinart_ckpt_formats::error::{Error, Kind, Result};
use trinart_ckpt_formats::limits;

use crate::client::AGENT;
use crate::failure::{cause, failure};
use crate::file::{Boxed, Fetch, Opened, Shared, changed};
use crate::listing::Listing;
use crate::loopback::is_loopback;

/// How often a request is repeated, and for how long: requests are signed once.
const RETRIES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(240);

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(20);

/// What a store is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    Reading,
    Writing,
}

impl Use {
    /// The longest time without a byte of an answer. That to a part comes once the part is sent, which takes long over a
    /// slow line.
    fn silence(self) -> Duration {
        Duration::from_secs(match self {
            Use::Reading => 60,
            Use::Writing => 240,
        })
    }
}

/// A place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) bucket: String,
    /// Empty for all of the bucket.
    pub(crate) key: String,
}

impl Object {
    /// Parses what follows `s3://`.
    pub(crate) fn parse(rest: &str) -> Result<Self> {
        let fail = || Error::usage("not an address in S3; expected s3://BUCKET/KEY");
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if bucket.is_empty() || !bucket.bytes().all(is_name) {
            return Err(fail());
        }
        Ok(Object { bucket: bucket.to_owned(), key: key.trim_end_matches('/').to_owned() })
    }

    pub(crate) fn path(&self) -> Result<Key> {
        Key::parse(&self.key).map_err(|error| Error::usage(format!("not a key that can be used: {error}")))
    }
}

/// Returns the store of a bucket, as the environment describes it.
pub(crate) fn store(shared: &Shared, bucket: &str, to: Use) -> Result<Arc<AmazonS3>> {
    let builder = AmazonS3Builder::from_env();
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key)).and_then(|it| Url::parse(&it).ok());
    let is_allowed = shared.client.takes_plain_http() || endpoint.as_ref().is_some_and(is_loopback);
    let options = ClientOptions::new().with_connect_timeout(CONNECT);
    // A transfer may take any time while bytes arrive.
    let options = options.with_timeout_disabled().with_read_timeout(to.silence());
    let mut options = options.with_user_agent(reqwest::header::HeaderValue::from_static(AGENT));
    if is_allowed {
        options = options.with_allow_http(true);
    }
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: PATIENCE, ..RetryConfig::default() };
    let builder = builder.with_client_options(options).with_retry(retry).with_bucket_name(bucket);
    let store = builder.with_checksum_algorithm(Checksum::SHA256).build();
    store.map(Arc::new).map_err(|error| Error::usage(format!("S3 cannot be used: {}", cause(&error))))
}

/// An object.
struct ObjectFile {
    shared: Arc<Shared>,
    store: Arc<AmazonS3>,
    key: Key,
    bytes: u64,
    tag: Option<String>,
}

impl std::fmt::Debug for ObjectFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectFile").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Opens an object: asks for its first bytes, as many as `first`.
pub(crate) async fn open(shared: &Arc<Shared>, store: Arc<AmazonS3>, key: Key, first: u64) -> Result<Opened> {
    let permit = shared.client.connection().await?;
    let first = GetOptions { range: Some(GetRange::Bounded(0..first)), ..GetOptions::default() };
    let (meta, head) = match store.get_opts(&key, first).await {
        Ok(found) => {
            let meta = found.meta.clone();
            // What is missing after a drop is requested when it is needed.
            (meta, take(shared, found).await)
        }
        Err(error @ (object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. })) => {
            return Err(failure(error));
        }
        // An empty object has no range.
        Err(error) => match store.head(&key).await {
            Ok(meta) if meta.size == 0 => (meta, Bytes::new()),
            _ => return Err(failure(error)),
        },
    };
    drop(permit);
    let (bytes, tag) = (meta.size, meta.e_tag);
    let file = ObjectFile { shared: Arc::clone(shared), store, key, bytes, tag: tag.clone() };
    Ok(Opened { bytes, tag, stated_sha256: None, fetch: Arc::new(file), head })
}

async fn take(shared: &Shared, found: GetResult) -> Bytes {
    let mut taken = BytesMut::new();
    let mut stream = found.into_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        shared.client.count(bytes.len());
        taken.extend_from_slice(&bytes);
    }
    taken.freeze()
}

impl ObjectFile {
    async fn bring(&self, range: Range<u64>, sink: &mut (dyn FnMut(Bytes) + Send)) -> Result<()> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: self.tag.clone(),
            ..GetOptions::default()
        };
        let found = self.store.get_opts(&self.key, options).await.map_err(failure)?;
        self.compare(found.meta.size, found.meta.e_tag.as_deref())?;
        if found.range != range {
            return Err(Error::unsupported("the store answers with another range"));
        }
        let mut left = range.end - range.start;
        let mut stream = found.into_stream();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(failure)?;
            self.shared.client.count(bytes.len());
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| Error::unsupported("the store sends more bytes than were asked for"))?;
            sink(bytes);
        }
        if left > 0 { Err(Error::new(Kind::Io, "the answer of the store ended early")) } else { Ok(()) }
    }

    fn compare(&self, bytes: u64, tag: Option<&str>) -> Result<()> {
        if bytes != self.bytes {
            return Err(changed(&format!("it has {bytes} bytes, and had {}", self.bytes)));
        }
        if tag != self.tag.as_deref() {
            return Err(changed("it has another tag"));
        }
        Ok(())
    }
}

impl Fetch for ObjectFile {
    fn fetch<'a>(&'a self, range: Range<u64>, sink: &'a mut (dyn FnMut(Bytes) + Send)) -> Boxed<'a, ()> {
        Box::pin(self.bring(range, sink))
    }

    fn check(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            if self.bytes == 0 {
                let meta = self.store.head(&self.key).await.map_err(failure)?;
                return self.compare(meta.size, self.tag.as_deref());
            }
            // Not every store states the tag without content.
            self.bring(0..1, &mut |_| {}).await
        })
    }
}

/// Lists all objects below a prefix.
pub(crate) async fn list(store: &AmazonS3, object: &Object) -> Result<Listing> {
    let prefix = object.path()?;
    let mut found = store.list(Some(&prefix).filter(|prefix| !prefix.as_ref().is_empty()));
    let mut listing = Listing::default();
    while let Some(meta) = found.next().await {
        listing.add(format!("s3://{}/{}", object.bucket, meta.map_err(failure)?.location));
        if listing.len() > limits::FOLDER_FILES {
            return Err(Error::limit(format!("more objects than the limit of {}", limits::FOLDER_FILES)));
        }
    }
    Ok(listing)
}

/// Lists the objects in the folder of an object whose names begin as its own does. `None` if the store refuses to list.
pub(crate) async fn beside(store: &AmazonS3, object: &Object) -> Result<Option<Vec<String>>> {
    let mut found = Vec::new();
    let mut page_token = None;
    loop {
        let options =
            PaginatedListOptions { delimiter: Some("/".into()), page_token, ..PaginatedListOptions::default() };
        let page = match store.list_paginated(Some(&object.key), options).await {
            Ok(page) => page,
            Err(object_store::Error::PermissionDenied { .. }) => return Ok(None),
            Err(error) => return Err(failure(error)),
        };
        let objects = page.result.objects.into_iter();
        found.extend(objects.map(|meta| format!("s3://{}/{}", object.bucket, meta.location)));
        if found.len() > limits::FOLDER_FILES {
            return Err(Error::limit(format!("more objects than the limit of {}", limits::FOLDER_FILES)));
        }
        page_token = page.page_token;
        if page_token.is_none() {
            return Ok(Some(found));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_buckets_and_keys() {
        let object = |text: &str| Object::parse(text).map(|object| (object.bucket, object.key)).ok();
        let found = |bucket: &str, key: &str| Some((bucket.to_owned(), key.to_owned()));
        assert_eq!(object("b"), found("b", ""));
        assert_eq!(object("b/"), found("b", ""));
        assert_eq!(object("my.bucket-1/a/b c.ckpt"), found("my.bucket-1", "a/b c.ckpt"));
        for wrong in ["", "/key", "b?x/key", "user@b/key", "b:1/key"] {
            assert_eq!(object(wrong), None, "{wrong}");
        }
    }
}
