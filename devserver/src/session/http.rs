//! HTTP/1.1 as a server speaks it, bytes in and bytes out; only this module uses `ureq-proto`.

mod request;

use std::time::{Duration, SystemTime};

use perennial::UnixTime;
use ureq_proto::http::response::Builder as HeadBuilder;
use ureq_proto::http::{Response as Head, Version, header};
use ureq_proto::server::state::{Cleanup, ProvideResponse, RecvBody, RecvRequest, SendBody};
use ureq_proto::server::{RecvRequestResult, Reply, SendResponseResult};

use crate::api::message::{ApiRequest, Response};
use crate::api::status;
use request::{LONGEST_BODY, TOO_LARGE, api_request, check_framing, is_plain_chunk};

/// Longest head of a request, in bytes; longer ones are answered with 431.
const LONGEST_HEAD: usize = 16 * 1024;
/// Largest chunk of a response, in bytes; ureq-proto splits larger ones.
const CHUNK: usize = 8192;
/// Bound of the framing around a chunk, in bytes.
const CHUNK_FRAME: usize = 32;
/// Buffer for a response head, in bytes: no head of this server is longer.
const HEAD: usize = 4096;

/// HTTP of one connection, over plaintext bytes.
pub(super) struct Http {
    /// Time for the `Date` header of answers.
    pub(super) clock: UnixTime,
    phase: Phase,
    received: Vec<u8>,
    /// Length of the part of `received` that was searched for the end of a head without finding one.
    searched: usize,
    unsent: Unsent,
}

/// Bytes to send, taken from the front.
#[derive(Default)]
pub(super) struct Unsent {
    bytes: Vec<u8>,
    taken: usize,
}

impl Unsent {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(super) fn take(&mut self, count: usize) {
        self.taken += count;
        // Free sent bytes before they are half of the buffer: a watch may never end.
        if self.taken * 2 >= self.bytes.len() {
            self.bytes.drain(..self.taken);
            self.taken = 0;
            self.bytes.shrink_to(2 * self.bytes.len());
        }
    }
}

enum Phase {
    Head(Reply<RecvRequest>),
    Body {
        reply: Reply<RecvBody>,
        request: ApiRequest,
    },
    /// The request was returned by `poll_request` and waits for `respond`.
    Answering(Reply<ProvideResponse>),
    Streaming(Reply<SendBody>),
    /// Nothing is read any more; the connection closes once all bytes are sent.
    Closing,
}

impl Http {
    pub(super) fn new() -> Self {
        let (received, unsent) = (Vec::new(), Unsent::default());
        Self { clock: UnixTime::default(), phase: next(), received, searched: 0, unsent }
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if !matches!(self.phase, Phase::Closing) {
            self.received.extend_from_slice(bytes);
        }
    }

    /// True if more bytes can be used now. Leaves a client waiting that sends requests without reading the answers.
    pub(super) fn wants_read(&self) -> bool {
        self.received.len() < LONGEST_HEAD
    }

    /// True if no request is being answered: the next one is awaited or incomplete.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.phase, Phase::Head(_) | Phase::Body { .. })
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Bytes to send.
    pub(super) fn unsent(&self) -> &[u8] {
        self.unsent.as_slice()
    }

