//! Faults in the delivery of answers: canned answers, and answers that arrive in pieces or not at all.

use super::fault::{CannedAnswer, CannedBody, ConnectionFault, CutPoint, Oversized};
use crate::api::message::Response;
use crate::api::status;

/// Changes that faults make to the plaintext of answers before its encryption; none by default.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// Number of bytes to deliver before the connection ends without a TLS alert; `None` is no limit.
    pub(crate) allowance: Option<usize>,
    /// True if each TLS record carries one byte.
    pub(crate) bytewise: bool,
    /// Bytes to send instead of the answer; the connection is closed after them. `None` sends the answer.
    pub(crate) replacement: Option<Vec<u8>>,
}

impl Delivery {
    /// Makes the connection end at the point `at` of the answer in `unsent`. Does nothing if `unsent` ends before that
    /// point: call again when further bytes of the answer are in `unsent`.
    pub(crate) fn cut(&mut self, at: CutPoint, unsent: &[u8]) {
        if self.allowance.is_some() {
            return;
        }
        let head = match unsent.starts_with(b"HTTP/") {
            true => unsent.windows(4).position(|window| window == b"\r\n\r\n").map_or(unsent.len(), |end| end + 4),
            // Later chunks of a watch: the head was sent before.
            false => 0,
        };
        let body = unsent.len() - head;
        self.allowance = match at {
            CutPoint::BeforeHead => Some(0),
            CutPoint::InHead => Some(head / 2),
            CutPoint::AfterHead => Some(head),
            CutPoint::InChunk if body > 0 => Some(head + 1),
            CutPoint::InBody if body > 0 => Some(head + body / 2),
            CutPoint::AfterBody if body > 0 => Some(head + body),
            CutPoint::InChunk | CutPoint::InBody | CutPoint::AfterBody => None,
        };
    }
}

/// The bytes that `fault` sends in place of a TLS handshake; the connection closes after them. For `None`, nothing is
/// sent, and the connection stays open.
pub(crate) fn raw_reply(fault: ConnectionFault) -> Option<Vec<u8>> {
    /// The unencrypted TLS record of a fatal alert with this description (RFC 8446 §6).
    const fn alert(description: u8) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, description]
    }
    match fault {
        ConnectionFault::HandshakeAlert => Some(alert(40).to_vec()),
        ConnectionFault::CertificateAlert => Some(alert(45).to_vec()),
        ConnectionFault::Plaintext => {
            Some(http(400, "text/plain", b"Client sent an HTTP request to an HTTPS server, or the other way round.\n"))
        }
        ConnectionFault::Silent => None,
        // Closes without a byte. The owner of the socket adds the refusal or the reset (`Break`).
        _ => Some(Vec::new()),
    }
}

/// The answer of [`Fault::Garbage`](super::Fault::Garbage): bytes that are not HTTP.
pub(crate) const GARBAGE: &[u8] = b"\x00\x01\xfe\xff\r\nthis is no HTTP\r\n\r\n";

/// The response that a [`CannedAnswer`] of the plan describes, sent instead of carrying out the request.
pub(crate) fn canned(canned: &CannedAnswer) -> Response {
    let html = b"<html><body><h1>Something is wrong</h1></body></html>\n";
    let mut response = match canned.body {
        CannedBody::Status => {
            status::refused(canned.status, reason(canned.status), "injected fault of the development server")
        }
        CannedBody::Html => Response::new(canned.status, "text/html; charset=utf-8", html.to_vec()),
        CannedBody::Empty => Response::text(canned.status, ""),
    };
    response.retry_after = canned.retry_after;
    response
}

/// The `reason` that a real API server gives in a `Status` object with this HTTP status (apimachinery
/// `pkg/apis/meta/v1`).
const fn reason(status: u16) -> &'static str {
    match status {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "AlreadyExists",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    }
}

/// The bytes of an answer whose head, event line or body is far too long.
pub(crate) fn oversized(part: Oversized) -> Vec<u8> {
    match part {
        Oversized::Head => format!("HTTP/1.1 200 OK\r\nX-Padding: {}\r\n\r\n", "x".repeat(128 << 10)).into_bytes(),
        Oversized::Line => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
            [head.as_bytes(), &vec![b' '; 2 << 20]].concat()
        }
        Oversized::Body => http(200, "application/json", &vec![b' '; 5 << 20]),
    }
}

fn http(status: u16, media: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Injected Fault\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}
