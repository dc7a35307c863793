//! A connection glued to the API: whoever has a socket only moves bytes.

use std::time::Duration;

use perennial::{Instant, Now};

use super::api::Api;
use super::connection::{Connection, Tls, TlsError};
use super::message::Answer;
use super::watch::{Next, Watcher};

/// A client may be silent for this long between requests, take this long to send one, or to read what it is sent.
const PATIENCE: Duration = Duration::from_secs(120);
/// A watch is fed no further, and no request is answered, while this much is unsent.
const HIGH_WATER: usize = 64 * 1024;

/// One client's session with the [`Api`].
///
/// ```text
/// loop { session.receive(bytes); session.drive(&mut api, now); session.transmit(&mut out); }
/// ```
///
/// until [`Session::is_closed`]. Drive it after bytes came or went, at its [`deadline`](Session::deadline), and, while
/// it [is watching](Session::is_watching), when [`Api::version`] has changed.
pub struct Session {
    connection: Connection,
    watch: Option<(Watcher, Instant)>,
    /// When something last happened that shows the client is alive.
    active: Instant,
    closed: bool,
}

impl Session {
    /// A session with a client that has just connected.
    ///
    /// # Errors
    /// [`TlsError`] if the configuration cannot be used.
    pub fn new(tls: &Tls, now: Instant) -> Result<Self, TlsError> {
        Ok(Self { connection: Connection::new(tls)?, watch: None, active: now, closed: false })
    }

    /// Takes bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.connection.receive(bytes);
    }

    /// The client has closed its sending side.
    pub fn receive_eof(&mut self) {
        self.connection.receive_eof();
    }

    /// Whether to read from the client. If not, leave the bytes where they are: the client is ahead of its answers.
    pub fn wants_read(&self) -> bool {
        !self.closed && self.connection.wants_read()
    }

    /// Answers requests, feeds watches, notices deadlines.
    pub fn drive(&mut self, api: &mut Api, now: Now) {
        if self.closed {
            return;
        }
        if self.connection.is_deaf() && self.watch.take().is_some() {
            self.connection.finish();
        }
        loop {
            if self.watch.is_some() {
                self.feed(api, now);
            }
            // Answers that nobody reads must not pile up.
            if self.connection.unsent() >= HIGH_WATER {
                break;
            }
            let Some(request) = self.connection.poll_request() else { break };
            self.active = now.instant;
            match api.handle(&request, now.unix) {
                Answer::Response(response) => self.connection.respond(&response),
                Answer::Watch(watcher) => {
                    // A watch that knows its beginning tells the client so at once: the head goes out now.
                    let streams = self.connection.respond_stream("application/json");
                    let end = now.instant.after(watcher.timeout());
                    self.watch = streams.then_some((watcher, end));
                }
            }
        }
        let abandoned = self.connection.is_deaf() && self.connection.is_receiving() && self.connection.unsent() == 0;
        self.closed = abandoned || now.instant >= self.deadline();
    }

    fn feed(&mut self, api: &Api, now: Now) {
        let Some((watcher, end)) = &mut self.watch else { return };
        while self.connection.unsent() < HIGH_WATER {
            match api.next_event(watcher, now.unix) {
                Next::Event(line) => self.connection.write(&line),
                Next::Pending if now.instant < *end => return,
                Next::Pending | Next::End => {
                    self.connection.finish();
                    self.watch = None;
                    self.active = now.instant;
                    return;
                }
            }
        }
    }

    /// Appends bytes for the client to `out`, about 64 KiB at most. Call it when what was taken before has been sent.
    pub fn transmit(&mut self, out: &mut Vec<u8>, now: Instant) {
        let before = out.len();
        self.connection.transmit(out);
        if out.len() > before {
            self.active = now;
        }
        self.closed |= self.connection.is_done();
    }

    /// Whether changes of the API concern this session.
    pub fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// When to drive the session even if nothing happens.
    pub fn deadline(&self) -> Instant {
        let patience = self.active.after(PATIENCE);
        match &self.watch {
            // A quiet watch is no sign of death, unread events are.
            Some((_, end)) if self.connection.unsent() == 0 => *end,
            Some((_, end)) => patience.min(*end),
            None => patience,
        }
    }

    /// Whether to close the socket, once what was transmitted is sent.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}
