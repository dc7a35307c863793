//! Parses the head of a response. Accepts malformed headers, except those that determine where the body ends.

use std::str;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use perennial::UnixTime;
use perennial_rotation::Token;

use super::echo::hide_token;
use super::exchange_error::ExchangeError;
use super::response::Response;

/// The longest response head, in bytes, including the 1xx responses before it.
pub(super) const LONGEST: usize = 64 << 10;
/// The numbers of header lines to allocate room for. A head with more than 64 lines is parsed again with room for 512.
/// A head with more than 512 lines is refused.
const LINES: [usize; 2] = [64, 512];

/// The head of a response: status and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The response, still without its body and its `date`. The session sets the response's `date` to
    /// [`date`](Self::date) if the server's certificate was verified.
    pub(crate) response: Response,
    /// The codings in `Content-Encoding` other than `identity`; empty if the body is not encoded. The client accepts no
    /// coding.
    pub(crate) coding: String,
    /// `Date`, to the second.
    pub(crate) date: Option<UnixTime>,
}

impl Head {
    /// Replaces each copy of the token in the header values that logs quote.
    pub(super) fn hide_token(&mut self, token: &Token) {
        for text in [&mut self.response.content_type, &mut self.coding, &mut self.response.location] {
            let mut bytes = std::mem::take(text).into_bytes();
            hide_token(token, &mut bytes);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
}

/// A complete response head, the form of the body behind it, and whether the connection can be used again.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) head: Head,
    /// The length of the head in bytes.
    pub(super) length: usize,
    /// The part of the response that follows the head.
    pub(super) body: Awaited,
    /// True if the connection can be used again once the body has ended.
    pub(super) reusable: bool,
}

/// The part of a response that comes next (RFC 9112 §6.3, §7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Awaited {
    #[default]
    Head,
    /// This number of bytes of the body, then the end of the response.
    Sized(u64),
    ChunkSize,
    /// This number of bytes of a chunk, then the line end behind the chunk.
    Chunk(u64),
    /// The trailer, up to an empty line.
    Trailer,
    /// All bytes until the connection ends.
    Rest,
    Nothing,
}

/// Parses the head at the start of `bytes`; `None` if more bytes are needed.
///
/// Accepts space before a colon, folded lines (RFC 9112 §5.2) and lines that are no header, as Go's client and browsers
/// do.
///
/// Refuses a head that is ambiguous about the length of the body: with two different lengths, with a length beside a
/// transfer coding, or with a coding other than `chunked`. A proxy in between might divide the same bytes into other
/// answers (RFC 9112 §11.2).
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Parsed>, ExchangeError> {
    // Few heads have more than 64 lines: only for those the larger room is allocated, and the head parsed again.
    for most in LINES {
        let mut room = vec![httparse::EMPTY_HEADER; most];
        let mut response = httparse::Response::new(&mut room);
        let length = httparse::ParserConfig::default()
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .parse_response(&mut response, bytes);
        let length = match length {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => continue,
            Err(httparse::Error::Version) => return Err(ExchangeError::improper("it does not begin with HTTP/1.1")),
            Err(_) => return Err(ExchangeError::improper("its status line or a header is malformed")),
        };
        let (Some(version), Some(status)) = (response.version, response.code) else { return Ok(None) };
        let lines = HeaderLines(response.headers);
        let (body, reusable) = (body(version, status, &lines)?, reusable(version, status, &lines));
        return Ok(Some(Parsed { head: head(status, &lines), length, body, reusable }));
    }
    Err(ExchangeError::too_long("response head"))
}

fn head(status: u16, lines: &HeaderLines<'_>) -> Head {
    let date = lines.text("date").and_then(date);
    let response = Response {
        status,
        retry_after: lines.text("retry-after").and_then(|wish| retry_after(wish, date)),
        content_type: lines.text("content-type").unwrap_or_default().to_owned(),
        location: lines.text("location").unwrap_or_default().to_owned(),
        ..Response::default()
    };
    let coding = lines.list("content-encoding").filter(|coding| !coding.eq_ignore_ascii_case("identity")).collect();
    Head { response, coding, date }
}

fn body(version: u8, status: u16, lines: &HeaderLines<'_>) -> Result<Awaited, ExchangeError> {
    let improper = |why| Err(ExchangeError::improper(why));
    let mut length: Option<u64> = None;
    for value in lines.elements("content-length") {
        // `parse` alone would take a plus sign.
        let digits = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(number) = digits.and_then(|digits| digits.parse().ok()) else {
            return improper("its Content-Length is no number");
        };
        if *length.get_or_insert(number) != number {
            return improper("it has two different values of Content-Length");
        }
    }
    let codings: Vec<&str> = lines.elements("transfer-encoding").collect();
    let body = match (codings.as_slice(), length) {
        ([], None) => Awaited::Rest,
        ([], Some(length)) => Awaited::Sized(length),
        // HTTP/1.0 knows no codings (RFC 9112 §6.1).
        ([coding], None) if coding.eq_ignore_ascii_case("chunked") && version == 0 => Awaited::Rest,
        ([coding], None) if coding.eq_ignore_ascii_case("chunked") => Awaited::ChunkSize,
        ([_], None) => return improper("its Transfer-Encoding is not chunked"),
        (_, None) => return improper("it has more than one Transfer-Encoding"),
        (_, Some(_)) => return improper("it has both Content-Length and Transfer-Encoding"),
    };
    // RFC 9112 §6.3: these have no body, whatever their headers are.
    Ok(if matches!(status, 100..=199 | 204 | 304) { Awaited::Sized(0) } else { body })
}

