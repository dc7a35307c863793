//! HTTP/1.1 over plaintext bytes: one request out, one response in. The only module that knows ureq-proto.

use ureq_proto::client::state::{RecvBody, RecvResponse};
use ureq_proto::client::{Call, RecvBodyResult, RecvResponseResult, SendRequestResult};
use ureq_proto::http;
use zeroize::Zeroizing;

use super::head::{self, Head};
use super::http_error::HttpError;
use crate::cluster::Cluster;
use perennial_rotation::Token;

/// A body is looked at in windows of this many bytes; what frames a chunk (size line, trailer) must fit in one.
const WINDOW: usize = 8 << 10;

/// A request to an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    method: http::Method,
    path: String,
    json: Option<Vec<u8>>,
}

impl Request {
    /// GET `path` (with its query), to be answered with JSON.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: http::Method::GET, path: path.into(), json: None }
    }

    /// POST this JSON document to `path`.
    pub fn post(path: impl Into<String>, json: Vec<u8>) -> Self {
        Self { method: http::Method::POST, path: path.into(), json: Some(json) }
    }

    /// PUT this JSON document to `path`.
    pub fn put(path: impl Into<String>, json: Vec<u8>) -> Self {
        Self { method: http::Method::PUT, path: path.into(), json: Some(json) }
    }
}

/// Encodes `request` as it goes over the wire, and makes the reader of its response.
pub(crate) fn encode(
    request: &Request,
    cluster: &Cluster,
    token: Option<&Token>,
) -> Result<(Zeroizing<Vec<u8>>, ResponseReader), HttpError> {
    let target = format!("{}{}", cluster.path_prefix(), request.path);
    let mut head = http::Request::builder()
        .method(request.method.clone())
        .uri(&target)
        .header(http::header::HOST, cluster.authority())
        .header(http::header::USER_AGENT, concat!("perennial/", env!("CARGO_PKG_VERSION")))
        .header(http::header::ACCEPT, "application/json")
        // Said aloud, because some proxies take silence for consent to any coding.
        .header(http::header::ACCEPT_ENCODING, "identity");
    let json = request.json.as_deref().unwrap_or_default();
    if request.json.is_some() {
        head = head
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::CONTENT_LENGTH, json.len());
    }
    let head = head.body(()).map_err(HttpError::request)?;
    let mut call = Call::new(head).map_err(HttpError::request)?.proceed();

    // Room for every line; the longest are the target and the host.
    let mut text = vec![0; 1024 + target.len() + cluster.host().len()];
    let mut written = 0;
    while !call.can_proceed() {
        written += call.write(&mut text[written..]).map_err(HttpError::request)?;
    }
    let call = match call.proceed().map_err(HttpError::request)? {
        Some(SendRequestResult::RecvResponse(call)) => Some(call),
        Some(SendRequestResult::SendBody(mut call)) => {
            call.consume_direct_write(json.len()).map_err(HttpError::request)?;
            call.proceed()
        }
        Some(SendRequestResult::Await100(_)) | None => None,
    };
    let call = call.ok_or_else(|| HttpError::Request("it could not be encoded".to_owned()))?;

    let secret = token.map_or("", Token::reveal);
    let mut wire = Zeroizing::new(Vec::with_capacity(written + json.len() + secret.len() + 64));
    // ureq-proto logs what it writes; the token is added behind its back, before the empty line.
    wire.extend_from_slice(&text[..written.saturating_sub(2)]);
    if token.is_some() {
        wire.extend_from_slice(b"authorization: Bearer ");
        wire.extend_from_slice(secret.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"\r\n");
    wire.extend_from_slice(json);
    Ok((wire, ResponseReader { phase: Phase::Head(call), head_bytes: 0, scanned: 0 }))
}

/// What a response consists of, in this order: one head, pieces, the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Head(Head),
    Body(Vec<u8>),
    End { reusable: bool },
}

/// Reads one response from bytes that arrive in any portions.
pub(crate) struct ResponseReader {
    phase: Phase,
    /// Bytes of interim (1xx) heads already consumed.
    head_bytes: usize,
    /// How much of the buffer is known not to complete the head.
    scanned: usize,
}

enum Phase {
    Head(Call<RecvResponse>),
    Body(Call<RecvBody>),
    Ending { reusable: bool },
    Ended,
}

impl ResponseReader {
    /// The next part, taking what it needs off the front of `plain`; `None` until more has arrived.
    /// `ended`: nothing more will arrive.
    pub(crate) fn read(&mut self, plain: &mut Vec<u8>, ended: bool) -> Result<Option<Part>, HttpError> {
        let (part, phase) = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Head(call) => self.read_head(call, plain, ended)?,
            Phase::Body(call) => read_body(call, plain, ended)?,
            Phase::Ending { reusable } => (Some(Part::End { reusable }), Phase::Ended),
            Phase::Ended => (None, Phase::Ended),
        };
        self.phase = phase;
        Ok(part)
    }

    fn read_head(
        &mut self,
        mut call: Call<RecvResponse>,
        plain: &mut Vec<u8>,
        ended: bool,
    ) -> Result<(Option<Part>, Phase), HttpError> {
        loop {
            let room = head::LONGEST.saturating_sub(self.head_bytes);
            let window = &plain[..plain.len().min(room)];
            // The head is parsed from its start each time; only a line's end can complete it.
            let worthwhile = window.get(self.scanned..).is_some_and(|new| new.contains(&b'\n'));
            self.scanned = window.len();
            if let Some(parsed) = worthwhile.then(|| head::parse(window)).transpose()?.flatten() {
                plain.drain(..parsed.length);
                let (_, response) = call.try_response(&parsed.framing, false).map_err(HttpError::response)?;
                if response.is_some() {
                    return Ok((Some(Part::Head(parsed.head)), after_head(call)));
                }
                // An interim response (1xx): the final one follows.
                self.head_bytes += parsed.length;
                self.scanned = 0;
            } else if plain.len() >= room {
                return Err(HttpError::TooLong("response head"));
            } else if ended {
                return Err(HttpError::Truncated);
            } else {
                return Ok((None, Phase::Head(call)));
            }
        }
    }
}

