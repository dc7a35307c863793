//! An HTTP proxy in front of an API server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::{ClusterError, bracketed, split_port};

/// An HTTP proxy that opens a tunnel on CONNECT (RFC 9110 §9.3.6). Displayed as its URL without the credentials.
#[derive(Clone, derive_more::Debug, derive_more::Display, PartialEq, Eq)]
#[debug("Proxy({self})")]
#[display("http://{}:{port}", bracketed(host))]
pub struct Proxy {
    /// The URL as it was written, with its credentials.
    url: Zeroizing<String>,
    host: String,
    port: u16,
    /// `user:password`, percent-decoded; `None` if the URL has no credentials.
    credentials: Option<Zeroizing<Vec<u8>>>,
}

impl Proxy {
    /// Parses a proxy URL of a kubeconfig: `http://[user:password@]host[:port]`. The port defaults to 80.
    ///
    /// # Errors
    /// [`ClusterError::Proxy`] if the URL is that of another kind of proxy, or has no usable host or port.
    pub fn from_url(url: &str) -> Result<Self, ClusterError> {
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("", url));
        if !scheme.eq_ignore_ascii_case("http") {
            let why = "only HTTP proxies are supported (http://host:port); \
                       TLS to the API server runs through them end to end";
            return Err(ClusterError::Proxy(why));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !path.is_empty() && path != "/" {
            return Err(ClusterError::Proxy("the URL of a proxy has no path"));
        }
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => {
                let bad = ClusterError::Proxy("the part before the @ must be user:password, percent-encoded");
                let decoded = percent_decoded(credentials).ok_or_else(|| bad.clone())?;
                (
                    Some(if decoded.contains(&b':') { decoded } else { Zeroizing::new([&decoded[..], b":"].concat()) }),
                    address,
                )
            }
            None => (None, authority),
        };
        let (host, port) = split_port(address).map_err(ClusterError::Proxy)?;
        let url = Zeroizing::new(url.trim().to_owned());
        Ok(Self { url, host, port: port.unwrap_or(80), credentials })
    }

    /// The URL as it was written, with its credentials: for a kubeconfig, not for messages.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The host and port that the proxy listens at.
    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The credentials in base64, for HTTP's Basic scheme (RFC 7617); `None` if the URL has no credentials.
    pub(crate) fn authorization(&self) -> Option<Zeroizing<String>> {
        self.credentials.as_ref().map(|credentials| Zeroizing::new(STANDARD.encode(&**credentials)))
    }
}

/// Decodes percent-encoding. `None` if a `%` is not followed by two hexadecimal digits, since `percent_encoding` alone
/// would keep such a `%` as it is.
fn percent_decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let begins_with_digits =
        |rest: &str| rest.as_bytes().first_chunk::<2>().is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    text.split('%').skip(1).all(begins_with_digits).then(|| Zeroizing::new(percent_decode_str(text).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_url_of_kubeconfig_is_parsed() {
        for (url, shown, authorization) in [
            ("http://proxy.example:3128", "http://proxy.example:3128", None),
            ("HTTP://proxy.example/", "http://proxy.example:80", None),
            ("http://10.0.0.1:443", "http://10.0.0.1:443", None),
            ("http://[::1]", "http://[::1]:80", None),
            ("http://[::1]:3128", "http://[::1]:3128", None),
            ("http://me:s%40fe@proxy.example:3128", "http://proxy.example:3128", Some("bWU6c0BmZQ==")),
            ("http://me@proxy.example:3128", "http://proxy.example:3128", Some("bWU6")),
        ] {
            let proxy = Proxy::from_url(url).unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(proxy.authorization().as_deref().map(String::as_str), authorization, "{url}");
        }
    }

    #[test]
    fn proxy_url_error_hides_credentials() {
        for url in [
            "socks5://u:secret@proxy:1080",
            "https://u:secret@proxy",
            "u:secret@proxy:3128",
            "http://u:secret@",
            "http://u:secret@proxy:x",
            "http://u:secret%@proxy",
            "http://u:secret@proxy/path",
            "http://u:secret@pro xy",
        ] {
            let error = Proxy::from_url(url).unwrap_err().to_string();
            assert!(error.starts_with("proxy-url cannot be used: ") && !error.contains("secret"), "{url}: {error}");
        }
        assert!(!format!("{:?}", Proxy::from_url("http://u:secret@proxy").unwrap()).contains("secret"));
    }
}
