//! The head of a request, with checks of its framing.

use http::{Method, Uri};
use httparse::{EMPTY_HEADER, Header, Request, Status};
use zeroize::Zeroizing;

use super::body::{Body, LONGEST_BODY, too_large};
use crate::api::message::{ApiRequest, Response};
use crate::api::status::{bad_request, refused};

/// Largest number of header lines in a request.
const MOST_LINES: usize = 128;

/// A request whose head has arrived.
pub(super) struct Incoming {
    pub(super) request: ApiRequest,
    /// The body that follows; `None` if the head announces none.
    pub(super) body: Option<Body>,
    /// True if the client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// True if the answer has no body: the method is HEAD.
    pub(super) is_head: bool,
    /// True if the connection is closed after the answer.
    pub(super) is_last: bool,
}

/// Parses the head at the start of `bytes`. Returns the length of the head and the request; `None` if more bytes are
/// needed.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(usize, Incoming)>, Response> {
    let malformed = || bad_request("the request is not HTTP/1.1");
    let mut room = [EMPTY_HEADER; MOST_LINES];
    let mut head = Request::new(&mut room);
    let Status::Complete(length) = head.parse(bytes).map_err(|_| malformed())? else { return Ok(None) };
    let (Some(name), Some(target), Some(version)) = (head.method, head.path, head.version) else { return Ok(None) };
    let target: Uri = target.parse().map_err(|_| malformed())?;
    let lines = Lines(head.headers);
    // HTTP/1.0 lacks the chunked coding, in which lists and watches are sent.
    if version != 1 {
        return Err(refused(505, "HTTPVersionNotSupported", "this server speaks HTTP/1.1"));
    }
    let body = body(name, &lines)?;
    // The API answers GET, and `Http` omits the body for HEAD (RFC 9110 §9.3.2).
    let method = if name == "HEAD" { Method::GET } else { name.parse().map_err(|_| malformed())? };
    let request = ApiRequest {
        accept: lines.joined("accept"),
        content_type: lines.joined("content-type"),
        authorization: Some(Zeroizing::new(lines.joined("authorization"))).filter(|text| !text.is_empty()),
        impersonates: lines.0.iter().any(|line| line.name.to_ascii_lowercase().starts_with("impersonate-")),
        ..ApiRequest::new(method, target.path_and_query().map_or("/", |target| target.as_str()))
    };
    let incoming = Incoming {
        request,
        body,
        expects_continue: lines.has("expect", "100-continue"),
        is_head: name == "HEAD",
        is_last: lines.has("connection", "close"),
    };
    Ok(Some((length, incoming)))
}

/// The body that the head announces; `None` if the head announces none. If the framing of the request is ambiguous or
/// missing, refuses the request without reading its body: another HTTP implementation in front of this server could see
/// different requests in the same bytes (RFC 9112 §11.2).
fn body(method: &str, lines: &Lines<'_>) -> Result<Option<Body>, Response> {
    if lines.values("host").count() != 1 {
        return Err(bad_request("the request needs exactly one Host header"));
    }
    let mut length = None;
    for text in lines.elements("content-length") {
        // `parse` alone would accept a plus sign.
        let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse::<usize>().ok());
        if number.is_none() || *length.get_or_insert(number) != number {
            return Err(bad_request("Content-Length must be one number"));
        }
    }
    let codings: Vec<&str> = lines.values("transfer-encoding").collect();
    let body = match (codings.as_slice(), length.flatten()) {
        ([], None) => None,
        ([], Some(length)) => Some(Body::sized(length)),
        ([coding], None) if coding.eq_ignore_ascii_case("chunked") => Some(Body::chunked()),
        // Both headers together are ambiguous, and other codings are not supported (RFC 9112 §6.1 and §6.3).
        _ => return Err(bad_request("the body needs either Content-Length or exactly Transfer-Encoding: chunked")),
    };
    match (method, &body) {
        ("POST" | "PUT" | "PATCH", None) => Err(refused(
            411,
            "LengthRequired",
            "the request needs a body, with Content-Length or Transfer-Encoding: chunked",
        )),
        ("HEAD" | "CONNECT", Some(_)) => Err(bad_request("this method takes no body")),
        _ if length.flatten().is_some_and(|length| length > LONGEST_BODY) => Err(too_large()),
        _ => Ok(body),
    }
}

/// The header lines of a request.
struct Lines<'a>(&'a [Header<'a>]);

impl<'a> Lines<'a> {
    /// The values of a header, without the spaces and tabs around each. A value that is not UTF-8 is returned as
    /// U+FFFD: if it were left out, a framing header that cannot be read would pass for absent.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let named = self.0.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        named.map(|line| str::from_utf8(line.value).unwrap_or("\u{fffd}"))
    }

    /// The elements of a header whose value is a list, over all lines of the header (RFC 9110 §5.6.1). Removes only
    /// spaces and tabs around an element, since for other implementations, other white space is part of the element.
    fn elements(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values(name).flat_map(|value| value.split(',')).map(|element| element.trim_matches([' ', '\t']))
    }

    fn has(&self, name: &'static str, wanted: &str) -> bool {
        self.elements(name).any(|element| element.eq_ignore_ascii_case(wanted))
    }

    /// A header's values as one list, separated by commas; empty if the header is absent.
    fn joined(&self, name: &'static str) -> String {
        self.values(name).collect::<Vec<_>>().join(", ")
    }
}
