//! Model hubs: `hf://OWNER/NAME[@REVISION][/PATH]`.
//!
//! As the hub's own library, it reads the environment variables `HF_ENDPOINT` (the hub, by default
//! `https://huggingface.co`), `HF_TOKEN`, and the file of the token: `HF_TOKEN_PATH`, `$HF_HOME/token`, or
//! `~/.cache/huggingface/token`. The token goes to the hub alone.

use std::env;
use std::path::PathBuf;

use etcetera::home_dir;
use reqwest::Url;
use reqwest::header::HeaderValue;
use trinart_ckpt_formats::error::{Error, Result};

/// A place on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// `OWNER/NAME`.
    pub(crate) repository: String,
    /// A branch, tag or commit; `main` if the address has none.
    pub(crate) revision: Option<String>,
    /// The path in the repository; empty for all of it.
    pub(crate) path: String,
}

impl Place {
    /// Parses what follows `hf://`.
    pub(crate) fn parse(rest: &str) -> Result<Self> {
        let fail = || {
            Error::usage(
                "not an address of a hub; expected hf://OWNER/NAME, hf://OWNER/NAME/PATH or hf://OWNER/NAME@REVISION/PATH",
            )
        };
        let (owner, rest) = rest.split_once('/').ok_or_else(fail)?;
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, revision) = match name.split_once('@') {
            // A slash in the name of a branch is written %2F.
            Some((name, revision)) if !revision.is_empty() => {
                (name, Some(revision.replace("%2F", "/").replace("%2f", "/")))
            }
            Some(_) => return Err(fail()),
            None => (name, None),
        };
        let is_plain =
            |part: &str| !part.is_empty() && !part.contains(['@', '?', '#', '\\']) && part != "." && part != "..";
        let path = path.trim_end_matches('/');
        let is_path = path.is_empty() || path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !is_plain(owner) || !is_plain(name) || !is_path {
            return Err(fail());
        }
        Ok(Place { repository: format!("{owner}/{name}"), revision, path: path.to_owned() })
    }

    /// The address of the repository at its revision.
    pub(crate) fn root(&self) -> String {
        let revision = self.revision.as_ref().map_or_else(String::new, |it| format!("@{}", it.replace('/', "%2F")));
        format!("hf://{}{revision}", self.repository)
    }

    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

/// A hub and the token for it.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    endpoint: Url,
    pub(crate) token: Option<HeaderValue>,
}

impl Hub {
    /// Returns the hub that the environment names.
    pub(crate) fn from_environment() -> Result<Self> {
        let text = env::var("HF_ENDPOINT").ok().filter(|text| !text.is_empty());
        let text = text.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let endpoint = Url::parse(&text).ok().filter(|url| url.has_host() && matches!(url.scheme(), "https" | "http"));
        let endpoint = endpoint.ok_or_else(|| Error::usage("HF_ENDPOINT is not an address; expected https://HOST"))?;
        Ok(Hub { endpoint, token: token()? })
    }

    /// The address of a file. `commit` replaces the revision.
    pub(crate) fn file(&self, place: &Place, commit: Option<&str>) -> Result<Url> {
        self.url(&[&place.repository], "resolve", commit.unwrap_or(place.revision()), &place.path)
    }

    /// The address of the list of all files of a repository.
    pub(crate) fn tree(&self, place: &Place) -> Result<Url> {
        let mut url = self.url(&["api/models", &place.repository], "tree", place.revision(), "")?;
        url.set_query(Some("recursive=true"));
        Ok(url)
    }

    fn url(&self, before: &[&str], verb: &str, revision: &str, path: &str) -> Result<Url> {
        let mut url = self.endpoint.clone();
        {
            let mut segments = url.path_segments_mut().map_err(|()| Error::usage("HF_ENDPOINT has no host"))?;
            segments.pop_if_empty();
            segments.extend(before.iter().flat_map(|part| part.split('/')));
            // A slash in a revision is escaped.
            segments.push(verb).push(revision);
            segments.extend(path.split('/').filter(|part| !part.is_empty()));
        }
        Ok(url)
    }
}

/// Returns the user's token as the value of a header.
fn token() -> Result<Option<HeaderValue>> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let text = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
        let file = match (variable("HF_TOKEN_PATH"), variable("HF_HOME"), variable("XDG_CACHE_HOME")) {
            (Some(file), ..) => PathBuf::from(file),
            (_, Some(home), _) => PathBuf::from(home).join("token"),
            (.., Some(cache)) => PathBuf::from(cache).join("huggingface/token"),
            _ => home_dir().ok()?.join(".cache/huggingface/token"),
        };
        std::fs::read_to_string(file).ok()
    });
    let Some(text) = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()) else { return Ok(None) };
    let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
        .map_err(|_| Error::usage("the token of the hub has characters that no token has"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_repositories_revisions_and_paths() {
        let place = |text: &str| Place::parse(text).map(|place| (place.repository, place.revision, place.path)).ok();
        let found = |repository: &str, revision: Option<&str>, path: &str| {
            Some((repository.to_owned(), revision.map(str::to_owned), path.to_owned()))
        };
        assert_eq!(place("o/n"), found("o/n", None, ""));
        assert_eq!(place("o/n/"), found("o/n", None, ""));
        assert_eq!(place("o/n/a/b.ckpt"), found("o/n", None, "a/b.ckpt"));
        assert_eq!(place("o/n@v1.0/b.ckpt"), found("o/n", Some("v1.0"), "b.ckpt"));
        assert_eq!(place("o/n@refs%2Fpr%2F1/b.ckpt"), found("o/n", Some("refs/pr/1"), "b.ckpt"));
        for wrong in ["", "o", "o/", "/n/a", "o/n@/a", "o/../a", "o/n/../a", "o/n//a", "o@v/n/a", "o/n?x=1/a"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn builds_the_addresses_of_the_hub() {
        let hub = |endpoint: &str| Hub { endpoint: Url::parse(endpoint).unwrap(), token: None };
        let place = Place::parse("o/n@refs%2Fpr%2F1/a b/c#.ckpt").unwrap();
        let file = hub("https://huggingface.co").file(&place, None).unwrap();
        assert_eq!(file.as_str(), "https://huggingface.co/o/n/resolve/refs%2Fpr%2F1/a%20b/c%23.ckpt");
        let file = hub("http://127.0.0.1:1/mirror/").file(&place, Some("c0ffee")).unwrap();
        assert_eq!(file.as_str(), "http://127.0.0.1:1/mirror/o/n/resolve/c0ffee/a%20b/c%23.ckpt");
        let tree = hub("https://huggingface.co").tree(&Place::parse("o/n").unwrap()).unwrap();
        assert_eq!(tree.as_str(), "https://huggingface.co/api/models/o/n/tree/main?recursive=true");
        assert_eq!(place.root(), "hf://o/n@refs%2Fpr%2F1");
    }
}
