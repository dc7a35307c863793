//! HTTP/1.1 over plaintext bytes (RFC 9112): encoding a request, and reading its response.

use perennial_rotation::Token;
use zeroize::Zeroizing;

use super::exchange_error::ExchangeError;
use super::head::{self, Awaited, Head};
use crate::cluster::Cluster;

/// The longest line before a chunk or in the trailer, in bytes.
const LONGEST_LINE: usize = 8 << 10;

/// An HTTP request to an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    method: &'static str,
    path: String,
    json: Option<Vec<u8>>,
}

impl Request {
    /// A GET of `path`, which begins with `/` and includes the query.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), json: None }
    }

    /// A POST of a JSON document to `path`, which begins with `/` and includes the query.
    pub fn post(path: impl Into<String>, json: Vec<u8>) -> Self {
        Self { method: "POST", path: path.into(), json: Some(json) }
    }

    /// A PUT of a JSON document to `path`, which begins with `/` and includes the query.
    pub fn put(path: impl Into<String>, json: Vec<u8>) -> Self {
        Self { method: "PUT", path: path.into(), json: Some(json) }
    }

    /// Encodes the request for the wire. The bytes are wiped on drop, since they may hold a token.
    pub(crate) fn encode(&self, cluster: &Cluster, token: Option<&Token>) -> Result<Zeroizing<Vec<u8>>, ExchangeError> {
        // A space or a line end would end the request target and let the path inject headers.
        if !self.path.starts_with('/') || !self.path.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why =
                "the HTTP request cannot be made: its path does not begin with a slash, or has unescaped characters";
            return Err(ExchangeError::Http(why.to_owned()));
        }
        let json = self.json.as_deref();
        let content = json.map(|json| format!("content-type: application/json\r\ncontent-length: {}\r\n", json.len()));
        // Without Accept-Encoding any coding is acceptable (RFC 9110 §12.5.3), and some proxies compress.
        let head = format!(
            "{} {}{} HTTP/1.1\r\nhost: {}\r\nuser-agent: perennial/{}\r\naccept: application/json\r\n\
             accept-encoding: identity\r\n{}",
            self.method,
            cluster.path_prefix(),
            self.path,
            cluster.authority(),
            env!("CARGO_PKG_VERSION"),
            content.unwrap_or_default(),
        );
        let (secret, json) = (token.map_or("", Token::reveal), json.unwrap_or_default());
        // Room for all of it at once: a buffer that grows leaves copies of the token behind.
        let mut wire = Zeroizing::new(Vec::with_capacity(head.len() + secret.len() + json.len() + 32));
        wire.extend_from_slice(head.as_bytes());
        if token.is_some() {
            ["authorization: Bearer ", secret, "\r\n"].iter().for_each(|part| wire.extend_from_slice(part.as_bytes()));
        }
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(json);
        Ok(wire)
    }
}

/// A part of a response: one head, then pieces of the body, then the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Head(Head),
    Body(Vec<u8>),
    End { reusable: bool },
}

/// Reads one response from bytes that arrive in portions of any size.
#[derive(Default)]
pub(crate) struct ResponseReader {
    awaited: Awaited,
    /// The number of bytes in interim (1xx) heads so far, which are part of the limit on the response head.
    head_bytes: usize,
    /// The number of bytes at the front of the buffer that have been searched for the end of the head.
    scanned: usize,
    /// True if the connection can be used again once the response has ended.
    reusable: bool,
}

