//! The head of a response: lines are read leniently, what frames the body strictly.
//!
//! ureq-proto takes 128 header lines, none of them folded. It reads the body all the same: it is given a head that holds
//! only what frames one ([`Parsed::framing`]).

use std::str;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use perennial::UnixTime;

use super::http_error::HttpError;

/// A response head, 1xx responses before it included, may not be longer, in bytes.
pub(super) const LONGEST: usize = 64 << 10;
/// Room for the lines of a head; one with more than the most is refused.
const LINES: [usize; 2] = [64, 512];

/// The head of a response: status and headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) content_type: String,
    /// `Content-Encoding`, empty for none. None is asked for.
    pub(crate) coding: String,
    /// `Location`, empty if there was none.
    pub(crate) location: String,
    /// `Date`, to the second.
    pub(crate) date: Option<UnixTime>,
}

/// A complete head.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) head: Head,
    /// Length of the head in bytes.
    pub(super) length: usize,
    /// A head of the same version and status with nothing but what frames the body.
    pub(super) framing: Vec<u8>,
}

/// Parses the head at the start of `bytes`; `None` if more bytes are needed.
///
/// Space before a colon, folded lines (RFC 9112 §5.2) and lines that are no header are put up with, as Go's client and
/// browsers do. Two lengths, a length beside a transfer coding, or a coding other than `chunked` are not: what follows
/// could be read as two different answers (RFC 9112 §11.2).
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Parsed>, HttpError> {
    for most in LINES {
        match parse_up_to(most, bytes) {
            Err(httparse::Error::TooManyHeaders) => {}
            Err(httparse::Error::Version) => return Err(HttpError::Response("it does not begin with HTTP/1.1")),
            Err(_) => return Err(HttpError::Response("its status line or a header is malformed")),
            Ok(parsed) => return parsed.transpose(),
        }
    }
    Err(HttpError::TooLong("response head"))
}

type Whole = Result<Parsed, HttpError>;

fn parse_up_to(most: usize, bytes: &[u8]) -> Result<Option<Whole>, httparse::Error> {
    let mut room = vec![httparse::EMPTY_HEADER; most];
    let mut response = httparse::Response::new(&mut room);
    let length = httparse::ParserConfig::default()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .parse_response(&mut response, bytes)?;
    let httparse::Status::Complete(length) = length else { return Ok(None) };
    let (Some(version), Some(status)) = (response.version, response.code) else { return Ok(None) };
    let lines = Lines(response.headers);
    Ok(Some(framing(version, status, &lines).map(|framing| Parsed { head: head(status, &lines), length, framing })))
}

fn head(status: u16, lines: &Lines<'_>) -> Head {
    let date = lines.text("date").and_then(date);
    Head {
        status,
        retry_after: lines.text("retry-after").and_then(|wish| retry_after(wish, date)),
        content_type: lines.text("content-type").unwrap_or_default().to_owned(),
        coding: lines.list("content-encoding").filter(|coding| !coding.eq_ignore_ascii_case("identity")).collect(),
        location: lines.text("location").unwrap_or_default().to_owned(),
        date,
    }
}

fn framing(version: u8, status: u16, lines: &Lines<'_>) -> Result<Vec<u8>, HttpError> {
    let mut framing = format!("HTTP/1.{version} {status} X\r\n");
    let mut length: Option<u64> = None;
    for value in lines.list("content-length") {
        // `parse` alone would take a plus sign.
        let number = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten();
        let number = number.ok_or(HttpError::Response("its Content-Length is no number"))?;
        if *length.get_or_insert(number) != number {
            return Err(HttpError::Response("it has two different Content-Length"));
        }
    }
    let codings: Vec<&str> = lines.list("transfer-encoding").collect();
    match (codings.as_slice(), length) {
        ([], None) => {}
        ([], Some(length)) => framing.push_str(&format!("content-length: {length}\r\n")),
        ([coding], None) if coding.eq_ignore_ascii_case("chunked") => {
            framing.push_str("transfer-encoding: chunked\r\n")
        }
        ([_], None) => return Err(HttpError::Response("its Transfer-Encoding is not chunked")),
        (_, None) => return Err(HttpError::Response("it has more than one Transfer-Encoding")),
        (_, Some(_)) => return Err(HttpError::Response("it has both Content-Length and Transfer-Encoding")),
    }
    for wish in ["close", "keep-alive"] {
        if lines.list("connection").any(|option| option.eq_ignore_ascii_case(wish)) {
            framing.push_str(&format!("connection: {wish}\r\n"));
            break;
        }
    }
    framing.push_str("\r\n");
    Ok(framing.into_bytes())
}

