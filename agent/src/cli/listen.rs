//! Listen addresses as Go programs write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

const EXAMPLES: &str = "expected ADDRESS:PORT, for example 127.0.0.1:9090, [::1]:9090, localhost:9090, \
                        or :9090 for all addresses of this host";

/// Parses `IP:PORT`, `localhost:PORT`, `:PORT` or `*:PORT`. Refuses other host names: a start must not depend on DNS.
///
/// As in Go's `net.Listen`, `localhost` stands for 127.0.0.1, and `:PORT` for all IPv4 and IPv6 addresses of the host.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("there is no port; {EXAMPLES}"));
    };
    if text.contains('/') {
        return Err(format!("this is a URL or a path; {EXAMPLES}"));
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(format!("an IPv6 address needs brackets; {EXAMPLES}"));
    }
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_number);
    let port = port.ok_or_else(|| format!("the port is not a number from 0 to 65535; {EXAMPLES}"))?;
    match host {
        "" | "*" => Ok(SocketAddr::new(unspecified(), port)),
        _ if host.eq_ignore_ascii_case("localhost") => Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        _ => Err(format!("the host is neither an IP address nor localhost; {EXAMPLES}")),
    }
}

/// Returns the address for `:PORT`: `::`, on which a socket accepts IPv4 as well, or 0.0.0.0 on a host without IPv6.
fn unspecified() -> IpAddr {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_address_is_accepted_as_in_go_programs() {
        for (text, expected) in [
            ("127.0.0.1:9090", "127.0.0.1:9090"),
            ("[::1]:0", "[::1]:0"),
            ("localhost:9090", "127.0.0.1:9090"),
            ("LocalHost:9090", "127.0.0.1:9090"),
            (" 0.0.0.0:9090\n", "0.0.0.0:9090"),
        ] {
            assert_eq!(address(text), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in [":9090", "*:9090"] {
            let address = address(text).unwrap();
            assert!(address.ip().is_unspecified() && address.port() == 9090, "{text}: {address}");
        }
    }

    #[test]
    fn invalid_listen_address_is_refused_with_example() {
        for (text, why) in [
            ("", "no port"),
            ("9090", "no port"),
            ("localhost", "no port"),
            ("::1:9090", "needs brackets"),
            ("fd00::1", "needs brackets"),
            ("localhost:", "the port"),
            (":http", "the port"),
            (":+1", "the port"),
            (":65536", "the port"),
            ("127.0.0.1:-1", "the port"),
            ("worker-1:9090", "the host"),
            ("http://localhost:9090", "a URL"),
            ("[worker]:9090", "the host"),
        ] {
            let error = address(text).unwrap_err();
            assert!(error.contains(why) && error.contains("for example 127.0.0.1:9090"), "{text}: {error}");
        }
    }
}