/// True if the connection can carry another request (RFC 9112 §9.3). False after status 101: another protocol follows.
fn reusable(version: u8, status: u16, lines: &HeaderLines<'_>) -> bool {
    let has = |option: &str| lines.list("connection").any(|it| it.eq_ignore_ascii_case(option));
    !has("close") && (version == 1 || has("keep-alive")) && status != 101
}

/// Reads `Retry-After`, a number of seconds or a time. A time counts from `date`, the `Date` of the same answer. `None`
/// for a time without a `Date`, and for a malformed value.
fn retry_after(wish: &str, date: Option<UnixTime>) -> Option<Duration> {
    match wish.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(self::date(wish)?.since(date?)),
    }
}

/// Reads a date in one of the three forms of RFC 9110 §5.6.7; `None` for any other text.
fn date(text: &str) -> Option<UnixTime> {
    let since =
        httpdate::parse_http_date(text).ok().and_then(|time: SystemTime| time.duration_since(UNIX_EPOCH).ok())?;
    Some(UnixTime::from_secs(i64::try_from(since.as_secs()).ok()?))
}

/// The header lines of a head.
struct HeaderLines<'a>(&'a [httparse::Header<'a>]);

impl<'a> HeaderLines<'a> {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let named = self.0.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        // A value that is no text stays a value: framing that cannot be read is not framing that is absent.
        named.map(|line| str::from_utf8(line.value).unwrap_or("\u{fffd}").trim())
    }

    /// The value of the first header line with this name; `None` if there is no such line.
    fn text(&self, name: &'static str) -> Option<&'a str> {
        self.values(name).next()
    }

    /// The elements of the list in the header `name`, empty ones included. The list may be spread over several header
    /// lines (RFC 9110 §5.6.1).
    fn elements(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values(name).flat_map(|value| value.split(',')).map(str::trim)
    }

    /// The elements of the list in the header `name` that are not empty.
    fn list(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.elements(name).filter(|element| !element.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(lines: &str) -> Result<Parsed, ExchangeError> {
        parse(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes()).map(|parsed| parsed.expect("a whole head"))
    }

    fn body_of(lines: &str) -> Result<Awaited, ExchangeError> {
        parsed(lines).map(|parsed| parsed.body)
    }

    #[test]
    fn content_length_is_read_among_unusual_header_lines() {
        for lines in [
            "Content-Length: 5\r\n",
            "Content-Length : 5\r\n",
            "content-length:5\r\n",
            "Content-Length:\r\n 5\r\n",
            "X: folded\r\n\tonce\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\nContent-Length: 5\r\n",
            "this is no header\r\nContent-Length: 5\r\n",
        ] {
            assert_eq!(body_of(lines), Ok(Awaited::Sized(5)), "{lines:?}");
        }
        let many: String = (0..300).map(|n| format!("X-{n}: y\r\n")).collect();
        assert_eq!(body_of(&format!("{many}Content-Length: 5\r\n")), Ok(Awaited::Sized(5)));
        assert_eq!(body_of(&many.repeat(2)), Err(ExchangeError::too_long("response head")));
    }

    #[test]
    fn head_with_ambiguous_body_length_is_refused() {
        for lines in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Content-Length:\r\n",
            "Content-Length: 5,\r\n",
            "Content-Length:\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert!(matches!(body_of(lines), Err(ExchangeError::Http(_))), "{lines:?}");
        }
        for line in [b"Content-Length: 5\xff".as_slice(), b"Transfer-Encoding: chunked\xff"] {
            let head = [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n", line, b"\r\n\r\n"].concat();
            assert!(matches!(parse(&head), Err(ExchangeError::Http(_))), "{:?}", head.escape_ascii().to_string());
        }
        assert_eq!(body_of("Transfer-Encoding : Chunked\r\n"), Ok(Awaited::ChunkSize));
        assert_eq!(body_of("Connection: x, Close\r\n"), Ok(Awaited::Rest));
    }

    #[test]
    fn connection_is_reusable_unless_response_head_excludes_reuse() {
        for (head, reusable) in [
            ("HTTP/1.1 200 OK\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n", false),
            ("HTTP/1.0 200 OK\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", true),
            ("HTTP/1.1 101 Switching Protocols\r\n", false),
        ] {
            let parsed = parse(format!("{head}\r\n").as_bytes()).unwrap().unwrap();
            assert_eq!(parsed.reusable, reusable, "{head}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_time_since_date_header() {
        let now = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let then = "Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n";
        let wish = |lines: &str| parsed(lines).unwrap().head.response.retry_after;
        assert_eq!(wish("Retry-After: 7\r\n"), Some(Duration::from_secs(7)));
        assert_eq!(wish(&format!("{now}{then}")), Some(Duration::from_secs(30)));
        assert_eq!(wish(&format!("{now}Retry-After: Sun, 06 Nov 1994 08:49:07 GMT\r\n")), Some(Duration::ZERO));
        assert_eq!(wish(then), None, "without a clock to reckon by");
        assert_eq!(wish(&format!("{now}Retry-After: soon\r\n")), None);
    }

    #[test]
    fn malformed_date_header_is_ignored() {
        let date = |text: &str| parsed(&format!("Date: {text}\r\n")).unwrap().head.date;
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(UnixTime::from_secs(784_111_777)));
        for text in ["", "784111777", "Sun, 06 Nov 1994 25:49:37 GMT", "1994-11-06T08:49:37Z"] {
            assert_eq!(date(text), None, "{text}");
        }
    }
}
