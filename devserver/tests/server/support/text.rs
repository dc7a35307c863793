//! Requests as text, and parsers of answers.

use serde_json::Value;

use super::{COLLECTION, TOKEN};

pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n")
}

pub(crate) fn post(object: &Value) -> String {
    let body = object.to_string();
    format!(
        "POST {COLLECTION} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Status, head and body of the first response in `text`, and the text after that response.
pub(crate) fn response(text: &str) -> (u16, &str, &str, &str) {
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let (body, rest) = rest.split_at(length.map_or(rest.len(), |length| length.parse().unwrap()));
    (status, head, body, rest)
}

/// Contents of a chunked body, and the text after the body if the body has ended.
pub(crate) fn chunks(mut chunked: &str) -> (String, Option<&str>) {
    let mut body = String::new();
    while let Some((length, rest)) = chunked.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body.push_str(&rest[..length]);
        chunked = rest[length..].strip_prefix("\r\n").unwrap();
        if length == 0 {
            return (body, Some(chunked));
        }
    }
    (body, None)
}

/// The lines of a chunked body as JSON, and whether the body has ended.
pub(crate) fn lines(chunked: &str) -> (Vec<Value>, bool) {
    let (body, rest) = chunks(chunked);
    (body.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), rest.is_some())
}
