//! Request smuggling: the embedded server refuses requests that two HTTP implementations could read differently.

use crate::support::wire::Wire;
use crate::support::*;

fn head(method: &str, target: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{fields}\r\n")
}

/// The smuggled request, which follows a first one. A proxy that reads the first request's framing differently takes
/// the smuggled request for a part of the first request's body.
fn second() -> String {
    head("GET", "/version", "")
}

/// HTTP statuses of the answers to `bytes`, in order, and whether the server closed the connection.
fn answers(bytes: &str) -> (Vec<String>, bool) {
    let mut wire = Wire::new(manual(), usize::MAX);
    let text = wire.exchange(bytes.as_bytes());
    assert_eq!(wire.api.requests().count(), 0, "{bytes:?}");
    (
        text.match_indices("HTTP/1.1 ").map(|(at, _)| text[at + 9..at + 12].to_owned()).collect(),
        wire.session.is_closed(),
    )
}

/// Expects one answer, 400, to `bytes`, and a closed connection: requests that follow are not carried out.
fn is_refused(bytes: &str) {
    assert_eq!(answers(bytes), (vec!["400".to_owned()], true), "{bytes:?}");
}

#[test]
fn ambiguous_body_framing_ends_the_connection() {
    let second = second();
    let length = second.len();
    for fields in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: 0, {length}\r\n"),
        "Content-Length: +0\r\n".into(),
        "Content-Length: -0\r\n".into(),
        "Content-Length: 0x0\r\n".into(),
        "Content-Length: 0 0\r\n".into(),
        "Content-Length:\r\n".into(),
        "Content-Length: 18446744073709551616\r\n".into(),
        "Content-Length: 0\u{a0}\r\n".into(),
        "Content-Length: \u{2003}0\r\n".into(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".into(),
        "Transfer-Encoding: chunked, identity\r\n".into(),
        "Transfer-Encoding: chunked, chunked\r\n".into(),
        "Transfer-Encoding: identity\r\n".into(),
        "Transfer-Encoding: xchunked\r\n".into(),
        "Transfer-Encoding:\x0bchunked\r\n".into(),
        "Transfer-Encoding: chunked\u{a0}\r\n".into(),
        "Transfer-Encoding: \u{85}chunked\r\n".into(),
    ] {
        is_refused(&format!("{}0\r\n\r\n{second}", head("POST", COLLECTION, &fields)));
    }
}

#[test]
fn ambiguous_header_lines_end_the_connection() {
    for fields in [
        "Content-Length : 0\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Content-Length: 0\r\n",
        "X: y\r\n Content-Length: 0\r\n",
        "X: y\r\n\tz\r\n",
        "X: y\0z\r\n",
        "X\0: y\r\n",
        "X: y\rContent-Length: 0\r\n",
        ": y\r\n",
        "X\r\n",
        "Host: y\r\n",
    ] {
        is_refused(&(head("GET", "/version", fields) + &second()));
    }
    let whole = second();
    for (part, odd) in [
        ("Host: x\r\n", ""),
        ("HTTP/1.1", "HTTP/0.9"),
        ("HTTP/1.1", "HTTP/2.0"),
        ("HTTP/1.1", "http/1.1"),
        (" /version", "  /version"),
        ("/version", "/ver sion"),
        ("/version", "/ver\0sion"),
        ("GET", "\0GET"),
        ("GET", "G(T"),
    ] {
        is_refused(&(whole.replace(part, odd) + &whole));
    }
}

#[test]
fn malformed_chunk_size_ends_the_connection() {
    let head = head("POST", COLLECTION, "Transfer-Encoding: chunked\r\n");
    for body in [
        "zz\r\n\r\n",
        "0x0\r\n\r\n",
        "+0\r\n\r\n",
        "-1\r\n\r\n",
        " 0\r\n\r\n",
        "0 \r\n\r\n",
        "\r\n\r\n",
        ";x\r\n\r\n",
        "10000000000000000\r\n",
        "00000000000000000000000\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "1\r\na\r\n+0\r\n\r\n",
        "0\n\n",
        "0;x=\ny\r\n\r\n",
        "0\r\n\nGET /version HTTP/1.1\r\n\r\n",
        "0\r\nX: y\n\r\n\r\n",
        "0\r\nX: y\rz\r\n\r\n",
    ] {
        is_refused(&format!("{head}{body}{}", second()));
    }
}

#[test]
fn unambiguous_requests_are_accepted() {
    let second = second();
    let length = second.len();
    let chunked = head("POST", COLLECTION, "Transfer-Encoding: Chunked\r\n");
    for (bytes, statuses) in [
        // Two equal lengths count as one: the second request is the body of the first.
        (
            head("GET", "/version", &format!("Content-Length: {length}\r\nContent-Length: {length}\r\n")) + &second,
            "200",
        ),
        (head("GET", "/version", "Content-Length: 0\r\n") + &second, "200 200"),
        // The body is complete, but is no object.
        (format!("{chunked}2;x=y\r\n{{}}\r\n0\r\nX: y\r\n\r\n{second}"), "400 200"),
        (second.replace("\r\n", "\n") + &second, "200 200"),
        (format!("\r\n\r\n{second}{second}"), "200 200"),
    ] {
        let (found, closed) = answers(&bytes);
        assert_eq!((found.join(" ").as_str(), closed), (statuses, false), "{bytes:?}");
    }
}
