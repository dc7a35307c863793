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

/// A request head may be this long.
const LONGEST_HEAD: usize = 16 * 1024;
/// A chunk of ours holds at most this much; ureq-proto cuts larger ones.
const CHUNK: usize = 8192;
/// Bound of the framing around a chunk.
const CHUNK_FRAME: usize = 32;
/// A response head of ours fits in here.
const HEAD: usize = 4096;

/// One connection's HTTP, between plaintext bytes.
pub(super) struct Http {
    /// The wall clock: what answers are dated by.
    pub(super) clock: UnixTime,
    phase: Phase,
    received: Vec<u8>,
    /// Length of the part of `received` that is known to hold no end of a head.
    searched: usize,
    unsent: Unsent,
}

/// Bytes to be sent, taken from the front.
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
        // What is sent is let go of before it is half of what is held: an answer may never come to its end.
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
    /// The request has been handed out.
    Answering(Reply<ProvideResponse>),
    Streaming(Reply<SendBody>),
    /// Nothing is read any more; the connection closes when everything is sent.
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

    /// True if more bytes can be used now. A client that sends requests before it has read the answers has to wait.
    pub(super) fn wants_read(&self) -> bool {
        self.received.len() < LONGEST_HEAD
    }

    /// True if a request has begun but not ended, or none is being answered.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.phase, Phase::Head(_) | Phase::Body { .. })
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Bytes to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        self.unsent.as_slice()
    }

    /// The first `count` of the unsent bytes are sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.unsent.take(count);
    }

    /// The next request, once it is complete; then nothing until it has been answered. `admit` may refuse it when its
    /// head has come, and is told whether a body follows: that is not read then, and the connection closes.
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

    /// Empty lines before a request do not count (RFC 9112 §2.2). They must not pass for the end of its head either.
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

    /// True once an empty line has come; a head is not parsed before, so that many small reads cost no more than one.
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

    /// Answers a request that is not read to its end, and closes.
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
        self.received = Vec::new();
        Step::Next(Phase::Closing)
    }

    /// Answers the request handed out last.
    pub(super) fn respond(&mut self, response: &Response) {
        let mut head =
            self.head(response.status, &response.content_type).header(header::CONTENT_LENGTH, response.body.len());
        if let Some(seconds) = response.retry_after {
            head = head.header(header::RETRY_AFTER, seconds);
        }
        for warning in &response.warnings {
            // Escaped, because it may quote what the client has sent.
            head = head.header(header::WARNING, format!("299 - \"{}\"", warning.escape_default()));
        }
        let Some(body) = self.send_head(head) else { return };
        self.phase = Phase::Streaming(body);
        self.write(&response.body);
        self.finish();
    }

    /// Begins a chunked answer to the request handed out last. False if there is no body to write, for a HEAD request.
    pub(super) fn respond_stream(&mut self, content_type: &str) -> bool {
        let head = self.head(200, content_type);
        let body = self.send_head(head);
        body.map(|body| self.phase = Phase::Streaming(body)).is_some()
    }

    /// Adds to the answer begun.
    pub(super) fn write(&mut self, data: &[u8]) {
        let Phase::Streaming(body) = &mut self.phase else { return };
        let unsent = &mut self.unsent.bytes;
        for piece in data.chunks(CHUNK) {
            let start = unsent.len();
            // With room to spare a piece becomes one chunk; without, ureq-proto could write an empty one, which would
            // end the body.
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

    /// Ends the answer begun; the connection is ready for the next request.
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

    /// Sends a head. `None` when there is no body to follow, because it was a HEAD request.
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
    // Never fails: the result is for states this one does not have.
    Reply::new().map_or(Phase::Closing, Phase::Head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_let_go_of_however_long_the_answer() {
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