impl ResponseReader {
    /// Takes the next part off the front of `plain`; `None` if more bytes are needed. `ended` is true if the connection
    /// has ended: no more bytes will arrive.
    ///
    /// # Errors
    /// [`ExchangeError::Closed`] if the connection has ended in the middle of the response; [`ExchangeError::Http`] or
    /// [`ExchangeError::Unusable`] for a response that cannot be read.
    pub(crate) fn read(&mut self, plain: &mut Vec<u8>, ended: bool) -> Result<Option<Part>, ExchangeError> {
        loop {
            let (part, next) = match self.awaited {
                Awaited::Nothing => return Ok(None),
                Awaited::Sized(0) => (Some(Part::End { reusable: self.reusable }), Awaited::Nothing),
                Awaited::Rest if ended && plain.is_empty() => (Some(Part::End { reusable: false }), Awaited::Nothing),
                Awaited::Head => match self.head(plain)? {
                    Some((head, next)) => (Some(Part::Head(head)), next),
                    None => break,
                },
                Awaited::ChunkSize => match line(plain)? {
                    Some(line) => match chunk_size(&line)? {
                        0 => (None, Awaited::Trailer),
                        size => (None, Awaited::Chunk(size)),
                    },
                    None => break,
                },
                Awaited::Chunk(0) => match line(plain)? {
                    Some(line) if line.is_empty() => (None, Awaited::ChunkSize),
                    Some(_) => return Err(unframed()),
                    None => break,
                },
                Awaited::Trailer => match line(plain)? {
                    Some(line) if line.is_empty() => (None, Awaited::Sized(0)),
                    Some(_) => (None, Awaited::Trailer),
                    None => break,
                },
                Awaited::Sized(_) | Awaited::Chunk(_) | Awaited::Rest if plain.is_empty() => break,
                Awaited::Sized(left) => {
                    let (piece, left) = piece(plain, left);
                    (Some(Part::Body(piece)), Awaited::Sized(left))
                }
                Awaited::Chunk(left) => {
                    let (piece, left) = piece(plain, left);
                    (Some(Part::Body(piece)), Awaited::Chunk(left))
                }
                Awaited::Rest => (Some(Part::Body(std::mem::take(plain))), Awaited::Rest),
            };
            self.awaited = next;
            if part.is_some() {
                return Ok(part);
            }
        }
        if ended { Err(ExchangeError::Closed) } else { Ok(None) }
    }

    /// Takes the interim (1xx) heads and the final head off the front of `plain`. Returns the final head, and the part
    /// that follows it; `None` if more bytes are needed.
    fn head(&mut self, plain: &mut Vec<u8>) -> Result<Option<(Head, Awaited)>, ExchangeError> {
        loop {
            let room = head::LONGEST.saturating_sub(self.head_bytes);
            let window = &plain[..plain.len().min(room)];
            // The parser begins anew each time, so it runs only if a line end, which may complete the head, has
            // arrived.
            let worthwhile = window.get(self.scanned..).is_some_and(|new| new.contains(&b'\n'));
            self.scanned = window.len();
            let Some(parsed) = worthwhile.then(|| head::parse(window)).transpose()?.flatten() else {
                return if plain.len() >= room { Err(ExchangeError::too_long("response head")) } else { Ok(None) };
            };
            plain.drain(..parsed.length);
            // The final response follows an interim one (RFC 9110 §15.2). 101 is final: no Upgrade was requested.
            if matches!(parsed.head.response.status, 100 | 102..=199) {
                self.head_bytes += parsed.length;
                self.scanned = 0;
                continue;
            }
            self.reusable = parsed.reusable;
            return Ok(Some((parsed.head, parsed.body)));
        }
    }
}

/// Takes up to `left` bytes off the front of `plain`. Returns the bytes, and how many of the `left` bytes are still to
/// come.
fn piece(plain: &mut Vec<u8>, left: u64) -> (Vec<u8>, u64) {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(plain.len());
    (plain.drain(..length).collect(), left - length as u64)
}

/// Takes a line off the front of `plain`, and returns it without its line end; `None` if the line is not complete yet.
fn line(plain: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ExchangeError> {
    let Some(end) = plain.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') else {
        let is_too_long = plain.len() >= LONGEST_LINE;
        return if is_too_long { Err(ExchangeError::too_long("chunk header or trailer")) } else { Ok(None) };
    };
    let line: Vec<u8> = plain.drain(..=end).collect();
    line.strip_suffix(b"\r\n").map(|line| Some(line.to_vec())).ok_or_else(unframed)
}

/// Reads the size in the line before a chunk: hexadecimal digits, with optional extensions behind (RFC 9112 §7.1).
fn chunk_size(line: &[u8]) -> Result<u64, ExchangeError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    // `from_str_radix` alone would take a plus sign.
    let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(unframed)
}

