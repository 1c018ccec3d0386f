use reqwest::Url;
use trinart_ckpt_formats::error::{Error, Result};

use crate::hub::Place;

/// A parsed address.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Web(Url),
    Hub(Place),
}

impl Address {
    /// Parses an address. The error does not repeat it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("hf://") {
            return Place::parse(rest).map(Address::Hub);
        }
        if text.starts_with("s3://") {
            return Err(Error::unsupported("s3:// addresses are not supported yet"));
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

/// Whether a host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|host| host.is_loopback()),
        None => false,
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

    #[test]
    fn loopback_is_this_machine_alone() {
        let is = |text: &str| is_loopback(&Url::parse(text).unwrap());
        assert!(is("http://127.0.0.1:8000/x") && is("http://localhost/x") && is("http://[::1]/x"));
        assert!(!is("http://127.0.0.1.example.com/x") && !is("http://10.0.0.1/x") && !is("http://example.com"));
    }
}
