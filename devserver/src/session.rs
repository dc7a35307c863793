//! One client of the [`Api`], without a socket: the owner of the socket moves bytes to and from a [`Session`].

mod connection;
mod http;

use std::time::Duration;

use perennial::{Instant, Now};

use crate::api::faults::{self, ConnectionFault, EventFaultState, Fault};
use crate::api::message::{Answer, ApiRequest, Response};
use crate::api::status;
use crate::api::watch::Next;
use crate::api::{Api, Stream};
use crate::tls::{Tls, TlsError};
use connection::Connection;

/// Time limit of the TLS handshake. The limit is short, since a client without a credential counts toward the limit of
/// clients, too.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Time after which an inactive session ends. Activity is a complete request, a sent byte, or the end of a list or
/// watch. A watch whose events are all sent may be inactive for longer.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// Time that a client has to read a list. In a cluster, every answer has such a limit (`--request-timeout` of
/// kube-apiserver).
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// Limit of unsent bytes. At the limit, lists and watches get no further data, and no further request is answered.
const HIGH_WATER: usize = 16 * 1024;

/// One client's session with the [`Api`]. The owner of the client's socket runs this loop until [`Session::is_closed`]:
///
/// ```text
/// loop { session.receive(bytes); session.drive(&mut api, now); session.transmit(&mut out, now.instant); }
/// ```
///
/// Drive the session whenever bytes were received or transmitted, and at its [`deadline`](Session::deadline). While the
/// session [is watching](Session::is_watching), also drive it when [`Api::version`] has changed.
pub struct Session {
    connection: Connection,
    /// The list or watch that is being sent, and the time at which it ends at the latest.
    stream: Option<(Stream, Instant)>,
    /// Time of the next bookmark of the watch; `None` if no bookmark is to be sent.
    bookmark: Option<Instant>,
    /// True if the session refuses every request, since the server has too many clients.
    turned_away: bool,
    /// True once a request has shown a credential that the API authenticates.
    authenticated: bool,
    /// Time of the last activity: a request, sent bytes, or the end of an answer.
    last_activity: Instant,
    closed: bool,
    /// TLS configuration of the connection; `None` after the first `drive`, which may replace the connection by one
    /// whose server certificate has a fault.
    initial_tls: Option<Tls>,
    breaks: Option<Break>,
    /// The fault that the plan of faults gives to the current answer; `None` for an answer without fault.
    fault: Option<Fault>,
    event_fault: EventFaultState,
    /// Time until which a fault delays bytes to the client.
    held_until: Option<Instant>,
}

/// A fault below TLS, for the owner of the socket to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Refuse the connection, as a closed port does. On a socket the connection is accepted already:
    /// [`ApiServer`](crate::ApiServer) resets it as for `Reset`.
    Refused,
    /// Once bytes of the client have arrived, close the socket without reading them, which resets the connection.
    Reset,
    /// Reset the connection once the bytes from [`Session::transmit`] are sent.
    Midway,
}

impl Session {
    /// A session with a client that has just connected.
    ///
    /// # Errors
    /// [`TlsError`] if the configuration cannot be used.
    pub fn new(tls: &Tls, now: Instant) -> Result<Self, TlsError> {
        Ok(Self {
            connection: Connection::new(tls)?,
            stream: None,
            bookmark: None,
            turned_away: false,
            authenticated: false,
            last_activity: now,
            closed: false,
            initial_tls: Some(tls.clone()),
            breaks: None,
            fault: None,
            event_fault: EventFaultState::default(),
            held_until: None,
        })
    }

    /// Answers the first request with 429 and `Retry-After`, and closes the connection.
    pub fn turn_away(&mut self) {
        self.turned_away = true;
    }

