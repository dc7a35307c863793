//! Checks that bytes are a sequence of HTTP/1.1 responses.

/// Checks a sequence of responses. Only the last response may be incomplete, and only if it is chunked: then it is the
/// response to a watch, which has no end, or a list that was cut off.
pub(super) fn check(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let (head, rest) = split(bytes, b"\r\n\r\n");
        let head = str::from_utf8(head).expect("a head is text");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let status: u16 = status[..3].parse().expect("a status");
        let headers: Vec<(&str, &str)> =
            lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no header"))).collect();
        let clean = |text: &str| !text.contains(char::is_control);
        assert!(headers.iter().all(|(name, value)| clean(name) && clean(value)), "{head:?}");
        let value = |wanted| {
            let mut values = headers.iter().filter(|(name, _)| *name == wanted).map(|(_, value)| *value);
            let value = values.next();
            assert!(values.next().is_none(), "{wanted} twice");
            value
        };
        bytes = match (value("content-length"), value("transfer-encoding")) {
            // An interim response, or the head of a stream in answer to HEAD.
            (None, None) => {
                assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 "), "{status} without a length");
                rest
            }
            (Some(length), None) => {
                let length: usize = length.parse().expect("a length");
                // An answer to HEAD has a length and no body.
                if rest.is_empty() || rest.starts_with(b"HTTP/1.1 ") { rest } else { &rest[length..] }
            }
            (None, Some("chunked")) => match chunks(rest) {
                Some(rest) => rest,
                None => return,
            },
            (_, Some(encoding)) => panic!("framed twice, or {encoding}"),
        };
    }
}

/// The bytes after a chunked body; `None` if the body is incomplete.
fn chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    while !bytes.is_empty() && !bytes.starts_with(b"HTTP/1.1 ") {
        let (length, rest) = split(bytes, b"\r\n");
        let length = str::from_utf8(length).ok().and_then(|length| usize::from_str_radix(length, 16).ok());
        let length = length.expect("the size of a chunk");
        bytes = rest.get(length..)?.strip_prefix(b"\r\n").expect("the end of a chunk");
        if length == 0 {
            return Some(bytes);
        }
    }
    // The response was an answer to HEAD, or the last one of the session.
    (!bytes.is_empty()).then_some(bytes)
}

fn split<'a>(bytes: &'a [u8], end: &[u8]) -> (&'a [u8], &'a [u8]) {
    let at = bytes.windows(end.len()).position(|window| window == end);
    let at = at.unwrap_or_else(|| panic!("{} is cut short", bytes.escape_ascii()));
    (&bytes[..at], &bytes[at + end.len()..])
}