    /// Removes the first `count` unsent bytes, which were sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.unsent.take(count);
    }

    /// The next request, once it is complete; then `None` until it has been answered. Calls `admit` once the head is
    /// complete, with whether a body follows. If `admit` refuses, the body is not read, and the connection closes.
    pub(super) fn poll_request(
        &mut self,
        mut admit: impl FnMut(&mut ApiRequest, bool) -> Result<(), Response>,
    ) -> Option<ApiRequest> {
        loop {
            let step = match std::mem::replace(&mut self.phase, Phase::Closing) {
                Phase::Head(reply) => self.read_head(reply, &mut admit),
                Phase::Body { reply, request } => self.read_body(reply, request),
                other @ (Phase::Answering(_) | Phase::Streaming(_) | Phase::Closing) => Step::Wait(other),
            };
            match step {
                Step::Next(phase) => self.phase = phase,
                Step::Wait(phase) => {
                    self.phase = phase;
                    return None;
                }
                Step::Request(reply, request) => {
                    self.phase = Phase::Answering(reply);
                    return Some(request);
                }
            }
        }
    }

    fn read_head(
        &mut self,
        mut reply: Reply<RecvRequest>,
        admit: &mut impl FnMut(&mut ApiRequest, bool) -> Result<(), Response>,
    ) -> Step {
        self.skip_empty_lines();
        if !self.has_head() {
            if self.received.len() >= LONGEST_HEAD {
                return self.cannot_read(431, "RequestHeaderFieldsTooLarge", "the head of the request is too large");
            }
            return Step::Wait(Phase::Head(reply));
        }
        let (used, request) = match reply.try_request(&self.received) {
            Ok((used, Some(request))) => (used, request),
            Ok((_, None)) => return Step::Wait(Phase::Head(reply)),
            Err(_) => return self.cannot_read(400, "BadRequest", "the request is not HTTP/1.1"),
        };
        self.received.drain(..used);
        self.searched = 0;
        let has_body = match check_framing(&request) {
            Ok(has_body) => has_body,
            Err((code, reason, message)) => return self.cannot_read(code, reason, message),
        };
        let mut request = api_request(&request);
        if let Err(response) = admit(&mut request, has_body) {
            return self.refuse(&response);
        }
        match reply.proceed() {
            Some(RecvRequestResult::Send100(reply)) => {
                let mut line = [0; 64];
                match reply.accept(&mut line) {
                    Ok((written, reply)) => {
                        self.unsent.bytes.extend_from_slice(&line[..written]);
                        Step::Next(Phase::Body { reply, request })
                    }
                    Err(_) => Step::Next(Phase::Closing),
                }
            }
            Some(RecvRequestResult::RecvBody(reply)) => Step::Next(Phase::Body { reply, request }),
            Some(RecvRequestResult::ProvideResponse(reply)) => Step::Request(reply, request),
            None => Step::Next(Phase::Closing),
        }
    }

    /// Skips empty lines before a request (RFC 9112 §2.2), which `has_head` would take for the end of its head.
    fn skip_empty_lines(&mut self) {
        let mut rest = self.received.as_slice();
        while let Some(after) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
            rest = after;
        }
        let empty = self.received.len() - rest.len();
        if empty > 0 {
            self.received.drain(..empty);
            self.searched = 0;
        }
    }

    /// True once an empty line has arrived. The head is not parsed before, so that many small reads cost no more than
    /// one.
    fn has_head(&mut self) -> bool {
        let from = self.searched.saturating_sub(3);
        self.searched = self.received.len();
        let fresh = &self.received[from..];
        fresh.windows(2).any(|pair| pair == b"\n\n") || fresh.windows(3).any(|three| three == b"\n\r\n")
    }

    fn read_body(&mut self, mut reply: Reply<RecvBody>, mut request: ApiRequest) -> Step {
        let mut buffer = [0; 8192];
        loop {
            if reply.is_ended() {
                return match reply.proceed() {
                    Ok(reply) => Step::Request(reply, request),
                    Err(_) => Step::Next(Phase::Closing),
                };
            }
            // Stop at each chunk: its head is checked before ureq-proto reads it.
            reply.stop_on_chunk_boundary(true);
            let plain = !reply.is_on_chunk_boundary() || is_plain_chunk(&self.received);
            let Some((used, read)) = reply.read(&self.received, &mut buffer).ok().filter(|_| plain) else {
                return self.cannot_read(400, "BadRequest", "the body of the request is not framed as its head says");
            };
            self.received.drain(..used);
            if request.body.len() + read > LONGEST_BODY {
                return self.cannot_read(413, "RequestEntityTooLarge", TOO_LARGE);
            }
            request.body.extend_from_slice(&buffer[..read]);
            if used == 0 && read == 0 && !reply.is_ended() {
                if self.received.len() >= LONGEST_HEAD {
                    return self.cannot_read(400, "BadRequest", "a chunk's head is too long");
                }
                return Step::Wait(Phase::Body { reply, request });
            }
        }
    }

    fn cannot_read(&mut self, code: u16, reason: &str, message: &str) -> Step {
        self.refuse(&status::refused(code, reason, message))
    }

    /// Answers a request without reading it to its end, and closes the connection.
    fn refuse(&mut self, response: &Response) -> Step {
        let Response { status, content_type, retry_after, body, .. } = response;
        let retry_after = retry_after.map_or_else(String::new, |seconds| format!("retry-after: {seconds}\r\n"));
        let head = format!(
            "HTTP/1.1 {status} Refused\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{retry_after}\
             connection: close\r\n\r\n",
            body.len()
        );
        self.unsent.bytes.extend_from_slice(head.as_bytes());
        self.unsent.bytes.extend_from_slice(body);
        // Bytes that follow must never be read as another request.
        self.received = Vec::new();
        Step::Next(Phase::Closing)
    }

    /// Answers the request that `poll_request` returned last.
    pub(super) fn respond(&mut self, response: &Response) {
        let mut head =
            self.head(response.status, &response.content_type).header(header::CONTENT_LENGTH, response.body.len());
        if let Some(seconds) = response.retry_after {
            head = head.header(header::RETRY_AFTER, seconds);
        }
        for warning in &response.warnings {
            // Escaped: a warning may quote text of the client, which must not break out of the header.
            head = head.header(header::WARNING, format!("299 - \"{}\"", warning.escape_default()));
        }
        let Some(body) = self.send_head(head) else { return };
        self.phase = Phase::Streaming(body);
        self.write(&response.body);
        self.finish();
    }

    /// Begins a chunked answer to the request that `poll_request` returned last. Returns false for a HEAD request,
    /// whose answer has no body.
    pub(super) fn respond_stream(&mut self, content_type: &str) -> bool {
        let head = self.head(200, content_type);
        let body = self.send_head(head);
        body.map(|body| self.phase = Phase::Streaming(body)).is_some()
    }

    /// Appends to the body of the answer in progress.
    pub(super) fn write(&mut self, data: &[u8]) {
        let Phase::Streaming(body) = &mut self.phase else { return };
        let unsent = &mut self.unsent.bytes;
        for piece in data.chunks(CHUNK) {
            let start = unsent.len();
            // With this room, ureq-proto writes the piece as one chunk. With less, it could write an empty chunk, which
            // ends the body.
            unsent.resize(start + piece.len() + CHUNK_FRAME, 0);
            match body.write(piece, &mut unsent[start..]) {
                Ok((used, written)) if used == piece.len() => unsent.truncate(start + written),
                Ok(_) | Err(_) => {
                    unsent.truncate(start);
                    self.phase = Phase::Closing;
                    return;
                }
            }
        }
    }

    /// Ends the answer in progress. The connection is ready for the next request.
    pub(super) fn finish(&mut self) {
        let Phase::Streaming(mut body) = std::mem::replace(&mut self.phase, Phase::Closing) else { return };
        let mut end = [0; 16];
        if let Ok((_, written)) = body.write(&[], &mut end) {
            self.unsent.bytes.extend_from_slice(&end[..written]);
            if body.is_finished() {
                self.end(&body.proceed());
            }
        }
    }

    fn head(&self, code: u16, content_type: &str) -> HeadBuilder {
        let head = Head::builder()
            .version(Version::HTTP_11)
            .status(code)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::CACHE_CONTROL, "no-cache, private");
        match date(self.clock) {
            Some(date) => head.header(header::DATE, date),
            None => head,
        }
    }

    fn end(&mut self, reply: &Reply<Cleanup>) {
        self.phase = if reply.must_close_connection() { Phase::Closing } else { next() };
    }

    /// Writes the head of an answer. Returns `None` if no body follows, as for a HEAD request.
    fn send_head(&mut self, head: HeadBuilder) -> Option<Reply<SendBody>> {
        let Phase::Answering(reply) = std::mem::replace(&mut self.phase, Phase::Closing) else { return None };
        let mut reply = reply.provide(head.body(()).ok()?).ok()?;
        let mut buffer = [0; HEAD];
        while !reply.is_finished() {
            let written = reply.write(&mut buffer).ok()?;
            self.unsent.bytes.extend_from_slice(&buffer[..written]);
        }
        match reply.proceed() {
            SendResponseResult::SendBody(body) => Some(body),
            SendResponseResult::Cleanup(cleanup) => {
                self.end(&cleanup);
                None
            }
        }
    }
}

/// The `Date` header of RFC 9110 §5.6.7; `None` for years beyond 9999.
fn date(at: UnixTime) -> Option<String> {
    const YEAR_10000: u64 = 253_402_300_800;
    let seconds = u64::try_from(at.as_secs()).ok().filter(|seconds| *seconds < YEAR_10000)?;
    Some(httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

enum Step {
    Next(Phase),
    Wait(Phase),
    Request(Reply<ProvideResponse>, ApiRequest),
}

fn next() -> Phase {
    // Cannot fail for this state.
    Reply::new().map_or(Phase::Closing, Phase::Head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_bytes_of_a_long_answer_are_freed() {
        let mut unsent = Unsent::default();
        for round in 0..1000_u32 {
            unsent.bytes.extend(std::iter::repeat_n(round as u8, 33_000));
            while unsent.as_slice().len() > 16_000 {
                let before = unsent.as_slice()[16_000..].to_vec();
                unsent.take(16_000);
                assert_eq!(unsent.as_slice(), before);
            }
            assert!(unsent.bytes.capacity() < 200_000, "{} in round {round}", unsent.bytes.capacity());
        }
    }
}
