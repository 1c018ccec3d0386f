use reqwest::Url;

/// Whether a host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|host| host.is_loopback()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_alone() {
        let is = |text: &str| is_loopback(&Url::parse(text).unwrap());
        assert!(is("http://127.0.0.1:8000/x") && is("http://localhost/x") && is("http://[::1]/x"));
        assert!(!is("http://127.0.0.1.example.com/x") && !is("http://10.0.0.1/x") && !is("http://example.com"));
    }
}
