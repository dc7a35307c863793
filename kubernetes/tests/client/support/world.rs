//! A scripted server behind real TLS, and a runtime in virtual time.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now, UnixTime};
use perennial_kubernetes::client::Issuance;
use perennial_rotation::{Conversation, IoEvent, IoRequest, SignError};
use rustls::{ServerConfig, ServerConnection};

use super::{Ca, EPOCH, End, ReceivedRequest, Reply, server_config};

type Script<'a> = Box<dyn FnMut(&ReceivedRequest) -> Reply + 'a>;

/// The scripted server, the network in front of it, and the clocks.
pub(crate) struct World<'a> {
    pub(crate) script: Script<'a>,
    pub(crate) config: Arc<ServerConfig>,
    /// All HTTP requests that the server has received, in order.
    pub(crate) requests: Vec<ReceivedRequest>,
    pub(crate) steps: Vec<String>,
    pub(crate) now: Now,
    /// Chooses the number of bytes that a read returns, given the number available.
    pub(crate) portion: Box<dyn FnMut(usize) -> usize + 'a>,
    /// Returns whether the n-th connection, counted from 1, can be made.
    pub(crate) reachable: Box<dyn FnMut(usize) -> bool + 'a>,
    /// The bytes that the server sends instead of TLS; `None` for TLS.
    pub(crate) not_tls: Option<Vec<u8>>,
    /// The transmission of the client that is reported as failed although its bytes arrive: its number, counted from 1,
    /// or 0 for none.
    pub(crate) broken_transmit: usize,
    /// The number of further bytes that reach the client unaltered before one byte is altered. `None` after the altered
    /// byte, or if no byte is to be altered.
    pub(crate) damaged_byte: Option<usize>,
    /// True if the server closes the next connection that the client reuses. False again afterwards.
    pub(crate) closes_kept: bool,
    transmits: usize,
    connections: usize,
    link: Option<Link>,
}

struct Link {
    /// The number of the connection, counted from 1.
    connection: usize,
    tls: ServerConnection,
    plain: Vec<u8>,
    nth: usize,
    /// The plaintext that the server is still to send, each piece with its time.
    later: VecDeque<(Instant, Vec<u8>)>,
    end: End,
    /// The ciphertext on its way to the client.
    wire: VecDeque<u8>,
    ended: bool,
}

impl<'a> World<'a> {
    pub(crate) fn new(ca: &Ca, script: impl FnMut(&ReceivedRequest) -> Reply + 'a) -> Self {
        Self {
            script: Box::new(script),
            config: server_config(ca, None, "api.example"),
            requests: Vec::new(),
            steps: Vec::new(),
            now: Now { instant: Instant::from_millis(1000), unix: UnixTime::from_secs(EPOCH) },
            portion: Box::new(|length| length),
            reachable: Box::new(|_| true),
            not_tls: None,
            broken_transmit: 0,
            damaged_byte: None,
            closes_kept: false,
            transmits: 0,
            connections: 0,
            link: None,
        }
    }

    pub(crate) fn portions(mut self, portion: impl FnMut(usize) -> usize + 'a) -> Self {
        self.portion = Box::new(portion);
        self
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests
            .iter()
            .map(|request| {
                request.line.split('?').next().unwrap().to_owned() + if request.is_watch() { "?watch" } else { "" }
            })
            .collect()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now.instant.since(Instant::from_millis(1000))
    }

    /// Runs a submission. Returns the facts by which two submissions are compared: the outcome (the number of HTTP requests,
    /// or the error), the lines of the HTTP requests, and the duration.
    pub(crate) fn summary(mut self, mut issuance: Issuance) -> (Result<u32, SignError>, Vec<String>, Duration) {
        let outcome = self.run(&mut issuance);
        (outcome.map(|issued| issued.requests), self.lines(), self.elapsed())
    }