/// Seconds, or a time, which is reckoned from the server's own clock.
fn retry_after(wish: &str, date: Option<UnixTime>) -> Option<Duration> {
    match wish.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(self::date(wish)?.since(date?)),
    }
}

/// One of the three forms of RFC 9110 §5.6.7.
fn date(text: &str) -> Option<UnixTime> {
    let since =
        httpdate::parse_http_date(text).ok().and_then(|time: SystemTime| time.duration_since(UNIX_EPOCH).ok())?;
    Some(UnixTime::from_secs(i64::try_from(since.as_secs()).ok()?))
}

/// The header lines of a head.
struct Lines<'a>(&'a [httparse::Header<'a>]);

impl<'a> Lines<'a> {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let named = self.0.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        named.filter_map(|line| str::from_utf8(line.value).ok()).map(str::trim)
    }

    /// The value of the first line of this name.
    fn text(&self, name: &'static str) -> Option<&'a str> {
        self.values(name).next()
    }

    /// The elements of a list that may be spread over several lines (RFC 9110 §5.6.1).
    fn list(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values(name).flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(lines: &str) -> Result<Parsed, HttpError> {
        parse(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes()).map(|parsed| parsed.expect("a whole head"))
    }

    fn framing_of(lines: &str) -> Result<String, HttpError> {
        parsed(lines).map(|parsed| String::from_utf8(parsed.framing).unwrap().replace("HTTP/1.1 200 X\r\n", ""))
    }

    #[test]
    fn lenient_lines_are_read() {
        for lines in [
            "Content-Length: 5\r\n",
            "Content-Length : 5\r\n",
            "content-length:5\r\n",
            "Content-Length:\r\n 5\r\n",
            "X: folded\r\n\tonce\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\nContent-Length: 5\r\n",
            "this is no header\r\nContent-Length: 5\r\n",
        ] {
            assert_eq!(framing_of(lines).as_deref(), Ok("content-length: 5\r\n\r\n"), "{lines:?}");
        }
        let many: String = (0..300).map(|n| format!("X-{n}: y\r\n")).collect();
        assert_eq!(framing_of(&format!("{many}Content-Length: 5\r\n")).as_deref(), Ok("content-length: 5\r\n\r\n"));
        assert_eq!(framing_of(&many.repeat(2)), Err(HttpError::TooLong("response head")));
    }

    #[test]
    fn ambiguous_framing_is_refused() {
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
        ] {
            assert!(matches!(framing_of(lines), Err(HttpError::Response(_))), "{lines:?}");
        }
        assert_eq!(framing_of("Transfer-Encoding : Chunked\r\n").as_deref(), Ok("transfer-encoding: chunked\r\n\r\n"));
        assert_eq!(framing_of("Connection: x, Close\r\n").as_deref(), Ok("connection: close\r\n\r\n"));
    }

    #[test]
    fn retry_after_counts_seconds_or_to_a_time_of_the_server() {
        let now = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let then = "Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n";
        let wish = |lines: &str| parsed(lines).unwrap().head.retry_after;
        assert_eq!(wish("Retry-After: 7\r\n"), Some(Duration::from_secs(7)));
        assert_eq!(wish(&format!("{now}{then}")), Some(Duration::from_secs(30)));
        assert_eq!(wish(&format!("{now}Retry-After: Sun, 06 Nov 1994 08:49:07 GMT\r\n")), Some(Duration::ZERO));
        assert_eq!(wish(then), None, "without a clock to reckon by");
        assert_eq!(wish(&format!("{now}Retry-After: soon\r\n")), None);
    }

    #[test]
    fn date_is_read_to_the_second_or_not_at_all() {
        let date = |text: &str| parsed(&format!("Date: {text}\r\n")).unwrap().head.date;
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(UnixTime::from_secs(784_111_777)));
        for text in ["", "784111777", "Sun, 06 Nov 1994 25:49:37 GMT", "1994-11-06T08:49:37Z"] {
            assert_eq!(date(text), None, "{text}");
        }
    }
}
