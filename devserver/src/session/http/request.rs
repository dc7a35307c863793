//! Checks of a request's framing, and the conversion of its head to an [`ApiRequest`].

use ureq_proto::http::{HeaderMap, HeaderName, Method as HttpMethod, Request, Version, header};
use zeroize::Zeroizing;

use crate::api::message::{ApiRequest, Method};

/// Longest body of a request, in bytes. Twice the largest object that is accepted.
pub(super) const LONGEST_BODY: usize = 128 * 1024;
pub(super) const TOO_LARGE: &str = "the body of the request is larger than 128 KiB";

/// Returns whether a body follows. Refuses, before the body is read, a request whose framing is ambiguous or missing:
/// another HTTP implementation in front of this server could see other requests in it (RFC 9112 §11.2).
pub(super) fn check_framing(request: &Request<()>) -> Result<bool, (u16, &'static str, &'static str)> {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH);
    let encodings: Vec<_> = headers.get_all(header::TRANSFER_ENCODING).iter().collect();
    let has_body = length.is_some() || !encodings.is_empty();
    if request.version() != Version::HTTP_11 {
        return Err((505, "HTTPVersionNotSupported", "this server speaks HTTP/1.1"));
    }
    if headers.get_all(header::HOST).iter().count() != 1 {
        return Err((400, "BadRequest", "the request needs a Host header, and no second one"));
    }
    let needs_body = [HttpMethod::POST, HttpMethod::PUT, HttpMethod::PATCH].contains(request.method());
    match encodings.as_slice() {
        [] => {}
        [one] if one.as_bytes().eq_ignore_ascii_case(b"chunked") && length.is_none() => {}
        _ => return Err((400, "BadRequest", "the body must be either chunked or of a given length")),
    }
    if needs_body && !has_body {
        return Err((411, "LengthRequired", "the request needs a body, and its length"));
    }
    if has_body && [HttpMethod::HEAD, HttpMethod::CONNECT].contains(request.method()) {
        return Err((400, "BadRequest", "this method takes no body"));
    }
    let length = length.and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok());
    if length.is_some_and(|length| length > LONGEST_BODY as u64) {
        return Err((413, "RequestEntityTooLarge", TOO_LARGE));
    }
    Ok(has_body)
}

/// False if the head of a chunk, as far as it has arrived, is anything but hexadecimal digits and an extension.
/// ureq-proto also accepts signs and spaces in the size, and a lone line feed in an extension, which other
/// implementations may read differently.
pub(super) fn is_plain_chunk(received: &[u8]) -> bool {
    // ureq-proto refuses longer heads of chunks.
    let start = &received[..received.len().min(32)];
    let Some(end) = start.windows(2).position(|pair| pair == b"\r\n") else { return true };
    let digits = start.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    digits > 0 && matches!(start[digits], b'\r' | b';') && !start[..end].iter().any(u8::is_ascii_control)
}

pub(super) fn api_request(request: &Request<()>) -> ApiRequest {
    let method = match *request.method() {
        HttpMethod::GET | HttpMethod::HEAD => Method::Get,
        HttpMethod::POST => Method::Post,
        HttpMethod::PUT => Method::Put,
        HttpMethod::PATCH => Method::Patch,
        HttpMethod::DELETE => Method::Delete,
        _ => Method::Other,
    };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let headers = request.headers();
    ApiRequest {
        accept: joined(headers, header::ACCEPT),
        content_type: joined(headers, header::CONTENT_TYPE),
        authorization: Some(Zeroizing::new(joined(headers, header::AUTHORIZATION))).filter(|text| !text.is_empty()),
        impersonates: headers.keys().any(|name| name.as_str().starts_with("impersonate-")),
        ..ApiRequest::new(method, target)
    }
}

/// A header's values as one list; empty if absent or not text.
fn joined(headers: &HeaderMap, name: HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(", ")
}
