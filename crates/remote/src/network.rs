use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use reqwest::Url;
use trinart_ckpt_formats::error::{Error, Kind, Result};
use trinart_ckpt_formats::io::remote::{self, Remote, RemoteFile, RemoteKind, SCHEMES, Stored, Storing};

use crate::address::{Address, without_secrets};
use crate::file::{CachedFile, HEAD, Shared};
use crate::hub::{Hub, Place};
use crate::listing::{self, Listing};
use crate::s3::{self, Object, Use};
use crate::upload;
use crate::web;

/// The endings of files that a hub's address may name without a look at the list of files.
const FILES: [&str; 7] = [".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".json"];

/// Files that stay open after their last use: a command opens its file more than once.
const RECENT: usize = 2;

/// Opens addresses, and knows what they hide.
///
/// It starts threads and reads the environment when the first address is opened.
#[derive(Default)]
pub struct Network {
    shared: OnceLock<Result<Arc<Shared>, String>>,
    plain_http: bool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The addresses with secrets, by the addresses without.
    secret: HashMap<String, Url>,
    open: HashMap<String, Weak<CachedFile>>,
    recent: Vec<Arc<CachedFile>>,
    buckets: HashMap<(String, Use), Arc<AmazonS3>>,
    /// The files of repositories and prefixes, by their addresses.
    listings: HashMap<String, Arc<Listing>>,
    /// The objects beside an object that begin as it does, by its address.
    beside: HashMap<String, Option<Vec<String>>>,
    /// The commits of repositories, so that all their files come from one.
    commits: HashMap<String, String>,
}

/// Whether an address is that of a folder, or is within it.
fn covers(folder: &str, address: &str) -> bool {
    address.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Network {
    /// Returns a network that is not used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows addresses that begin with `http://` on other machines. On this machine they are always allowed.
    #[must_use]
    pub fn plain_http(mut self, allow: bool) -> Self {
        self.plain_http = allow;
        self
    }

    /// Sets this network as what opens addresses in this process. Returns whether it is the first.
    pub fn connect(self: &Arc<Self>) -> bool {
        remote::connect(Arc::clone(self) as Arc<dyn Remote>)
    }

    /// Returns an address without its secrets, and remembers them: the user name, the password and the query. Everything
    /// else is returned as it is.
    ///
    /// Addresses that differ only in their secrets get different numbers at their ends.
    pub fn adopt(&self, text: &str) -> String {
        let is_web = text.starts_with("https://") || text.starts_with("http://");
        let url = if is_web { Url::parse(text).ok() } else { None };
        let Some((url, shown)) = url.and_then(|url| without_secrets(&url).map(|shown| (url, shown.to_string()))) else {
            return text.to_owned();
        };
        let mut known = self.known();
        let names = std::iter::once(shown.clone()).chain((2..).map(|number| format!("{shown}#{number}")));
        let name = names.into_iter().find(|name| known.secret.get(name).is_none_or(|other| *other == url));
        // The numbers do not end.
        let name = name.unwrap_or(shown);
        known.secret.insert(name.clone(), url);
        name
    }

    /// Returns the arguments of a command line with [adopted](Self::adopt) addresses: whole arguments, and what follows
    /// `--option=` or the name of a component and `=`.
    pub fn adopt_arguments(&self, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        arguments.into_iter().map(|argument| self.adopt_argument(&argument).unwrap_or(argument)).collect()
    }

    fn adopt_argument(&self, argument: &OsStr) -> Option<OsString> {
        let text = argument.to_str()?;
        let begin = SCHEMES.iter().filter_map(|scheme| text.find(scheme)).min()?;
        let (before, address) = text.split_at_checked(begin)?;
        let is_option = before.starts_with('-');
        let is_component = before.strip_suffix('=').is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        });
        // Of metadata, the user's words stay as they are.
        let is_metadata = before.contains("metadata");
        ((before.is_empty() || is_option || is_component) && !is_metadata)
            .then(|| format!("{before}{}", self.adopt(address)).into())
    }

    /// Bytes of files that were received.
    pub fn received(&self) -> u64 {
        self.shared.get().and_then(|shared| shared.as_ref().ok()).map_or(0, |shared| shared.client.received())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> Result<&Arc<Shared>> {
        let start = || {
            let shared = Shared::new().map_err(|error| error.to_string())?;
            if self.plain_http {
                shared.client.plain_http();
            }
            Ok(shared)
        };
        self.shared.get_or_init(start).as_ref().map_err(|error| Error::new(Kind::Io, error.as_str()))
    }

    fn open_web(&self, address: &str, url: &Url) -> Result<CachedFile> {
        let url = self.known().secret.get(address).cloned().unwrap_or_else(|| url.clone());
        let shared = self.shared()?;
        let authorization = shared.client.credentials(&url);
        let mut plain = url;
        // Fail only for addresses without a host.
        let _ = plain.set_username("");
        let _ = plain.set_password(None);
        plain.set_fragment(None);
        let found = shared.runtime.block_on(web::open(shared, plain.clone(), authorization, |_| Ok(plain.clone())))?;
        Ok(CachedFile::new(Arc::clone(shared), found.opened))
    }

    fn open_hub(&self, place: &Place) -> Result<CachedFile> {
        if place.path.is_empty() {
            return Err(Error::unsupported("a repository; expected a checkpoint file, or a diffusers folder"));
        }
        let (hub, shared) = (Hub::from_environment()?, self.shared()?);
        let root = place.root();
        let commit = self.known().commits.get(&root).cloned();
        let url = hub.file(place, commit.as_deref())?;
        let pinned = |commit: &str| hub.file(place, Some(commit));
        let found = shared.runtime.block_on(web::open(shared, url, hub.token.clone(), pinned))?;
        if let Some(commit) = found.commit {
            self.known().commits.entry(root).or_insert(commit);
        }
        Ok(CachedFile::new(Arc::clone(shared), found.opened))
    }

    fn open_s3(&self, object: &Object) -> Result<CachedFile> {
        if object.key.is_empty() {
            return Err(Error::unsupported("a bucket; expected s3://BUCKET/KEY"));
        }
        let shared = self.shared()?;
        let opened = shared.runtime.block_on(s3::open(
            shared,
            self.bucket(&object.bucket, Use::Reading)?,
            object.path()?,
            HEAD,
        ))?;
        Ok(CachedFile::new(Arc::clone(shared), opened))
    }

    /// The store of a bucket.
    fn bucket(&self, name: &str, to: Use) -> Result<Arc<AmazonS3>> {
        let key = (name.to_owned(), to);
        if let Some(store) = self.known().buckets.get(&key) {
            return Ok(Arc::clone(store));
        }
        let store = s3::store(self.shared()?, name, to)?;
        self.known().buckets.insert(key, Arc::clone(&store));
        Ok(store)
    }

    /// A list of files that was made before and covers an address.
    fn known_listing(&self, address: &str) -> Option<Arc<Listing>> {
        self.known().listings.iter().find(|(root, _)| covers(root, address)).map(|(_, listing)| Arc::clone(listing))
    }

    /// The objects below an address. Asks the store once.
    fn objects(&self, address: &str, object: &Object) -> Result<Arc<Listing>> {
        if let Some(listing) = self.known_listing(address) {
            return Ok(listing);
        }
        let (shared, store) = (self.shared()?, self.bucket(&object.bucket, Use::Reading)?);
        let listing = Arc::new(shared.runtime.block_on(s3::list(&store, object))?);
        self.known().listings.insert(address.trim_end_matches('/').to_owned(), Arc::clone(&listing));
        Ok(listing)
    }

    /// The object of an output. Fails for addresses that nothing can be written to.
    fn destination(&self, address: &str) -> Result<(Arc<AmazonS3>, Key)> {
        match Address::parse(address)? {
            Address::S3(object) if !object.key.is_empty() => {
                Ok((self.bucket(&object.bucket, Use::Writing)?, object.path()?))
            }
            _ => {
                Err(Error::unsupported("outputs cannot be written to this address; expected a path or s3://BUCKET/KEY"))
            }
        }
    }

    /// The files of the repository of a place. Asks the hub once.
    fn listing(&self, place: &Place) -> Result<Arc<Listing>> {
        let root = place.root();
        if let Some(listing) = self.known().listings.get(&root) {
            return Ok(Arc::clone(listing));
        }
        let (hub, shared) = (Hub::from_environment()?, self.shared()?);
        let listing = Arc::new(shared.runtime.block_on(listing::of_repository(shared, &hub, place))?);
        self.known().listings.insert(root, Arc::clone(&listing));
        Ok(listing)
    }
}

impl Remote for Network {
    fn open(&self, address: &str) -> Result<Arc<dyn RemoteFile>> {
        if let Some(file) = self.known().open.get(address).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(match Address::parse(address)? {
            Address::Web(url) => self.open_web(address, &url)?,
            Address::Hub(place) => self.open_hub(&place)?,
            Address::S3(object) => self.open_s3(&object)?,
        });
        let mut known = self.known();
        known.open.insert(address.to_owned(), Arc::downgrade(&file));
        known.recent.push(Arc::clone(&file));
        let closed = if known.recent.len() > RECENT { Some(known.recent.remove(0)) } else { None };
        drop(known);
        drop(closed);
        Ok(file)
    }

    fn version(&self, address: &str) -> Result<String> {
        let open = self.known().open.get(address).and_then(Weak::upgrade);
        match (open, Address::parse(address)?) {
            (None, Address::S3(object)) => {
                let (shared, store) = (self.shared()?, self.bucket(&object.bucket, Use::Reading)?);
                let opened = shared.runtime.block_on(s3::open(shared, store, object.path()?, 1))?;
                Ok(opened.version())
            }
            (Some(file), _) => Ok(file.version()),
            (None, _) => Ok(self.open(address)?.version()),
        }
    }

    fn kind(&self, address: &str) -> Result<Option<RemoteKind>> {
        let parsed = Address::parse(address)?;
        if matches!(parsed, Address::Web(_)) {
            return Ok(Some(RemoteKind::File));
        }
        if let Some(listing) = self.known_listing(address) {
            return Ok(listing.kind(address));
        }
        if FILES.iter().any(|ending| address.ends_with(ending)) {
            return Ok(Some(RemoteKind::File));
        }
        match parsed {
            Address::Hub(place) => Ok(self.listing(&place)?.kind(address)),
            // A prefix of nothing may be the name of an object.
            Address::S3(object) => Ok(Some(self.objects(address, &object)?.kind(address).unwrap_or(RemoteKind::File))),
            Address::Web(_) => Ok(Some(RemoteKind::File)),
        }
    }

    fn list(&self, address: &str) -> Result<Vec<String>> {
        match Address::parse(address)? {
            Address::Web(_) => Err(Error::unsupported("a server lists no files; expected the address of a file")),
            Address::Hub(place) => Ok(self.listing(&place)?.below(address).cloned().collect()),
            Address::S3(object) => Ok(self.objects(address, &object)?.below(address).cloned().collect()),
        }
    }

    fn beside(&self, address: &str) -> Result<Option<Vec<String>>> {
        let parsed = Address::parse(address)?;
        let folder = address.rsplit_once('/').map_or(address, |(folder, _)| folder);
        let is_beside =
            |file: &&String| file.starts_with(address) && file.rsplit_once('/').is_some_and(|(of, _)| of == folder);
        let within = |listing: &Listing| Some(listing.below(folder).filter(is_beside).cloned().collect());
        if let Some(listing) = self.known_listing(folder) {
            return Ok(within(&listing));
        }
        match parsed {
            Address::Web(_) => Ok(None),
            Address::Hub(place) => match self.listing(&place) {
                Ok(listing) => Ok(within(&listing)),
                // Mirrors have files and no lists.
                Err(error) if matches!(error.kind(), Kind::Missing | Kind::Unsupported) => Ok(None),
                Err(error) => Err(error),
            },
            Address::S3(object) => {
                if let Some(found) = self.known().beside.get(address) {
                    return Ok(found.clone());
                }
                let (shared, store) = (self.shared()?, self.bucket(&object.bucket, Use::Reading)?);
                let found = shared.runtime.block_on(s3::beside(&store, &object))?;
                self.known().beside.insert(address.to_owned(), found.clone());
                Ok(found)
            }
        }
    }

    fn stored(&self, address: &str) -> Result<Option<Stored>> {
        let (store, key) = self.destination(address)?;
        self.shared()?.runtime.block_on(upload::stored(&store, &key))
    }

    fn store(&self, address: &str, file: &Path, how: &Storing<'_>) -> Result<()> {
        let (store, key) = self.destination(address)?;
        let result = self.shared()?.runtime.block_on(upload::upload(&store, &key, file, how));
        // Lists that lack the new object, or may.
        let mut known = self.known();
        known.beside.clear();
        known.listings.retain(|root, _| !covers(root, address));
        result
    }
}
