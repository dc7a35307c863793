//! The API server to connect to, the CAs to verify it with, and the proxy in between.

mod proxy;

use std::fmt;
use std::sync::Arc;

use perennial_rotation::RootsSource;
use rustls::pki_types::ServerName;

use crate::client::Connections;

pub(crate) use perennial::printable;
pub use proxy::Proxy;

/// An API server: its address, the CAs that verify its certificate, and the proxy in between.
#[derive(Clone, derive_more::Debug)]
pub struct Cluster {
    host: String,
    port: u16,
    path_prefix: String,
    #[debug("{}", roots.is_some())]
    roots: Option<Arc<dyn RootsSource>>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    proxy: Option<Proxy>,
    /// The idle connections; `None` if no connection is kept.
    #[debug(skip)]
    connections: Option<Arc<Connections>>,
}

impl Cluster {
    /// Parses a server URL of a kubeconfig: `https://host[:port][/prefix]`. The port defaults to 443; the prefix,
    /// such as that of a reverse proxy, is put in front of the path of every request.
    ///
    /// # Errors
    /// [`ClusterError`] if the URL is not https or has no usable host or port.
    pub fn from_url(url: &str) -> Result<Self, ClusterError> {
        // The part of a URL before an `@` may be a password.
        let shown = if url.contains('@') { "…".to_owned() } else { printable(url) };
        let bad = |why: &'static str| ClusterError::Url { url: shown.clone(), why };
        let (scheme, rest) = url
            .trim()
            .split_once("://")
            .ok_or_else(|| bad("it has no scheme; expected an address like https://10.0.0.1:6443"))?;
        if scheme.eq_ignore_ascii_case("http") {
            return Err(bad("plain HTTP is not supported, it would show the credentials to anyone; use https://"));
        }
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(bad("the scheme must be https"));
        }
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if path.contains(['?', '#']) || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("the path may not hold a query, a fragment or unescaped characters"));
        }
        if authority.contains('@') {
            return Err(bad("credentials do not belong in the address"));
        }
        let (host, port) = split_port(authority).map_err(bad)?;
        Ok(Self {
            host,
            port: port.unwrap_or(443),
            path_prefix: path.trim_end_matches('/').to_owned(),
            roots: None,
            tls_server_name: None,
            insecure_skip_tls_verify: false,
            proxy: None,
            connections: None,
        })
    }

    /// Verifies the server of each connection with the CAs that `roots` returns for that connection. A connection for
    /// which `roots` returns an error fails. Without this call every connection fails, unless
    /// [`with_insecure_skip_tls_verify`](Self::with_insecure_skip_tls_verify) is called.
    pub fn with_roots(mut self, roots: impl RootsSource + 'static) -> Self {
        self.roots = Some(Arc::new(roots));
        self.changed()
    }

    /// Verifies the server's certificate for `name` instead of the URL's host (kubeconfig `tls-server-name`).
    ///
    /// # Errors
    /// [`ClusterError::ServerName`] if `name` is neither a DNS name nor an IP address.
    pub fn with_tls_server_name(mut self, name: &str) -> Result<Self, ClusterError> {
        if ServerName::try_from(name).is_err() {
            return Err(ClusterError::ServerName(printable(name)));
        }
        self.tls_server_name = Some(name.to_owned());
        Ok(self.changed())
    }

    /// Accepts any certificate of the server (kubeconfig `insecure-skip-tls-verify`). For development only, since any
    /// host in between can pose as the server and read a bearer token.
    pub fn with_insecure_skip_tls_verify(mut self) -> Self {
        self.insecure_skip_tls_verify = true;
        self.changed()
    }

    /// Connects through this proxy (kubeconfig `proxy-url`). The proxy sees the address of the server; TLS hides the
    /// requests and answers.
    pub fn with_proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self.changed()
    }

    /// Keeps a connection open for up to five seconds after a submission, for the next submission with the same identity
    /// and the same CAs. Clones share the connections. For programs that rotate several certificates with one identity.
    ///
    /// A submission that may keep its connection reads its request object once before it watches the object, a tenth of
    /// a second after the object was created, since a connection with an open watch cannot be used again.
    pub fn with_kept_connections(mut self) -> Self {
        self.connections = Some(Arc::default());
        self
    }

    /// Gives this value connections of its own: those of its clones were made with other settings.
    fn changed(mut self) -> Self {
        self.connections = self.connections.map(|_| Arc::default());
        self
    }

    /// The idle connections; `None` if no connection is kept.
    pub(crate) const fn connections(&self) -> Option<&Arc<Connections>> {
        self.connections.as_ref()
    }

    /// The proxy in front of the server, if there is one.
    pub const fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// The host to connect to: a DNS name or an IP address, IPv6 without brackets, with its zone if it has one
    /// (`fe80::1%eth0`).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The prefix of the path of every request; empty, or `/…` without a trailing slash.
    pub fn path_prefix(&self) -> &str {
        &self.path_prefix
    }

    /// The source of the CAs that verify the server, if there is one.
    pub fn roots(&self) -> Option<&Arc<dyn RootsSource>> {
        self.roots.as_ref()
    }

    /// The DNS name or IP address that the server's certificate must have.
    pub fn tls_server_name(&self) -> &str {
        self.tls_server_name.as_deref().unwrap_or_else(|| without_zone(&self.host))
    }

    /// True if any certificate of the server is accepted.
    pub const fn insecure_skip_tls_verify(&self) -> bool {
        self.insecure_skip_tls_verify
    }

    /// The host and port to open a TCP connection to: the proxy's if there is one, else the server's.
    pub(crate) fn next_hop(&self) -> (&str, u16) {
        self.proxy.as_ref().map_or((&self.host, self.port), Proxy::address)
    }

    /// `host:port`, the target of a CONNECT request to a proxy.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", bracketed(without_zone(&self.host)), self.port)
    }

    /// `host` or `host:port` for the `Host` header. The zone of an IPv6 address is left out, since it has a meaning on
    /// this host only (RFC 6874 §1).
    pub(crate) fn authority(&self) -> String {
        with_port(&bracketed(without_zone(&self.host)), self.port)
    }
}

