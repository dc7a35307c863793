//! A server in memory that sends scripted bytes. The connection is real TLS, since the client does not connect without
//! TLS.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now};
use perennial_rotation::{Conversation, IoEvent, IoRequest};
use rustls::{ServerConfig, ServerConnection};

use super::super::text;
use crate::mint::EPOCH;

/// The most bytes of a response, or of a line of a watch, that the client reads before it gives up, even if the head of
/// the response states a greater length.
const LONGEST: usize = (4 << 20) + (256 << 10);
/// The number of steps after which a conversation counts as endless. Every run takes fewer steps, even if it gets its
/// bytes one by one.
const STEPS: usize = 4_000_000;

/// The scripted server's reply to a request, and how the connection goes on after the reply.
pub(super) struct Reply {
    pieces: Vec<Vec<u8>>,
    /// The pause before each piece.
    pause: Duration,
    end: End,
    /// True if the server repeats the last piece without end.
    flood: bool,
    /// True if the server refuses the next connection.
    refuses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The server keeps the connection open.
    Keep,
    /// The server sends `close_notify` and ends the stream.
    Close,
    /// The server ends the stream without `close_notify`.
    Cut,
    /// The client's next read fails: the connection was reset.
    Reset,
}

const STATUSES: [u16; 16] = [200, 201, 409, 404, 410, 403, 401, 429, 503, 500, 400, 408, 204, 304, 301, 101];

impl Reply {
    /// Decodes a reply. The first byte selects the framing, the pause before each piece and the end of the connection.
    /// The other bytes are the text of the reply.
    pub(super) fn decode(bytes: &[u8], words: &[Vec<u8>]) -> Self {
        let (how, rest) = text::first(bytes);
        let pieces = match how >> 2 & 3 {
            0 | 1 => {
                let (status, body) = text::first(rest);
                vec![whole(STATUSES[usize::from(status % 16)], &text::expand(body, words))]
            }
            2 => {
                let lines = text::expand(rest, words);
                let lines = lines.split_inclusive(|byte| *byte == b'\n').map(chunk);
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
                std::iter::once(head).chain(lines).collect()
            }
            _ => vec![text::expand(rest, words)],
        };
        Self {
            pieces,
            pause: Duration::from_millis([0, 100, 40_000, 700_000][usize::from(how >> 4 & 3)]),
            end: [End::Keep, End::Close, End::Cut, End::Reset][usize::from(how & 3)],
            flood: how & 0x8c == 0x8c,
            refuses: how & 0x40 != 0,
        }
    }

    /// The server's reply to each request after the last scripted reply: 503.
    fn busy() -> Self {
        let pieces = vec![whole(503, b"")];
        Self { pieces, pause: Duration::ZERO, end: End::Keep, flood: false, refuses: false }
    }
}

fn whole(status: u16, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn chunk(line: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", line.len()).as_bytes(), line, b"\r\n"].concat()
}

/// The server, the network in front of the server, and the time. Time passes only while the client waits and no bytes
/// are on their way to it.
pub(super) struct World<'a> {
    config: &'a Arc<ServerConfig>,
    replies: std::slice::Iter<'a, Reply>,
    /// The most bytes that the client gets in one read.
    portion: usize,
    pub(super) requests: Vec<String>,
    pub(super) elapsed: Duration,
    link: Option<Link>,
    unreachable: bool,
}

struct Link {
    tls: ServerConnection,
    plain: Vec<u8>,
    /// Pieces that are still to be sent, each with its time.
    later: VecDeque<(Instant, Vec<u8>)>,
    /// The piece that the server repeats without end once `later` is empty. Empty if the server repeats none.
    flood: Vec<u8>,
    /// The number of bytes sent since the last request.
    sent: usize,
    end: End,
    /// TLS bytes on their way to the client.
    wire: VecDeque<u8>,
    ended: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(config: &'a Arc<ServerConfig>, replies: &'a [Reply], portion: usize) -> Self {
        let (requests, elapsed) = (Vec::new(), Duration::ZERO);
        Self { config, replies: replies.iter(), portion, requests, elapsed, link: None, unreachable: false }
    }

    pub(super) fn now(&self) -> Now {
        Now { instant: Instant::from_millis(1000).after(self.elapsed), unix: EPOCH.after(self.elapsed) }
    }

    pub(super) fn run<C: Conversation>(&mut self, conversation: &mut C) -> C::Outcome {
        for _ in 0..STEPS {
            let input = match conversation.poll(self.now()) {
                IoRequest::Done(outcome) => {
                    assert!(self.link.is_none(), "the connection is closed before the end");
                    conversation.handle(IoEvent::Connected, self.now());
                    conversation.handle(IoEvent::Received(b"x"), self.now());
                    assert!(matches!(conversation.poll(self.now()), IoRequest::Wait { until: Instant::MAX }));
                    return outcome;
                }
                IoRequest::Connect { .. } => self.connect(),
                IoRequest::Transmit { bytes, .. } => match self.transmit(&bytes) {
                    true => continue,
                    false => IoEvent::Failed("broken pipe".to_owned()),
                },
                IoRequest::Receive { until } => match self.receive(until) {
                    Some(Ok(bytes)) => {
                        conversation.handle(IoEvent::Received(&bytes), self.now());
                        continue;
                    }
                    Some(Err(End::Reset)) => IoEvent::Failed("connection reset".to_owned()),
                    Some(Err(_)) => IoEvent::Ended,
                    None => continue,
                },
                IoRequest::Disconnect => {
                    self.link = None;
                    continue;
                }
                // A submission keeps a connection only if its cluster says so.
                IoRequest::Keep(_) | IoRequest::Reuse(_) => unreachable!("the cluster keeps no connections"),
                IoRequest::Wait { until } => {
                    assert!(until > self.now().instant && until < Instant::MAX, "a wait ends, and not at once");
                    self.pass(until);
                    continue;
                }
            };
            conversation.handle(input, self.now());
        }
        panic!("no end in sight after {:?}", self.requests);
    }