fn after_head(call: Call<RecvResponse>) -> Phase {
    match call.proceed() {
        Some(RecvResponseResult::RecvBody(call)) => Phase::Body(call),
        // Its body is not read.
        Some(RecvResponseResult::Redirect(_)) => Phase::Ending { reusable: false },
        Some(RecvResponseResult::Cleanup(call)) => Phase::Ending { reusable: !call.must_close_connection() },
        None => Phase::Ending { reusable: false },
    }
}

fn read_body(mut call: Call<RecvBody>, plain: &mut Vec<u8>, ended: bool) -> Result<(Option<Part>, Phase), HttpError> {
    loop {
        // At most one line at a time: ureq-proto drops what it read before an error in the same call, so a
        // complete line of a watch must be out before what follows it is examined.
        let line = plain.iter().take(WINDOW).position(|byte| *byte == b'\n').map_or(plain.len(), |at| at + 1);
        let window = &plain[..line.min(WINDOW)];
        let mut piece = vec![0; window.len()];
        let (used, length) = call.read(window, &mut piece).map_err(HttpError::response)?;
        plain.drain(..used);
        if length > 0 {
            piece.truncate(length);
            return Ok((Some(Part::Body(piece)), Phase::Body(call)));
        }
        let until_closed = call.body_mode() == ureq_proto::BodyMode::CloseDelimited;
        if call.can_proceed() && (!until_closed || (ended && plain.is_empty())) {
            let reusable = match call.proceed() {
                Some(RecvBodyResult::Redirect(call)) => !call.must_close_connection(),
                Some(RecvBodyResult::Cleanup(call)) => !call.must_close_connection(),
                None => false,
            };
            return Ok((Some(Part::End { reusable }), Phase::Ended));
        }
        // One call reads one chunk, so go on as long as there is progress.
        if used == 0 {
            return match (plain.len() >= WINDOW, ended) {
                (true, _) => Err(HttpError::TooLong("chunk header or trailer")),
                (false, true) => Err(HttpError::Truncated),
                (false, false) => Ok((None, Phase::Body(call))),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> ResponseReader {
        encode(&Request::get("/"), &Cluster::from_url("https://api.example").unwrap(), None).unwrap().1
    }

    /// What the portions amount to: status, body, and how it ended.
    fn read(portions: &[&[u8]], ended: bool) -> (u16, Vec<u8>, Result<Option<bool>, HttpError>) {
        let (mut reader, mut plain) = (reader(), Vec::new());
        let (mut status, mut body) = (0, Vec::new());
        for (n, portion) in portions.iter().enumerate() {
            plain.extend_from_slice(portion);
            loop {
                match reader.read(&mut plain, ended && n + 1 == portions.len()) {
                    Ok(Some(Part::Head(head))) => status = head.status,
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
    fn a_response_is_the_same_however_it_is_split() {
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
    fn a_response_cut_off_anywhere_does_not_pass_for_a_whole_one() {
        for response in [SIZED, CHUNKED, INTERIM] {
            for length in 0..response.len() {
                assert_eq!(read(&[&response[..length]], true).2, Err(HttpError::Truncated), "cut at {length}");
                assert_eq!(read(&[&response[..length]], false).2, Ok(None), "cut at {length}");
            }
        }
    }

    #[test]
    fn a_complete_line_gets_out_before_what_follows_it_is_found_wrong() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for rest in ["6\r\nhello\nX\r\n", "6\r\nhello\n\r\nX\r\n", "6\r\nhello\n\r\n\r\n"] {
            let bytes = format!("{head}{rest}");
            for at in 0..=bytes.len() {
                let (_, body, end) = read(&[&bytes.as_bytes()[..at], &bytes.as_bytes()[at..]], false);
                assert_eq!(body, b"hello\n");
                assert!(matches!(end, Err(HttpError::Response(_))), "{end:?}");
            }
        }
    }

    #[test]
    fn responses_without_a_body_end_with_their_head() {
        for response in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"] {
            assert_eq!(read(&[response.as_bytes()], false).2, Ok(Some(true)));
        }
    }

    #[test]
    fn a_request_is_one_head_and_one_body_and_the_token_comes_last() {
        let cluster = Cluster::from_url("https://[::1]:6443/proxy/").unwrap();
        let token = Token::new("secret").unwrap();
        let (wire, _) = encode(&Request::post("/x?y=z", b"{}".to_vec()), &cluster, Some(&token)).unwrap();
        let text = std::str::from_utf8(&wire).unwrap();
        assert!(text.starts_with("POST /proxy/x?y=z HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("\r\nhost: [::1]:6443\r\n") && text.contains("\r\ncontent-length: 2\r\n"), "{text}");
        assert!(text.ends_with("\r\nauthorization: Bearer secret\r\n\r\n{}"), "{text}");
        assert_eq!(text.matches("\r\n\r\n").count(), 1);
    }

    #[test]
    fn a_path_that_cannot_be_a_target_is_an_error() {
        let cluster = Cluster::from_url("https://api.example").unwrap();
        assert!(encode(&Request::get("/a b"), &cluster, None).is_err());
        assert!(encode(&Request::get("/a\r\nX: y"), &cluster, None).is_err());
    }
}