    /// Runs `conversation` to its end. Time passes only when nothing else can happen.
    pub(crate) fn run<C: Conversation + ?Sized>(&mut self, conversation: &mut C) -> C::Outcome {
        for _ in 0..2_000_000 {
            let step = conversation.poll(self.now);
            let input = match step {
                IoRequest::Done(outcome) => return outcome,
                IoRequest::Connect { host, port, .. } => {
                    self.steps.push(format!("connect {host} {port}"));
                    assert!(self.link.is_none(), "the old connection is closed first");
                    self.connect()
                }
                IoRequest::Transmit { bytes, .. } => {
                    self.steps.push("transmit".to_owned());
                    self.transmits += 1;
                    let broken = self.link.as_ref().expect("transmit without a connection").ended;
                    if !broken {
                        self.transmit(&bytes);
                    }
                    if broken || self.transmits == self.broken_transmit {
                        IoEvent::Failed("broken pipe".to_owned())
                    } else {
                        continue;
                    }
                }
                IoRequest::Receive { until } => match self.receive(until) {
                    Some(bytes) if bytes.is_empty() => {
                        match self.link.as_ref().is_some_and(|link| link.end == End::Reset) {
                            true => IoEvent::Failed("connection reset".to_owned()),
                            false => IoEvent::Ended,
                        }
                    }
                    Some(bytes) => {
                        conversation.handle(IoEvent::Received(&bytes), self.now);
                        continue;
                    }
                    None => continue,
                },
                IoRequest::Disconnect => {
                    self.steps.push("disconnect".to_owned());
                    self.link = None;
                    continue;
                }
                IoRequest::Keep(kept) => {
                    self.steps.push("keep".to_owned());
                    kept.put(self.link.take().expect("keep without a connection"));
                    continue;
                }
                IoRequest::Reuse(kept) => {
                    self.steps.push("reuse".to_owned());
                    assert!(self.link.is_none(), "the old connection is closed first");
                    self.link = kept.take();
                    match &mut self.link {
                        Some(link) => {
                            link.ended |= std::mem::take(&mut self.closes_kept);
                            IoEvent::Connected
                        }
                        None => IoEvent::Failed("no connection is kept".to_owned()),
                    }
                }
                IoRequest::Wait { until } => {
                    assert!(until > self.now.instant && until < Instant::MAX, "a wait must end, and not at once");
                    self.steps.push(format!("wait {:?}", until.since(self.now.instant)));
                    self.pass(until);
                    continue;
                }
            };
            conversation.handle(input, self.now);
        }
        panic!("no end in sight: {:?}", self.lines());
    }

    fn connect(&mut self) -> IoEvent<'static> {
        self.connections += 1;
        if !(self.reachable)(self.connections) {
            return IoEvent::Failed("connection refused".to_owned());
        }
        self.link = Some(Link {
            connection: self.connections,
            tls: ServerConnection::new(Arc::clone(&self.config)).unwrap(),
            plain: Vec::new(),
            nth: 0,
            later: VecDeque::new(),
            end: End::Keep,
            wire: self.not_tls.clone().unwrap_or_default().into(),
            ended: false,
        });
        IoEvent::Connected
    }

    fn transmit(&mut self, mut bytes: &[u8]) {
        let link = self.link.as_mut().unwrap();
        if self.not_tls.is_some() {
            link.ended = true;
            return;
        }
        while !bytes.is_empty() {
            if link.tls.read_tls(&mut bytes).unwrap() == 0 {
                break;
            }
            if link.tls.process_new_packets().is_err() {
                // Sends the alert before closing.
                link.flush();
                link.ended = true;
                return;
            }
            let _ = link.tls.reader().read_to_end(&mut link.plain);
        }
        while let Some(mut request) = take_request(&mut link.plain) {
            link.nth += 1;
            (request.connection, request.nth) = (link.connection, link.nth);
            let reply = (self.script)(&request);
            self.requests.push(request);
            let mut at = self.now.instant;
            for (pause, bytes) in reply.pieces {
                at = at.after(pause);
                link.later.push_back((at, bytes));
            }
            link.end = reply.end;
        }
        link.catch_up(self.now.instant);
    }

    /// The bytes that the client reads next; empty at the end of the connection. If no bytes have arrived yet, returns
    /// `None`, and time advances to the arrival of the next bytes, or to `until` if that is earlier.
    fn receive(&mut self, until: Instant) -> Option<Vec<u8>> {
        let link = self.link.as_mut().expect("receive without a connection");
        link.catch_up(self.now.instant);
        if !link.wire.is_empty() {
            let length = (self.portion)(link.wire.len()).clamp(1, link.wire.len());
            let mut bytes: Vec<u8> = link.wire.drain(..length).collect();
            self.damaged_byte = match self.damaged_byte {
                Some(at) if at < length => {
                    bytes[at] ^= 0x10;
                    None
                }
                at => at.map(|at| at - length),
            };
            return Some(bytes);
        }
        if link.ended {
            return Some(Vec::new());
        }
        let next = link.later.front().map_or(until, |(at, _)| *at).min(until);
        self.pass(next);
        None
    }

    fn pass(&mut self, until: Instant) {
        let span = until.since(self.now.instant);
        self.now = Now { instant: until.max(self.now.instant), unix: self.now.unix.after(span) };
    }
}

impl Link {
    fn catch_up(&mut self, now: Instant) {
        while self.later.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = self.later.pop_front().unwrap();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let taken = self.tls.writer().write(rest).unwrap();
                rest = &rest[taken..];
                self.flush();
            }
        }
        if self.later.is_empty() && self.end != End::Keep && !self.ended {
            if self.end == End::Close {
                self.tls.send_close_notify();
            }
            self.flush();
            self.ended = true;
        }
        self.flush();
    }

    fn flush(&mut self) {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        self.wire.extend(bytes);
    }
}

fn take_request(plain: &mut Vec<u8>) -> Option<ReceivedRequest> {
    let end = plain.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(plain[..end].to_vec()).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.trim().parse::<usize>().unwrap());
    if plain.len() < end + length {
        return None;
    }
    plain.drain(..end);
    let body = plain.drain(..length).collect();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    Some(ReceivedRequest { line, head, body, connection: 0, nth: 0 })
}