fn with_port(host: &str, port: u16) -> String {
    match port {
        443 => host.to_owned(),
        port => format!("{host}:{port}"),
    }
}

/// Puts an IPv6 address into brackets, as URLs do.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn without_zone(host: &str) -> &str {
    host.split_once('%').map_or(host, |(ip, _)| ip)
}

/// Displays the server's URL.
impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = bracketed(&self.host).replace('%', "%25");
        write!(f, "https://{}{}", with_port(&host, self.port), self.path_prefix)
    }
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port` or `[v6%25zone]:port` (RFC 6874) into host and port.
///
/// # Errors
/// The reason why `authority` has none of these forms, as a clause.
pub(crate) fn split_port(authority: &str) -> Result<(String, Option<u16>), &'static str> {
    const BRACKETS: &str = "an IPv6 address needs brackets, as in https://[fd00::1]:6443";
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
            let port = match after {
                "" => None,
                after => Some(after.strip_prefix(':').ok_or("there is text between the closing bracket and the port")?),
            };
            (v6(host).ok_or("the text in brackets is not an IPv6 address")?, port)
        }
        None if authority.bytes().filter(|byte| *byte == b':').count() > 1 => return Err(BRACKETS),
        None => match authority.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (authority.to_owned(), None),
        },
    };
    if ServerName::try_from(without_zone(&host)).is_err() || host.contains('%') && !host.contains(':') {
        return Err("the host is neither a DNS name nor an IP address");
    }
    let Some(port) = port else { return Ok((host, None)) };
    let number = port.parse().ok().filter(|number| *number != 0 && port.bytes().all(|byte| byte.is_ascii_digit()));
    Ok((host, Some(number.ok_or("the port is not a number from 1 to 65535")?)))
}

/// Reads an IPv6 address with an optional zone, the name or number of an interface. `None` for any other text.
fn v6(text: &str) -> Option<String> {
    let (ip, zone) = match text.split_once('%') {
        // Resolvers and `ip` write a bare `%` instead of `%25`.
        Some((ip, zone)) => (ip, Some(zone.strip_prefix("25").unwrap_or(zone))),
        None => (text, None),
    };
    ip.parse::<std::net::Ipv6Addr>().ok()?;
    let Some(zone) = zone else { return Some(ip.to_owned()) };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!zone.is_empty() && zone.bytes().all(fits)).then(|| format!("{ip}%{zone}"))
}

/// Why the address of a cluster or of its proxy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The server URL is not https, or is malformed.
    #[error("server URL \"{url}\" cannot be used: {why}")]
    Url {
        /// The URL as it was written; `…` if it may hold a password.
        url: String,
        /// The problem with the URL, as a clause.
        why: &'static str,
    },
    /// The TLS server name is neither a DNS name nor an IP address.
    #[error("tls-server-name \"{0}\" is neither a DNS name nor an IP address")]
    ServerName(String),
    /// The proxy URL is not http, or is malformed. The URL itself is not shown, since it may hold a password.
    #[error("proxy-url cannot be used: {0}")]
    Proxy(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_url_of_kubeconfig_is_parsed() {
        for (url, host, port, prefix, shown) in [
            ("https://api.example", "api.example", 443, "", "https://api.example"),
            ("https://api.example:443/", "api.example", 443, "", "https://api.example"),
            ("HTTPS://api.example:6443", "api.example", 6443, "", "https://api.example:6443"),
            (" https://10.0.0.1:6443/\n", "10.0.0.1", 6443, "", "https://10.0.0.1:6443"),
            ("https://[::1]:6443", "::1", 6443, "", "https://[::1]:6443"),
            ("https://[2001:db8::1]", "2001:db8::1", 443, "", "https://[2001:db8::1]"),
            ("https://[fe80::1%25eth0]:6443", "fe80::1%eth0", 6443, "", "https://[fe80::1%25eth0]:6443"),
            ("https://[fe80::1%eth0.100]", "fe80::1%eth0.100", 443, "", "https://[fe80::1%25eth0.100]"),
            (
                "https://rancher/k8s/clusters/c-1/",
                "rancher",
                443,
                "/k8s/clusters/c-1",
                "https://rancher/k8s/clusters/c-1",
            ),
        ] {
            let cluster = Cluster::from_url(url).unwrap();
            assert_eq!((cluster.host(), cluster.port(), cluster.path_prefix()), (host, port, prefix), "{url}");
            assert_eq!(cluster.to_string(), shown);
            assert_eq!(cluster.tls_server_name(), host.split('%').next().unwrap());
            assert!(!cluster.authority().contains('%') && !cluster.address().contains('%'));
        }
    }

    #[test]
    fn unusable_server_url_is_refused_with_reason() {
        for (url, why) in [
            ("api.example:6443", "scheme"),
            ("http://api.example", "https"),
            ("ftp://api.example", "scheme"),
            ("https://", "host"),
            ("https://:6443", "host"),
            ("https://api.example:", "port"),
            ("https://api.example:0", "port"),
            ("https://api.example:65536", "port"),
            ("https://api.example:+1", "port"),
            ("https://::1", "an IPv6 address needs brackets, as in https://[fd00::1]:6443"),
            ("https://fd00::1:6443", "an IPv6 address needs brackets"),
            ("https://fe80::1%eth0:6443", "an IPv6 address needs brackets"),
            ("https://[::1", "not closed"),
            ("https://[::1]6443", "between the closing bracket and the port"),
            ("https://[::1]:", "port"),
            ("https://[api.example]", "not an IPv6 address"),
            ("https://[fe80::1%25]", "not an IPv6 address"),
            ("https://[fe80::1%25a/b]", "not closed"),
            ("https://api.example%eth0", "host"),
            ("https://api example", "host"),
            ("https://api.example/a?b", "query"),
            ("https://api.example/a b", "path"),
            ("https://user:secret@api.example", "credentials"),
        ] {
            let error = Cluster::from_url(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
        assert!(Cluster::from_url("https://a").unwrap().with_tls_server_name("a b").is_err());
    }

    #[test]
    fn server_url_error_hides_credentials() {
        assert!(!Cluster::from_url("https://user:secret@api.example").unwrap_err().to_string().contains("secret"));
    }
}