    /// Takes bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.connection.receive(bytes);
    }

    /// Reports that the client has closed its sending side.
    pub fn receive_eof(&mut self) {
        self.connection.done_reading = true;
    }

    /// True if bytes of the client should be read now. If false, leave the bytes in the socket: either the client sends
    /// requests without reading the answers, or the session serves no more requests.
    pub fn wants_read(&self) -> bool {
        !self.closed && self.connection.wants_read()
    }

    /// Answers requests, continues lists and watches, and applies deadlines.
    pub fn drive(&mut self, api: &mut Api, now: Now) {
        if let Some(tls) = self.initial_tls.take() {
            self.apply_connection_fault(&tls, api, now);
        }
        if self.closed {
            return;
        }
        self.connection.http.clock = now.unix;
        // A time in the past would keep `deadline` in the past.
        self.held_until = self.held_until.filter(|until| *until > now.instant);
        if self.stream.as_mut().is_some_and(|(stream, _)| api.release_forgotten(stream)) {
            self.stream = None;
            // Ends the connection in the middle of the answer, so that the client notices the loss.
            self.connection.delivery.allowance = Some(self.connection.unsent().len());
        }
        // A client that has closed its sending side may still read an answer. A watch would never end, so end it now.
        if self.connection.done_reading && matches!(self.stream, Some((Stream::Watch(_), _))) {
            self.end_stream(now);
        }
        let turned_away = self.turned_away;
        let answered = loop {
            if self.stream.is_some() {
                self.continue_stream(api, now);
            }
            // Unread answers must not accumulate.
            if self.connection.unsent().len() >= HIGH_WATER {
                break false;
            }
            // The body of a request without a known credential is not read.
            let admit = |request: &ApiRequest, has_body: bool| match has_body {
                _ if turned_away => Err(status::too_many_clients()),
                true if !api.authenticates(request, now.unix) => Err(status::unauthorized()),
                true | false => Ok(()),
            };
            let Some(request) = self.connection.http.poll_request(admit) else { break self.stream.is_none() };
            self.last_activity = now.instant;
            self.authenticated |= api.authenticates(&request, now.unix);
            self.serve(&request, api, now);
        };
        if answered && self.connection.done_reading {
            self.connection.concluded = true;
        }
        // Close now, not only at the deadline: the client sends no more bytes, no request is complete, and all answers
        // are sent.
        let abandoned =
            self.connection.done_reading && self.connection.http.is_receiving() && self.connection.unsent().is_empty();
        self.closed = abandoned || now.instant >= self.end();
    }

    fn serve(&mut self, request: &ApiRequest, api: &mut Api, now: Now) {
        self.fault = api.fault_of_request(request, now.unix);
        self.event_fault = EventFaultState::default();
        self.connection.delivery.bytewise = matches!(self.fault, Some(Fault::Trickle(_)));
        match &self.fault {
            // `Http` still waits for the answer, so that it reads no further request.
            Some(Fault::Silence) => return,
            Some(Fault::Answer(answer)) => return self.connection.http.respond(&faults::canned(answer)),
            Some(Fault::Garbage) => return self.connection.delivery.replacement = Some(faults::GARBAGE.to_vec()),
            Some(Fault::Oversized(part)) => {
                return self.connection.delivery.replacement = Some(faults::oversized(*part));
            }
            Some(Fault::YoungCache) => {
                // So that the cache begins after every version that the client can have.
                api.write_elsewhere();
                api.restart_watch_cache();
            }
            Some(Fault::Delay(delay)) => {
                // The wait for the delayed answer is no silence of the client.
                self.last_activity = now.instant.after(*delay);
                self.held_until = Some(self.last_activity);
            }
            _ => {}
        }
        match api.handle(request, now.unix) {
            Answer::Response(response) => self.answer(response, api, now),
            // Faults change or cut complete answers, so that the list is written at once.
            Answer::List(listing) if self.fault.is_some() => self.answer(listing.into_response(), api, now),
            Answer::List(listing) => {
                self.begin_stream(Stream::List(listing), "application/json", now.instant.after(LIST_LIMIT))
            }
            Answer::Watch(watcher) => {
                let media = match &self.fault {
                    Some(Fault::ContentType(media)) => media.clone(),
                    _ => "application/json".into(),
                };
                // The head is sent at once: a client waits for it before it counts the watch as established.
                let end = now.instant.after(watcher.timeout());
                self.begin_stream(Stream::Watch(watcher), &media, end);
                self.apply_cut();
            }
        }
    }

    fn begin_stream(&mut self, stream: Stream, media: &str, end: Instant) {
        // Nothing to stream in answer to HEAD.
        let has_body = self.connection.http.respond_stream(media);
        self.stream = has_body.then_some((stream, end));
    }

    fn answer(&mut self, mut response: Response, api: &mut Api, now: Now) {
        let Some(fault) = &self.fault else { return self.connection.http.respond(&response) };
        if let Some(body) = faults::spoil_answer(fault, api, &response.body, now.unix) {
            response.body = body;
        }
        if let Fault::ContentType(media) = fault {
            response.content_type = media.clone().into();
        }
        self.connection.http.respond(&response);
        self.apply_cut();
    }

    /// Applies [`Fault::Cut`] or [`Fault::Reset`] once the unsent bytes reach the point at which the fault ends the
    /// answer.
    fn apply_cut(&mut self) {
        if let Some(Fault::Cut(at) | Fault::Reset(at)) = self.fault {
            let Connection { delivery, http, .. } = &mut self.connection;
            delivery.cut(at, http.unsent());
        }
    }

    /// Applies the fault that the plan gives to this connection, if there is one.
    fn apply_connection_fault(&mut self, tls: &Tls, api: &mut Api, now: Now) {
        let Some(fault) = api.fault_of_connection(now.unix) else { return };
        self.breaks = match fault {
            ConnectionFault::Refused => Some(Break::Refused),
            ConnectionFault::Reset => Some(Break::Reset),
            _ => None,
        };
        match faults::faulty_tls(fault, api, tls, now.unix).and_then(|tls| Connection::new(&tls).ok()) {
            Some(connection) => self.connection = connection,
            None => self.connection.bypass_tls(faults::raw_reply(fault)),
        }
    }

    fn continue_stream(&mut self, api: &mut Api, now: Now) {
        self.bookmark = None;
        while self.connection.unsent().len() < HIGH_WATER {
            let Some((stream, end)) = &mut self.stream else { return };
            let over = now.instant >= *end;
            match stream {
                Stream::List(listing) => match listing.next() {
                    Some(piece) => self.connection.http.write(&piece),
                    None => self.end_stream(now),
                },
                Stream::Watch(watcher) => match api.next_event(watcher, now.unix) {
                    // Even after the end: the client's next watch continues after these events.
                    Next::Event(line) => self.send_event(line, api, now),
                    Next::Pending if !over => {
                        // Bookmarks are due by the wall clock, a session's deadlines by the monotonic clock.
                        self.bookmark = watcher.deadline().map(|at| now.instant.after(at.since(now.unix)));
                        return;
                    }
                    Next::Pending | Next::End => self.end_stream(now),
                },
            }
        }
    }

    fn send_event(&mut self, line: Vec<u8>, api: &mut Api, now: Now) {
        let Some(fault) = &self.fault else { return self.connection.http.write(&line) };
        let (lines, ends) = self.event_fault.spoil(fault, api, line, now.unix);
        lines.iter().for_each(|line| self.connection.http.write(line));
        self.apply_cut();
        if ends {
            self.end_stream(now);
        }
    }

    fn end_stream(&mut self, now: Now) {
        self.connection.http.finish();
        self.stream = None;
        self.last_activity = now.instant;
    }

    /// The fault to carry out below TLS, if there is one. Set by the first [`drive`](Session::drive) or, for
    /// [`Break::Midway`], by the last [`transmit`](Session::transmit).
    pub fn breaks(&self) -> Option<Break> {
        self.breaks
    }

    /// Appends bytes for the client to `out`, about 16 KiB at most. Call this once the previous bytes have been sent.
    pub fn transmit(&mut self, out: &mut Vec<u8>, now: Instant) {
        if self.held_until.is_some_and(|until| now < until) {
            return;
        }
        let before = out.len();
        self.connection.transmit(out);
        if out.len() > before {
            self.last_activity = now;
            if let Some(Fault::Trickle(pause)) = self.fault {
                self.held_until = Some(now.after(pause));
            }
        }
        if self.connection.is_done() {
            self.closed = true;
            // Only now: the bytes before the reset have been transmitted.
            if let Some(Fault::Reset(_)) = self.fault {
                self.breaks = Some(Break::Midway);
            }
        }
    }

    /// True once a request has shown a credential that the API authenticates. At its limit of clients,
    /// [`ApiServer`](crate::ApiServer) closes only connections without such a request.
    pub fn is_known(&self) -> bool {
        self.authenticated
    }

    /// True if a list or watch is in progress: drive the session when the API has changed.
    pub fn is_watching(&self) -> bool {
        self.stream.is_some()
    }

    /// Time to drive the session again if no bytes are received or transmitted before.
    pub fn deadline(&self) -> Instant {
        [self.held_until, self.bookmark].into_iter().flatten().fold(self.end(), Instant::min)
    }

    /// Time at which the session ends unless there is activity before.
    fn end(&self) -> Instant {
        let idle_end =
            self.last_activity.after(if self.connection.is_handshaking() { HANDSHAKE_LIMIT } else { IDLE_LIMIT });
        match &self.stream {
            // An idle watch may last to its end; a client that does not read events is dropped after `IDLE_LIMIT`.
            Some((Stream::Watch(_), end)) if self.connection.unsent().is_empty() => *end,
            Some((_, end)) => idle_end.min(*end),
            None => idle_end,
        }
    }

    /// True if the owner should close the socket once the bytes from [`Session::transmit`] are sent.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}
