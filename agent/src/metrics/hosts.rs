//! Names that requests may have in their Host header. Requests with other names are refused: a page of another site
//! could make its own name resolve to this node (DNS rebinding) and read the answers in a browser.

use std::net::IpAddr;

use rustix::system::uname;

/// Names of this node, in lower case. IP addresses are accepted without being listed: DNS rebinding needs a name.
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// Accepts `localhost`, the host name, and the names in `given`.
    pub(super) fn new(given: impl IntoIterator<Item = String>) -> Self {
        let host = uname().nodename().to_string_lossy().into_owned();
        let names = ["localhost".to_owned(), host].into_iter().chain(given);
        Self(names.map(|name| canonical(name.trim())).filter(|name| !name.is_empty()).collect())
    }

    /// True if a request with this Host header (RFC 9110, section 7.2) may be answered. Also true for a request without
    /// the header (`None`): browsers always send the header, so no browser has sent this request.
    pub(super) fn include(&self, header: Option<&[u8]>) -> bool {
        let Some(header) = header else { return true };
        let Ok(authority) = str::from_utf8(header) else { return false };
        let authority = authority.trim();
        let host = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or("", |(host, _)| host),
            None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
        };
        host.parse::<IpAddr>().is_ok() || self.0.contains(&canonical(host))
    }
}

fn canonical(name: &str) -> String {
    // A final dot only marks a name as absolute.
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ip_addresses_and_own_names_are_accepted_as_host_header() {
        let hosts = Hosts::new(["Worker-1.example.com".to_owned(), String::new()]);
        let includes = |header: &str| hosts.include(Some(header.as_bytes()));
        for own in ["10.0.0.7:9090", "127.0.0.1", "[::1]:9090", "[fd00::7]", "localhost:9090", "LOCALHOST."] {
            assert!(includes(own), "{own}");
        }
        for own in ["worker-1.example.com", "WORKER-1.EXAMPLE.COM.:80", " localhost "] {
            assert!(includes(own), "{own}");
        }
        for other in
            ["evil.example", "evil.example:9090", "worker-1.example.com.evil.example", "", ":9090", "[::1", "1"]
        {
            assert!(!includes(other), "{other}");
        }
        assert!(hosts.include(None), "no browser");
        assert!(!hosts.include(Some(b"\xff")));
    }
}
