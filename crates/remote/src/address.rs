use reqwest::Url;
use trinart_ckpt_formats::error::{Error, Result};

use crate::hub::Place;
use crate::s3::Object;

/// A parsed address.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Web(Url),
    Hub(Place),
    S3(Object),
}

impl Address {
    /// Parses an address. The error does not repeat it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("hf://") {
            return Place::parse(rest).map(Address::Hub);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            return Object::parse(rest).map(Address::S3);
        }
        let url = Url::parse(text).map_err(|error| Error::usage(format!("not an address: {error}")))?;
        match url.host_str() {
            Some(_) if matches!(url.scheme(), "https" | "http") => Ok(Address::Web(url)),
            _ => {
                Err(Error::usage("not an address; expected https://HOST/PATH, hf://OWNER/NAME/PATH or s3://BUCKET/KEY"))
            }
        }
    }
}

/// The address without what may be secret: user name, password, query and fragment. `None` if it has none of them.
pub(crate) fn without_secrets(url: &Url) -> Option<Url> {
    let is_clean =
        url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    if is_clean {
        return None;
    }
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Fail only for addresses without a host, which have no user name.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_user_names_queries_and_fragments() {
        let shown = |text: &str| without_secrets(&Url::parse(text).unwrap()).map(String::from);
        assert_eq!(shown("https://h/a.ckpt"), None);
        for text in ["https://u:p@h/a.ckpt", "https://u@h/a.ckpt", "https://h/a.ckpt?token=x", "https://h/a.ckpt#x"] {
            assert_eq!(shown(text).as_deref(), Some("https://h/a.ckpt"), "{text}");
        }
    }
}
