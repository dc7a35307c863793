//! The body of a request, read as it arrives.

use crate::api::message::Response;
use crate::api::status::{bad_request, refused};

/// Longest body of a request, in bytes. This is twice the limit for an object in a body (`LARGEST` of the API).
pub(super) const LONGEST_BODY: usize = 128 * 1024;
/// Longest head of a chunk, in bytes: the line with the size and the extensions of the chunk.
const LONGEST_CHUNK_HEAD: usize = 20;

/// A body that has not arrived completely.
pub(super) struct Body {
    /// Number of bytes of the body, or of the current chunk, that have not arrived yet.
    left: usize,
    /// The kind of line to read in a chunked body once `left` is zero; `None` for a body with `Content-Length`.
    next: Option<Line>,
}

/// A line of the chunked transfer coding (RFC 9112 §7.1).
#[derive(Clone, Copy)]
enum Line {
    Size,
    ChunkEnd,
    Trailer,
}

impl Body {
    pub(super) fn sized(left: usize) -> Self {
        Self { left, next: None }
    }

    pub(super) fn chunked() -> Self {
        Self { left: 0, next: Some(Line::Size) }
    }

    /// Moves bytes of the body from `received` to `body`. Returns true once the body is complete.
    pub(super) fn read(&mut self, received: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<bool, Response> {
        let malformed = || bad_request("the body of the request contradicts its Content-Length or Transfer-Encoding");
        loop {
            let count = self.left.min(received.len());
            body.extend(received.drain(..count));
            self.left -= count;
            let Some(line) = self.next.filter(|_| self.left == 0) else { return Ok(self.left == 0) };
            let Some(end) = received.windows(2).position(|pair| pair == b"\r\n") else { return Ok(false) };
            let text: Vec<u8> = received.drain(..end + 2).take(end).collect();
            self.next = Some(match line {
                Line::Size => {
                    self.left = chunk_size(&text).ok_or_else(malformed)?;
                    // Cannot underflow: every earlier chunk has passed this check.
                    if self.left > LONGEST_BODY - body.len() {
                        return Err(too_large());
                    }
                    if self.left == 0 { Line::Trailer } else { Line::ChunkEnd }
                }
                Line::ChunkEnd if text.is_empty() => Line::Size,
                Line::ChunkEnd => return Err(malformed()),
                Line::Trailer if text.is_empty() => return Ok(true),
                // To other implementations, a lone line feed may end the trailer: they would read the next bytes as a
                // request.
                Line::Trailer if text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') => {
                    return Err(malformed());
                }
                // Trailer fields may be discarded (RFC 9112 §7.1.2).
                Line::Trailer => Line::Trailer,
            });
        }
    }
}

/// The size in the head of a chunk; `None` for a malformed head. Accepts hexadecimal digits, and then an extension
/// without control characters. Refuses signs, spaces and lone line feeds, since other HTTP implementations may read
/// them differently.
fn chunk_size(head: &[u8]) -> Option<usize> {
    let head = str::from_utf8(head).ok().filter(|head| head.len() <= LONGEST_CHUNK_HEAD)?;
    let digits = head.split(';').next()?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit()) && !head.contains(|c: char| c.is_ascii_control());
    usize::from_str_radix(digits, 16).ok().filter(|_| plain)
}

pub(super) fn too_large() -> Response {
    refused(413, "RequestEntityTooLarge", "the body of the request is larger than 128 KiB")
}
