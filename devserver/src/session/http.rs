//! HTTP/1.1 of a server, without a connection: reads requests from bytes, and writes responses as bytes.

mod body;
mod request;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use perennial::UnixTime;

use crate::api::message::{ApiRequest, Response};
use crate::api::status;
use crate::api::user::User;
use request::Incoming;

/// Longest head of a request, in bytes; longer ones are answered with 431.
const LONGEST_HEAD: usize = 16 * 1024;

/// HTTP/1.1 of one connection: takes plaintext of the client, and returns plaintext for the client.
#[derive(Default)]
pub(super) struct Http {
    /// Time for the `Date` header of answers.
    pub(super) clock: UnixTime,
    /// The user of the client certificate, for all requests of the connection; `None` without a client certificate.
    pub(super) peer: Option<Arc<User>>,
    phase: Phase,
    received: Vec<u8>,
    /// The request whose body is arriving.
    incoming: Option<Incoming>,
    /// Bytes of answers. The first `taken` bytes were sent already.
    outgoing: Vec<u8>,
    taken: usize,
    /// True if the answer has no body: the method of its request is HEAD.
    bodiless: bool,
    /// True if the connection is closed after the answer.
    last: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// The next request is awaited or incomplete.
    #[default]
    Receiving,
    /// The request was returned by `poll_request` and waits for an answer.
    Answering,
    /// A chunked answer is being written.
    Streaming,
    /// Nothing is read any more; the connection closes once all bytes are sent.
    Closing,
}

