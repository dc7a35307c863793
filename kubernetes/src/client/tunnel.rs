//! Opening a tunnel through a proxy with HTTP CONNECT (RFC 9110 §9.3.6), before TLS begins. Bytes in, bytes out.

use zeroize::Zeroizing;

use crate::cluster::{Cluster, Proxy, printable};

/// The longest response head of a proxy, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// A CONNECT request to a proxy, and the head of the proxy's answer as far as it has arrived.
pub(crate) struct Tunnel {
    request: Zeroizing<Vec<u8>>,
    head: Vec<u8>,
    proxy: String,
}

impl Tunnel {
    pub(crate) fn new(proxy: &Proxy, cluster: &Cluster) -> Self {
        let to = cluster.address();
        let authorization = proxy.authorization();
        let authorization =
            authorization.map(|basic| [b"Proxy-Authorization: Basic ", basic.as_bytes(), b"\r\n"].concat());
        let authorization = Zeroizing::new(authorization.unwrap_or_default());
        let start = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        let request = Zeroizing::new([start.as_bytes(), &authorization, b"\r\n"].concat());
        Self { request, head: Vec::new(), proxy: proxy.to_string() }
    }

    /// The bytes to write to the socket now; empty if there are none.
    pub(crate) fn transmit(&mut self) -> Vec<u8> {
        std::mem::take(&mut *self.request)
    }

    /// Processes bytes that were read from the socket. True once the tunnel is open: the bytes left in `bytes` come
    /// from the server behind the proxy.
    ///
    /// # Errors
    /// The reason, as a sentence: the proxy refused to open the tunnel, or does not speak HTTP/1.
    pub(crate) fn receive(&mut self, bytes: &mut &[u8]) -> Result<bool, String> {
        // Byte by byte, so that no byte behind the head, which is the server's, is taken.
        while let Some((byte, rest)) = bytes.split_first() {
            self.head.push(*byte);
            *bytes = rest;
            if self.head.ends_with(b"\r\n\r\n") {
                return self.verdict();
            }
            if self.head.len() == LONGEST_HEAD {
                return Err(format!("the proxy {} sent a response head of more than 16 KiB", self.proxy));
            }
        }
        Ok(false)
    }

    fn verdict(&self) -> Result<bool, String> {
        let line = self.head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = printable(&String::from_utf8_lossy(line));
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
        match status {
            Some(200..=299) => Ok(true),
            Some(407) => Err(format!(
                "the proxy {} refused the credentials or requires some ({line}); set them in the proxy's URL, as \
                 http://user:password@host:port",
                self.proxy
            )),
            Some(_) => Err(format!("the proxy {} refused the connection to the API server ({line})", self.proxy)),
            None => {
                Err(format!("the proxy {} does not answer with HTTP/1; check that it is an HTTP proxy", self.proxy))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel() -> Tunnel {
        let cluster = Cluster::from_url("https://[2001:db8::1]:6443").unwrap();
        Tunnel::new(&Proxy::from_url("http://me:secret@proxy.example:3128").unwrap(), &cluster)
    }

    /// Receives `head` in two portions. Returns the result, and the number of bytes left for TLS.
    fn received(head: &[u8], split: usize) -> (Result<bool, String>, usize) {
        let mut tunnel = tunnel();
        let (mut first, mut second) = head.split_at(split);
        match tunnel.receive(&mut first) {
            Ok(false) => (tunnel.receive(&mut second), second.len()),
            done => (done, first.len() + second.len()),
        }
    }

    #[test]
    fn tunnel_sends_connect_once_with_credentials() {
        let mut tunnel = tunnel();
        let sent = String::from_utf8(tunnel.transmit()).unwrap();
        let to = "[2001:db8::1]:6443";
        assert_eq!(
            sent,
            format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n")
        );
        assert!(tunnel.transmit().is_empty());
    }

    #[test]
    fn proxy_answer_is_read_however_its_bytes_are_split() {
        let head = b"HTTP/1.1 200 Connection established\r\nContent-Length: 3\r\n\r\n";
        let answer = [head.as_slice(), b"TLS"].concat();
        for split in 0..=answer.len() {
            assert_eq!(received(&answer, split), (Ok(true), 3), "split at {split}");
        }
        for cut in 0..head.len() {
            assert_eq!(received(&head[..cut], cut / 2), (Ok(false), 0), "cut at {cut}");
        }
    }

    #[test]
    fn tunnel_refusal_names_proxy_and_hides_credentials() {
        for (head, words) in [
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                "refused the credentials or requires some (HTTP/1.1 407",
            ),
            (
                "HTTP/1.0 502 Bad Gateway\r\nServer: x\r\n\r\n",
                "refused the connection to the API server (HTTP/1.0 502 Bad Gateway)",
            ),
            ("HTTP/1.1 302\r\n\r\n", "refused the connection to the API server"),
            ("SSH-2.0-OpenSSH\r\n\r\n", "check that it is an HTTP proxy"),
            ("HTTP/1.1 ok\r\n\r\n", "check that it is an HTTP proxy"),
        ] {
            let why = received(head.as_bytes(), 0).0.unwrap_err();
            assert!(why.contains(words) && why.contains("http://proxy.example:3128"), "{why}");
            assert!(!why.contains("secret") && !why.contains("bWU6"), "{why}");
        }
        let endless = vec![b'a'; LONGEST_HEAD + 9];
        assert!(received(&endless, 7).0.unwrap_err().contains("a response head of more than 16 KiB"));
    }
}
