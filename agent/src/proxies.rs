//! The proxy that the environment names, by the rules of Go programs.

use std::net::IpAddr;

use ipnet::IpNet;
use perennial_kubernetes::cluster::{Cluster, ClusterError, Proxy};

/// The proxy to an API server, or none, and the source of that decision.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// `None` for a direct connection.
    pub(crate) proxy: Option<Proxy>,
    /// The kubeconfig field, flag or environment variable that decided, or the reason why none did.
    pub(crate) decided_by: &'static str,
}

/// Chooses the proxy to this API server, or a direct connection, by environment variables. `get` returns the value of a
/// variable.
///
/// Follows Go's `http.ProxyFromEnvironment` (`golang.org/x/net/http/httpproxy`) for https URLs: the proxy is the one in
/// `HTTPS_PROXY`, unless `NO_PROXY` exempts the server. A variable in capitals takes precedence over the same variable
/// in lower case. Loopback addresses are never proxied, and `ALL_PROXY` is ignored.
///
/// # Errors
/// If the deciding variable names no proxy that perennial supports. The error's text leaves out credentials in the URL.
pub(crate) fn from_environment(get: impl Fn(&str) -> Option<String>, cluster: &Cluster) -> Result<Route, String> {
    // As in Go, an empty variable counts as unset.
    let first = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| Some((name, get(name).filter(|value| !value.trim().is_empty())?)))
    };
    let direct = |decided_by| Ok(Route { proxy: None, decided_by });
    let Some((name, value)) = first(["HTTPS_PROXY", "https_proxy"]) else { return direct("HTTPS_PROXY is not set") };
    let host = cluster.host().split('%').next().unwrap_or_default().to_lowercase();
    let host = host.trim_end_matches('.');
    let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return direct("loopback addresses are never proxied");
    }
    match first(["NO_PROXY", "no_proxy"]) {
        Some((name, exempt)) if is_exempt(host, ip, cluster.port(), &exempt) => return direct(name),
        Some(_) | None => {}
    }
    let value = value.trim();
    let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    match Proxy::from_url(&url) {
        Ok(proxy) => Ok(Route { proxy: Some(proxy), decided_by: name }),
        Err(ClusterError::Proxy(why)) => {
            Err(format!("{name}: {why}; exempt the API server with NO_PROXY, or give --proxy=none to connect directly"))
        }
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// True if `exempt`, the value of `NO_PROXY`, exempts this host and port from the proxy. `host` is in lower case,
/// without a trailing dot. If the host is an IP address, `ip` is that address.
fn is_exempt(host: &str, ip: Option<IpAddr>, port: u16, exempt: &str) -> bool {
    let exempts = |entry: &str| {
        let entry = entry.trim().to_lowercase();
        if entry == "*" {
            return true;
        }
        if entry.contains('/') {
            return ip.zip(entry.parse::<IpNet>().ok()).is_some_and(|(ip, network)| network.contains(&ip));
        }
        let (name, of_port) = split_port(&entry);
        if of_port.is_some_and(|of| of.parse() != Ok(port)) || name.is_empty() {
            return false;
        }
        match (name.parse::<IpAddr>(), ip) {
            (Ok(exempt), Some(ip)) => return exempt.to_canonical() == ip,
            (Ok(_), None) | (Err(_), Some(_)) => return false,
            (Err(_), None) => {}
        }
        // `*.example` and `.example` exempt names below example only, `example` exempts itself as well.
        match name.strip_prefix('*').unwrap_or(name) {
            below if below.starts_with('.') => host.ends_with(below),
            name => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
        }
    };
    exempt.split(',').any(exempts)
}

/// Splits an entry of `NO_PROXY` into host and port: `host`, `host:port`, `[v6]`, `[v6]:port`, or `v6` without
/// brackets.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some((host, after)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, after.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        Some(_) | None => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], server: &str) -> Result<Option<String>, String> {
        let get = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        let Route { proxy, decided_by } = from_environment(get, &Cluster::from_url(server).unwrap())?;
        Ok(proxy.map(|proxy| format!("{decided_by} {proxy}")))
    }

    #[test]
    fn variable_https_proxy_is_read_as_in_go() {
        let server = "https://api.example:6443";
        for (variables, expected) in [
            (&[("HTTPS_PROXY", "http://p:3128")][..], Some("HTTPS_PROXY http://p:3128")),
            (&[("https_proxy", "http://p:3128")], Some("https_proxy http://p:3128")),
            (&[("https_proxy", "http://q"), ("HTTPS_PROXY", "http://p")], Some("HTTPS_PROXY http://p:80")),
            (&[("https_proxy", "http://q"), ("HTTPS_PROXY", "")], Some("https_proxy http://q:80")),
            (&[("HTTPS_PROXY", "p:3128")], Some("HTTPS_PROXY http://p:3128")),
            (&[("HTTPS_PROXY", "http://me:secret@p:3128/")], Some("HTTPS_PROXY http://p:3128")),
            (&[("HTTP_PROXY", "http://p"), ("ALL_PROXY", "http://p")], None),
            (&[("HTTPS_PROXY", "http://p"), ("no_proxy", "api.example")], None),
            (&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "other"), ("no_proxy", "*")], Some("HTTPS_PROXY http://p:80")),
            // NO_PROXY makes an unsupported proxy URL irrelevant.
            (&[("HTTPS_PROXY", "socks5://p"), ("NO_PROXY", "*")], None),
        ] {
            assert_eq!(of(variables, server), Ok(expected.map(str::to_owned)), "{variables:?}");
        }
        for (server, exempt, decided_by) in [
            ("https://[::1]", "", "loopback addresses are never proxied"),
            ("https://api.example", "*", "NO_PROXY"),
            ("https://api.example", "", "HTTPS_PROXY"),
        ] {
            let get = |name: &str| match name {
                "HTTPS_PROXY" => Some("http://p".to_owned()),
                "NO_PROXY" => Some(exempt.to_owned()),
                _ => None,
            };
            let route = from_environment(get, &Cluster::from_url(server).unwrap()).unwrap();
            assert_eq!((route.decided_by, route.proxy.is_some()), (decided_by, decided_by == "HTTPS_PROXY"));
        }
        for bad in ["socks5://u:secret@p:1080", "https://u:secret@p", "http://u:secret@p:x", "http://u:secret@"] {
            let error = of(&[("HTTPS_PROXY", bad)], server).unwrap_err();
            assert!(error.starts_with("HTTPS_PROXY: ") && error.contains("--proxy=none"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn variable_no_proxy_exempts_hosts_as_in_go() {
        for (server, exempt, proxied) in [
            ("https://api.example", "", true),
            ("https://localhost:6443", "", false),
            ("https://127.0.0.1:6443", "", false),
            ("https://127.1.2.3", "", false),
            ("https://[::1]:6443", "", false),
            ("https://api.example", "*", false),
            ("https://api.example", "a, api.example ,b", false),
            ("https://API.Example", "api.EXAMPLE", false),
            ("https://a.api.example", "api.example", false),
            ("https://xapi.example", "api.example", true),
            ("https://a.api.example", ".api.example", false),
            ("https://api.example", ".api.example", true),
            ("https://a.api.example", "*.api.example", false),
            ("https://api.example", "*.api.example", true),
            ("https://api.example:6443", "api.example:6443", false),
            ("https://api.example:6443", "api.example:443", true),
            ("https://api.example", "api.example:443", false),
            ("https://10.1.2.3:6443", "10.0.0.0/8", false),
            ("https://11.1.2.3:6443", "10.0.0.0/8", true),
            ("https://11.1.2.3:6443", "0.0.0.0/0", false),
            ("https://10.1.2.3", "10.1.2.3/32", false),
            ("https://10.1.2.4", "10.1.2.3/32", true),
            ("https://api.example", "10.0.0.0/8", true),
            ("https://10.1.2.3", "10.1.2.3", false),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", false),
            ("https://10.1.2.3:6443", "10.1.2.3:80", true),
            ("https://10.1.2.3", "2.3", true),
            ("https://[fd00::1]:6443", "fd00::/8", false),
            ("https://[fd00::1]:6443", "fd00::1", false),
            ("https://[fd00::1]:6443", "[fd00::1]", false),
            ("https://[fd00::1]:6443", "[fd00::1]:6443", false),
            ("https://[fd00::1]:6443", "[fd00::1]:443", true),
            ("https://[fd00::1]:6443", "::/0", false),
            ("https://[fe80::1%25eth0]:6443", "fe80::/10", false),
            ("https://[fd00::1]:6443", "10.0.0.0/8,x/y,/8,10.0.0.0/99", true),
        ] {
            let found = of(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", exempt)], server).unwrap();
            assert_eq!(found.is_some(), proxied, "{server} {exempt}");
        }
    }
}