    fn pass(&mut self, until: Instant) {
        self.elapsed += until.since(self.now().instant);
    }

    fn connect(&mut self) -> IoEvent<'static> {
        assert!(self.link.is_none(), "the old connection is closed first");
        if std::mem::take(&mut self.unreachable) {
            return IoEvent::Failed("connection refused".to_owned());
        }
        self.link = Some(Link {
            tls: ServerConnection::new(Arc::clone(self.config)).expect("a usable configuration"),
            plain: Vec::new(),
            later: VecDeque::new(),
            flood: Vec::new(),
            sent: 0,
            end: End::Keep,
            wire: VecDeque::new(),
            ended: false,
        });
        IoEvent::Connected
    }

    /// Delivers bytes from the client to the server. Returns false if the connection has ended.
    fn transmit(&mut self, mut bytes: &[u8]) -> bool {
        let now = self.now().instant;
        let link = self.link.as_mut().expect("a connection to write to");
        if link.ended {
            return false;
        }
        while !bytes.is_empty() && link.tls.read_tls(&mut bytes).is_ok_and(|read| read > 0) {
            link.tls.process_new_packets().expect("the client speaks TLS");
            // The reader returns "would block" once there is no more plaintext.
            let _would_block = link.tls.reader().read_to_end(&mut link.plain);
        }
        while let Some(request) = take_request(&mut link.plain) {
            let busy = Reply::busy();
            let reply = self.replies.next().unwrap_or(&busy);
            self.requests.push(request);
            self.unreachable |= reply.refuses;
            let mut at = now;
            for piece in &reply.pieces {
                at = at.after(reply.pause);
                link.later.push_back((at, piece.clone()));
            }
            link.flood = reply.pieces.last().filter(|_| reply.flood).cloned().unwrap_or_default();
            (link.end, link.sent) = (reply.end, 0);
        }
        link.flush();
        true
    }

    /// Returns the next bytes for the client, or how the connection has ended. If there are no bytes now, lets time
    /// pass until the next piece is due, but at most to `until`, and returns `None`.
    fn receive(&mut self, until: Instant) -> Option<Result<Vec<u8>, End>> {
        let (now, is_watch) =
            (self.now().instant, self.requests.last().is_some_and(|line| line.contains("watch=true")));
        let link = self.link.as_mut().expect("a connection to read from");
        if link.wire.is_empty() {
            link.send_due(now);
            assert!(link.sent < LONGEST || is_watch && link.flood.contains(&b'\n'), "this was read for ever");
        }
        if !link.wire.is_empty() {
            let portion = if link.flood.is_empty() { self.portion } else { self.portion.max(16 << 10) };
            let length = portion.min(link.wire.len());
            return Some(Ok(link.wire.drain(..length).collect()));
        }
        if link.ended {
            return Some(Err(link.end));
        }
        let next = link.later.front().map_or(until, |(at, _)| *at).min(until);
        self.pass(next);
        None
    }
}

impl Link {
    /// Sends the pieces that are due. Once the last piece is sent, sends the bytes to repeat if there are any, or else
    /// ends the connection as the reply demands.
    fn send_due(&mut self, now: Instant) {
        while self.later.front().is_some_and(|(at, _)| *at <= now) {
            let piece = self.later.pop_front().map_or_else(Vec::new, |(_, piece)| piece);
            self.send(&piece);
        }
        if !self.later.is_empty() || self.ended {
            return;
        }
        if !self.flood.is_empty() && self.sent < LONGEST + (64 << 10) {
            let times = 1 + (16 << 10) / self.flood.len();
            let flood = self.flood.repeat(times);
            return self.send(&flood);
        }
        if self.end == End::Close {
            self.tls.send_close_notify();
            self.flush();
        }
        self.ended = self.end != End::Keep;
    }

    fn send(&mut self, piece: &[u8]) {
        self.sent += piece.len();
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = self.tls.writer().write(rest).expect("a connection in order");
            rest = &rest[taken..];
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("room in a Vec");
        }
        self.wire.extend(bytes);
    }
}

/// Removes the next request from `plain` and returns its first line; `None` while the request is incomplete.
fn take_request(plain: &mut Vec<u8>) -> Option<String> {
    let end = plain.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(plain[..end].to_vec()).expect("a head is text");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
    if plain.len() < end + length {
        return None;
    }
    plain.drain(..end + length);
    head.lines().next().map(str::to_owned)
}