fn unframed() -> ExchangeError {
    ExchangeError::improper("its body contradicts its Content-Length or Transfer-Encoding")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a response that arrives in portions. Returns its status, its body, and whether the connection can be used
    /// again: `None` if the response is incomplete.
    fn read(portions: &[&[u8]], ended: bool) -> (u16, Vec<u8>, Result<Option<bool>, ExchangeError>) {
        let (mut reader, mut plain) = (ResponseReader::default(), Vec::new());
        let (mut status, mut body) = (0, Vec::new());
        for (n, portion) in portions.iter().enumerate() {
            plain.extend_from_slice(portion);
            loop {
                match reader.read(&mut plain, ended && n + 1 == portions.len()) {
                    Ok(Some(Part::Head(head))) => status = head.response.status,
                    Ok(Some(Part::Body(piece))) => body.extend(piece),
                    Ok(Some(Part::End { reusable })) => return (status, body, Ok(Some(reusable))),
                    Ok(None) => break,
                    Err(error) => return (status, body, Err(error)),
                }
            }
        }
        (status, body, Ok(None))
    }

    const SIZED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\nhello\nworld";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        6\r\nhello\n\r\n5;x=y\r\nworld\r\n0\r\nX: y\r\n\r\n";
    const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n\
        HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\nhello\nworld";
    const UNTIL_CLOSED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nhello\nworld";

    #[test]
    fn response_is_read_however_its_bytes_are_split() {
        for (response, status, reusable) in
            [(SIZED, 201, true), (CHUNKED, 200, true), (INTERIM, 200, false), (UNTIL_CLOSED, 200, false)]
        {
            let whole = (status, b"hello\nworld".to_vec(), Ok(Some(reusable)));
            for at in 0..=response.len() {
                assert_eq!(read(&[&response[..at], &response[at..]], true), whole, "split at {at}");
            }
            let single: Vec<&[u8]> = response.chunks(1).collect();
            assert_eq!(read(&single, true), whole);
        }
    }

    #[test]
    fn response_cut_at_any_byte_is_incomplete() {
        for response in [SIZED, CHUNKED, INTERIM] {
            for length in 0..response.len() {
                assert_eq!(read(&[&response[..length]], true).2, Err(ExchangeError::Closed), "cut at {length}");
                assert_eq!(read(&[&response[..length]], false).2, Ok(None), "cut at {length}");
            }
        }
    }

    #[test]
    fn chunk_before_framing_error_is_delivered() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for rest in ["6\r\nhello\nX\r\n", "6\r\nhello\n\r\nX\r\n", "6\r\nhello\n\r\n\r\n"] {
            let bytes = format!("{head}{rest}");
            for at in 0..=bytes.len() {
                let (_, body, end) = read(&[&bytes.as_bytes()[..at], &bytes.as_bytes()[at..]], false);
                assert_eq!(body, b"hello\n");
                assert!(matches!(end, Err(ExchangeError::Http(_))), "{end:?}");
            }
        }
    }

    #[test]
    fn response_without_body_ends_with_its_head() {
        for response in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"] {
            assert_eq!(read(&[response.as_bytes()], false).2, Ok(Some(true)));
        }
    }

    #[test]
    fn encoded_request_has_token_in_last_header_line() {
        let cluster = Cluster::from_url("https://[::1]:6443/proxy/").unwrap();
        let token = Token::new("secret").unwrap();
        let wire = Request::post("/x?y=z", b"{}".to_vec()).encode(&cluster, Some(&token)).unwrap();
        let text = std::str::from_utf8(&wire).unwrap();
        assert!(text.starts_with("POST /proxy/x?y=z HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("\r\nhost: [::1]:6443\r\n") && text.contains("\r\ncontent-length: 2\r\n"), "{text}");
        assert!(text.ends_with("\r\nauthorization: Bearer secret\r\n\r\n{}"), "{text}");
        assert_eq!(text.matches("\r\n\r\n").count(), 1);
    }

    #[test]
    fn request_with_unescaped_path_is_refused() {
        let cluster = Cluster::from_url("https://api.example").unwrap();
        assert!(Request::get("/a b").encode(&cluster, None).is_err());
        assert!(Request::get("/a\r\nX: y").encode(&cluster, None).is_err());
    }
}