impl Http {
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if !self.is_closing() {
            self.received.extend_from_slice(bytes);
        }
    }

    /// True if there is room for more bytes of the client. If the client sends requests without reading the answers,
    /// the room is used up: further bytes stay in the socket.
    pub(super) fn wants_read(&self) -> bool {
        self.received.len() < LONGEST_HEAD
    }

    /// True if no request is being answered: the next one is awaited or incomplete.
    pub(super) fn is_receiving(&self) -> bool {
        self.phase == Phase::Receiving
    }

    pub(super) fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Bytes to send to the client.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.outgoing[self.taken..]
    }

    /// Removes the first `count` unsent bytes, which were sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.taken += count;
        // Not each time: moving the rest of a long answer for each piece would take seconds.
        if self.taken * 2 >= self.outgoing.len() {
            self.outgoing.drain(..self.taken);
            self.taken = 0;
            // A watch may never end: do not keep the memory of its largest answer.
            self.outgoing.shrink_to(2 * self.outgoing.len());
        }
    }

    /// Returns the next request once its head and body have arrived completely. Returns `None` before, and as long as
    /// an earlier request waits for its answer. Calls `admit` once the head is complete; the second argument is true if
    /// a body follows. If `admit` refuses the request, answers with the refusal without reading the body, and closes
    /// the connection.
    pub(super) fn poll_request(
        &mut self,
        admit: impl FnOnce(&ApiRequest, bool) -> Result<(), Response>,
    ) -> Option<ApiRequest> {
        if !self.is_receiving() {
            return None;
        }
        self.read_request(admit).unwrap_or_else(|refusal| {
            self.refuse(&refusal);
            None
        })
    }

    fn read_request(
        &mut self,
        admit: impl FnOnce(&ApiRequest, bool) -> Result<(), Response>,
    ) -> Result<Option<ApiRequest>, Response> {
        if self.incoming.is_none()
            && let Some(mut incoming) = self.read_head()?
        {
            incoming.request.peer.clone_from(&self.peer);
            admit(&incoming.request, incoming.body.is_some())?;
            // After `admit`: a refused client does not send its body (RFC 9110 §10.1.1).
            if incoming.expects_continue && incoming.body.is_some() {
                self.outgoing.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            (self.bodiless, self.last) = (incoming.is_head, incoming.is_last);
            self.incoming = Some(incoming);
        }
        let Some(Incoming { request, body, .. }) = &mut self.incoming else { return Ok(None) };
        if let Some(body) = body
            && !body.read(&mut self.received, &mut request.body)?
        {
            if self.received.len() >= LONGEST_HEAD {
                return Err(status::bad_request("a chunk's head is too long"));
            }
            return Ok(None);
        }
        self.phase = Phase::Answering;
        Ok(self.incoming.take().map(|incoming| incoming.request))
    }

    fn read_head(&mut self) -> Result<Option<Incoming>, Response> {
        if let Some((length, incoming)) = request::parse(&self.received)? {
            self.received.drain(..length);
            return Ok(Some(incoming));
        }
        if self.received.len() >= LONGEST_HEAD {
            let message = "the head of the request is too large";
            return Err(status::refused(431, "RequestHeaderFieldsTooLarge", message));
        }
        Ok(None)
    }

    /// Answers a request that is not read to its end, and closes the connection.
    fn refuse(&mut self, response: &Response) {
        // Bytes that follow must never be read as another request.
        self.received = Vec::new();
        (self.phase, self.bodiless, self.last) = (Phase::Answering, false, true);
        self.respond(response);
    }

    /// Answers the request that `poll_request` returned last.
    pub(super) fn respond(&mut self, response: &Response) {
        let mut fields = format!("content-length: {}\r\n", response.body.len());
        if let Some(seconds) = response.retry_after {
            fields += &format!("retry-after: {seconds}\r\n");
        }
        for warning in &response.warnings {
            // Escaped: a warning may quote text of the client, which must not break out of the header.
            fields += &format!("warning: 299 - \"{}\"\r\n", warning.escape_default());
        }
        self.write_head(response.status, &response.content_type, &fields);
        // Responses with these statuses have no body, whatever their headers are (RFC 9110 §6.4.1).
        if !self.bodiless && !matches!(response.status, 204 | 304) {
            self.outgoing.extend_from_slice(&response.body);
        }
        self.end();
    }

    /// Begins a chunked answer to the request that `poll_request` returned last. Returns false for a HEAD request,
    /// whose answer has no body.
    pub(super) fn respond_stream(&mut self, content_type: &str) -> bool {
        self.write_head(200, content_type, "transfer-encoding: chunked\r\n");
        self.phase = Phase::Streaming;
        if self.bodiless {
            self.end();
        }
        !self.bodiless
    }

    /// Appends a chunk to the body of the answer in progress.
    pub(super) fn write(&mut self, data: &[u8]) {
        // An empty chunk would end the body.
        if self.phase == Phase::Streaming && !data.is_empty() {
            self.outgoing.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            self.outgoing.extend_from_slice(data);
            self.outgoing.extend_from_slice(b"\r\n");
        }
    }

    /// Ends the chunked answer in progress. The connection then takes the next request, or closes if the client
    /// requested that.
    pub(super) fn finish(&mut self) {
        if self.phase == Phase::Streaming {
            self.outgoing.extend_from_slice(b"0\r\n\r\n");
            self.end();
        }
    }

    fn end(&mut self) {
        self.phase = if self.last { Phase::Closing } else { Phase::Receiving };
    }

    /// Writes the head of an answer: first the header fields that every answer has, then those in `fields`.
    fn write_head(&mut self, status: u16, content_type: &str, fields: &str) {
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let date = date(self.clock).map(|date| format!("date: {date}\r\n")).unwrap_or_default();
        let close = if self.last { "connection: close\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\ncache-control: no-cache, private\r\n\
             {date}{fields}{close}\r\n"
        );
        self.outgoing.extend_from_slice(head.as_bytes());
    }
}

/// Formats the value of a `Date` header (RFC 9110 §5.6.7). `None` for times before 1970 or after 9999.
fn date(at: UnixTime) -> Option<String> {
    const YEAR_10000: u64 = 253_402_300_800;
    let seconds = u64::try_from(at.as_secs()).ok().filter(|seconds| *seconds < YEAR_10000)?;
    Some(httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_part_of_a_long_answer_does_not_move_unsent_bytes() {
        let mut http = Http::default();
        http.outgoing.resize(1 << 20, 0);
        let begin = http.unsent().as_ptr();
        http.sent(16_000);
        assert_eq!(http.unsent().as_ptr(), begin.wrapping_add(16_000), "moving it each time takes quadratic time");
    }

    #[test]
    fn sent_bytes_of_a_long_answer_are_freed() {
        let mut http = Http::default();
        for round in 0..1000_u32 {
            http.outgoing.extend(std::iter::repeat_n(round as u8, 33_000));
            while http.unsent().len() > 16_000 {
                let before = http.unsent()[16_000..].to_vec();
                http.sent(16_000);
                assert_eq!(http.unsent(), before);
            }
            assert!(http.outgoing.capacity() < 200_000, "{} in round {round}", http.outgoing.capacity());
        }
    }
}
