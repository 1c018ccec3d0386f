//! The files of a repository.

use std::collections::BTreeSet;

use reqwest::header::{HeaderMap, LINK};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use trinart_ckpt_formats::error::{Error, Kind, Result};
use trinart_ckpt_formats::io::remote::RemoteKind;
use trinart_ckpt_formats::limits;

use crate::client::{Request, cause, status_error};
use crate::file::Shared;
use crate::hub::{Hub, Place};

/// Bytes of a page of the list (1,000 entries have 300 KB).
const PAGE_BYTES: usize = 16 << 20;

/// The addresses of all files below a place.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    files: BTreeSet<String>,
}

impl Listing {
    pub(crate) fn add(&mut self, address: String) {
        self.files.insert(address);
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn kind(&self, address: &str) -> Option<RemoteKind> {
        let address = address.trim_end_matches('/');
        if self.files.contains(address) {
            return Some(RemoteKind::File);
        }
        self.below(address).next().map(|_| RemoteKind::Folder)
    }

    /// The addresses below a folder, sorted.
    pub(crate) fn below(&self, address: &str) -> impl Iterator<Item = &String> {
        let below = format!("{}/", address.trim_end_matches('/'));
        self.files.range(below.clone()..).take_while(move |file| file.starts_with(&below))
    }
}

/// An entry of the list of a hub.
#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
}

/// Lists all files of a repository.
pub(crate) async fn of_repository(shared: &Shared, hub: &Hub, place: &Place) -> Result<Listing> {
    let mut listing = Listing::default();
    let root = place.root();
    let first = hub.tree(place)?;
    let mut next = Some(first.clone());
    while let Some(url) = next {
        let authorization = hub.token.as_ref().filter(|_| url.origin() == first.origin());
        let request = Request { url: &url, authorization, range: None, stops_at_links: false };
        let mut answer = shared.client.get(&request).await?;
        if answer.response.status() != StatusCode::OK {
            return Err(status_error(answer.response.status(), hub.token.is_some()));
        }
        let mut page = Vec::new();
        while let Some(bytes) = answer
            .response
            .chunk()
            .await
            .map_err(|error| Error::new(Kind::Io, format!("the connection dropped: {}", cause(error))))?
        {
            shared.client.count(bytes.len());
            if page.len() + bytes.len() > PAGE_BYTES {
                return Err(Error::limit(format!("a list of files of more than {PAGE_BYTES} bytes")));
            }
            page.extend_from_slice(&bytes);
        }
        let entries: Vec<Entry> = serde_json::from_slice(&page)
            .map_err(|error| Error::malformed(format!("the hub's list of files cannot be read: {error}")))?;
        let files = entries.into_iter().filter(|entry| entry.r#type == "file");
        listing.files.extend(files.map(|entry| format!("{root}/{}", entry.path)));
        if listing.files.len() > limits::FOLDER_FILES {
            return Err(Error::limit(format!("more files than the limit of {}", limits::FOLDER_FILES)));
        }
        next = next_page(answer.response.headers(), &url);
    }
    Ok(listing)
}

/// The address of the next page.
fn next_page(headers: &HeaderMap, url: &Url) -> Option<Url> {
    let links = headers.get(LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once('<')?;
    url.join(rest.split_once('>')?.0).ok()
}
