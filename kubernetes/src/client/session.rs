//! HTTP requests to one API server with one identity, over a connection that is kept alive between them.

mod open;

use std::sync::Arc;
use std::time::Duration;

use open::{Open, Operation};
use perennial::{Instant, Now};

use super::connections::{Connections, is_same};
use super::echo::hide_token;
use super::exchange::Exchange;
use super::exchange_error::ExchangeError;
use super::head::Head;
use super::health::health;
use super::http::{Part, Request};
use super::limits::Limits;
use super::response::{Event, Response};
use super::trust::trusted_roots;
use crate::cluster::{Cluster, printable};
use perennial_rotation::{Health, Identity, IoEvent, IoRequest, KeptConnection, ServerDate};

/// The longest body of an answer that is not a stream, in bytes.
const LONGEST_BODY: usize = 4 << 20;
/// Time limit for reading the server's alert or answer after a failed write, and for writing the last bytes before
/// closing.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a kept connection is read before it is used. Bytes that have arrived are read at once.
const CHECK: Duration = Duration::from_millis(1);
/// The longest pause once the certificate to be replaced has expired.
const URGENT: Duration = Duration::from_secs(120);

/// A series of HTTP requests to one API server, over one connection at a time.
#[derive(derive_more::Debug)]
#[debug("Session({cluster:?}, {identity:?})")]
pub(crate) struct Session {
    cluster: Arc<Cluster>,
    identity: Identity,
    limits: Limits,
    /// The idle connections of the cluster, if the session may use and keep them.
    shared: Option<Arc<Connections>>,
    /// True once a kept connection turned out to be dead: the session opens a new one then.
    kept_was_dead: bool,
    link: Link,
    current: Option<CurrentRequest>,
    requests: u32,
    health: Option<Health>,
    /// The `Date` of the current answer.
    date: Option<ServerDate>,
}

/// The current HTTP request, kept to be repeated if its connection turns out to be dead.
struct CurrentRequest {
    request: Request,
    /// How long a stream may last; `None` if the request is for no stream.
    stream: Option<Duration>,
    answer: Option<Response>,
}

/// The TCP connection of a session.
enum Link {
    Down,
    Open(Box<Open>),
    /// The bytes to write before the connection is closed.
    Closing(Vec<u8>),
    /// The driver is to set the connection aside. Contains the place for it once the driver has been asked.
    Keeping(Box<Exchange>, Option<KeptConnection>),
}

impl Session {
    pub(crate) const fn new(cluster: Arc<Cluster>, identity: Identity, limits: Limits) -> Self {
        let (shared, kept_was_dead, link, current) = (None, false, Link::Down, None);
        Self { cluster, identity, limits, shared, kept_was_dead, link, current, requests: 0, health: None, date: None }
    }

    /// Lets the session use and keep idle connections, if its cluster keeps any.
    pub(crate) fn share(&mut self) {
        self.shared = self.cluster.connections().cloned();
    }

    /// True if the session may use and keep idle connections.
    pub(crate) const fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Authenticates the requests to come as `identity`. Closes the connection if it was opened with another identity.
    pub(crate) fn authenticate(&mut self, identity: Identity) {
        if !is_same(&self.identity, &identity) {
            self.close();
            self.identity = identity;
        }
    }

    /// The number of HTTP requests begun so far.
    pub(crate) const fn requests(&self) -> u32 {
        self.requests
    }

    /// The health of the server, by the last event that shows it; `None` before the first such event.
    pub(crate) const fn health(&self) -> Option<Health> {
        self.health
    }

    /// True once the session has made as many requests as [`Limits::requests`] allows.
    pub(crate) const fn exhausted(&self) -> bool {
        self.requests >= self.limits.requests
    }

    /// The end of a pause of length `wanted` that begins at `now`. [`Limits::needed_by`] may shorten the pause.
    pub(crate) fn after_pause(&self, wanted: Duration, now: Instant) -> Instant {
        let left = self.limits.needed_by.since(now);
        let longest = if left.is_zero() { URGENT } else { (left / 2).max(Duration::from_secs(1)) };
        now.after(wanted.min(longest))
    }

    /// True unless a TCP connection is established. True also while the previous connection is being closed.
    pub(crate) const fn connecting(&self) -> bool {
        match &self.link {
            Link::Down | Link::Closing(_) => true,
            Link::Open(open) => open.operation.is_opening(),
            Link::Keeping(..) => false,
        }
    }

    /// Begins an HTTP request. `stream` is how long the answer may last as a stream; `None` if the request is for no
    /// stream.
    pub(crate) fn send(&mut self, request: Request, stream: Option<Duration>, now: Now) {
        self.requests += 1;
        if let Link::Open(open) = &mut self.link {
            open.exchange.send(&request, &self.cluster, &self.identity);
            (open.until, open.reused) = (now.instant.after(self.limits.answer), true);
        }
        self.current = Some(CurrentRequest { request, stream, answer: None });
    }

    /// Keeps the connection for another session, if it can be used again. Otherwise closes it, as
    /// [`close`](Self::close) does.
    pub(crate) fn keep(&mut self) {
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Open(open) if self.shared.is_some() && self.current.is_none() && open.exchange.is_idle() => {
                self.link = Link::Keeping(Box::new(open.exchange), None);
            }
            link => {
                self.link = link;
                self.close();
            }
        }
    }

    /// Closes all kept connections of the session's identity, which the server has refused.
    pub(crate) fn forget_kept(&self) {
        self.shared.iter().for_each(|shared| shared.forget(&self.identity));
    }

    /// Drops the current request and closes the connection.
    pub(crate) fn close(&mut self) {
        self.current = None;
        self.hang_up();
    }

    /// Drops the current request, if there is one, and closes the connection. Without a current request, the idle
    /// connection stays open.
    pub(crate) fn stop(&mut self) {
        if self.current.is_some() {
            self.close();
        }
    }

    /// Closes the connection after its last bytes, such as a close_notify, are written.
    fn hang_up(&mut self) {
        self.link = match std::mem::replace(&mut self.link, Link::Down) {
            link @ (Link::Down | Link::Closing(_) | Link::Keeping(..)) => link,
            Link::Open(open) => Link::Closing(match open.operation {
                // There is no TLS yet, or writing has already failed.
                Operation::Connecting | Operation::Reusing(_) | Operation::Listening(_) => Vec::new(),
                Operation::Checking | Operation::Writing | Operation::Reading => open.exchange.close(),
            }),
        };
    }

    /// Handles the runtime's result of the last command. Ignores a result that does not fit that command.
    pub(crate) fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        let Link::Open(open) = &mut self.link else { return };
        match (&open.operation, input) {
            (Operation::Connecting, IoEvent::Connected) => self.begin(now),
            (Operation::Reusing(_), IoEvent::Connected) => {
                (open.operation, open.until) = (Operation::Checking, now.instant.after(CHECK));
            }
            (Operation::Connecting, IoEvent::Failed(why)) => open.exchange.fail(match self.cluster.proxy() {
                Some(proxy) => ExchangeError::Proxy(format!("cannot connect to the proxy {proxy}: {why}")),
                None => ExchangeError::Connect(why),
            }),
            // The next kept connection, or a new one.
            (Operation::Reusing(_), IoEvent::Failed(_)) => self.link = Link::Down,
            // A server that refuses a request may close before it has read all of it: its alert or answer is the
            // reason.
            (Operation::Writing, IoEvent::Failed(why)) => {
                open.operation = Operation::Listening(why);
                open.until = open.until.min(now.instant.after(LAST_WORDS));
            }
            (Operation::Checking | Operation::Reading | Operation::Listening(_), IoEvent::Failed(why)) => {
                open.exchange.fail(ExchangeError::Broken(why));
            }
            (Operation::Connecting | Operation::Reusing(_), IoEvent::Received(_) | IoEvent::Ended) => {}
            (_, IoEvent::Received(bytes)) => open.exchange.receive(bytes),
            (_, IoEvent::Ended) => open.exchange.received_eof(),
            (_, IoEvent::Connected) => {}
        }
    }

    /// Begins the current request over the connection, which has just been opened or checked.
    fn begin(&mut self, now: Now) {
        let (Link::Open(open), Some(current)) = (&mut self.link, &self.current) else { return };
        open.operation = Operation::Reading;
        // One bound for the handshake and the answer ([`Limits::answer`]).
        open.until = now.instant.after(self.limits.answer);
        open.exchange.send(&current.request, &self.cluster, &self.identity);
    }

    /// Begins the current request once the kept connection has been read, unless the server has closed the connection, or
    /// has sent bytes that no request has asked for: they are no answer to the request to come. The next connection is a
    /// new one then.
    fn check(&mut self, now: Now) {
        let Link::Open(open) = &self.link else { return };
        if !open.exchange.is_idle() {
            self.kept_was_dead = true;
            self.hang_up();
        } else if open.until <= now.instant {
            self.begin(now);
        }
    }

    /// The next event of the current request; `None` if the runtime has to do another [`step`](Self::step) first.
    pub(crate) fn event(&mut self, now: Now) -> Option<Event> {
        let event = match (&self.current, &self.link) {
            (None, _) | (_, Link::Closing(_) | Link::Keeping(..)) => None,
            (Some(_), Link::Down) => self.open(now),
            (Some(_), Link::Open(open)) if matches!(open.operation, Operation::Checking) => {
                self.check(now);
                None
            }
            (Some(_), Link::Open(_)) => match self.read(now) {
                Ok(event) => event,
                Err(error) => self.lose(error),
            },
        };
        if let Some(health) = event.as_ref().and_then(|event| health(event, self.date, now)) {
            // A `Date` of a proxy in between is not the server's clock.
            self.date.take_if(|_| !health.is_at_work());
            self.health = Some(Health { date: self.date, ..health });
        }
        event
    }

    /// Begins a connection for the current request, or takes a kept one. Returns the failure of the request if TLS
    /// cannot be set up, otherwise `None`.
    fn open(&mut self, now: Now) -> Option<Event> {
        match self.opening(now) {
            Ok((exchange, operation)) => {
                let until = now.instant.after(self.limits.connect);
                let reused = matches!(operation, Operation::Reusing(_));
                self.link = Link::Open(Box::new(Open { exchange, operation, until, reused }));
                None
            }
            Err(error) => self.lose(error),
        }
    }

    /// The connection to begin with, and its first command to the runtime. A kept connection may be dead.
    fn opening(&self, now: Now) -> Result<(Exchange, Operation), ExchangeError> {
        let roots = trusted_roots(&self.cluster)?;
        let shared = self.shared.as_ref().filter(|_| !self.kept_was_dead);
        if let Some((exchange, stream)) =
            shared.and_then(|shared| shared.take(&self.identity, roots.as_ref(), now.instant))
        {
            return Ok((exchange, Operation::Reusing(stream)));
        }
        Ok((Exchange::new(&self.cluster, roots, &self.identity, now.unix)?, Operation::Connecting))
    }

    /// Reads parts of the response until there is an event, or more bytes are needed.
    fn read(&mut self, now: Now) -> Result<Option<Event>, ExchangeError> {
        let (Link::Open(open), Some(current)) = (&mut self.link, &mut self.current) else { return Ok(None) };
        loop {
            match (open.exchange.poll()?, &mut current.answer) {
                (Some(Part::Head(mut head)), answer) => {
                    self.identity.token().into_iter().for_each(|token| head.hide_token(token));
                    // Only the `Date` of a verified server counts: any host in between could send another.
                    let shown = head.date.filter(|_| !self.cluster.insecure_skip_tls_verify());
                    self.date = shown.map(|unix| ServerDate { unix, at: now.instant }).or(self.date);
                    usable(&head)?;
                    match current.stream {
                        Some(lifetime) if head.response.status == 200 => {
                            open.until = now.instant.after(lifetime);
                            return Ok(Some(Event::Opened));
                        }
                        // A stream that is answered with another status is refused: its answer is read to the end.
                        _ => *answer = Some(Response { date: self.date, ..head.response }),
                    }
                }
                (Some(Part::Body(piece)), Some(answer)) => {
                    answer.body.extend_from_slice(&piece);
                    if answer.body.len() > LONGEST_BODY {
                        return Err(ExchangeError::Unusable("the answer is longer than 4 MiB".to_owned()));
                    }
                }
                (Some(Part::Body(piece)), None) => return Ok(Some(Event::Piece(piece))),
                (Some(Part::End { reusable }), answer) => {
                    let event = answer.take().map_or(Event::Closed, |mut answer| {
                        self.identity.token().into_iter().for_each(|token| hide_token(token, &mut answer.body));
                        Event::Answer(answer)
                    });
                    self.current = None;
                    if !reusable {
                        self.hang_up();
                    }
                    return Ok(Some(event));
                }
                (None, _) if now.instant < open.until => return Ok(None),
                (None, _) => return Err(open.late()),
            }
        }
    }

    /// Handles a failed connection. If the server has closed a connection while it was idle, as a server may do at any
    /// time (RFC 9112 §9.5), repeats the request on a new connection and returns `None`. Otherwise returns the failure
    /// of the request.
    fn lose(&mut self, error: ExchangeError) -> Option<Event> {
        let (error, idle) = match &self.link {
            Link::Open(open) => (open.reason(error), open.reused && open.exchange.unheard()),
            Link::Down | Link::Closing(_) | Link::Keeping(..) => (error, false),
        };
        self.hang_up();
        self.kept_was_dead |= idle;
        if idle && matches!(error, ExchangeError::Closed | ExchangeError::Broken(_)) && !self.exhausted() {
            // Counted, so that a server that closes every connection cannot cause an endless loop.
            self.requests += 1;
            return None;
        }
        self.current = None;
        Some(Event::Lost(error))
    }

    /// The next command to the runtime; `None` if the session has nothing to do.
    pub(crate) fn step<T>(&mut self, now: Now) -> Option<IoRequest<T>> {
        match &mut self.link {
            Link::Down => None,
            Link::Closing(farewell) if !farewell.is_empty() => {
                Some(IoRequest::Transmit { bytes: std::mem::take(farewell), until: now.instant.after(LAST_WORDS) })
            }
            // All bytes are written. The next request opens a new connection.
            Link::Closing(_) => {
                self.link = Link::Down;
                Some(IoRequest::Disconnect)
            }
            Link::Open(_) if self.current.is_none() => None,
            Link::Open(open) => Some(open.step(&self.cluster)),
            Link::Keeping(_, place @ None) => Some(IoRequest::Keep(place.insert(KeptConnection::default()).clone())),
            Link::Keeping(..) => {
                self.hand_over(now);
                None
            }
        }
    }

    /// Hands the connection, which the driver has set aside, to the sessions to come.
    fn hand_over(&mut self, now: Now) {
        let link = std::mem::replace(&mut self.link, Link::Down);
        if let (Link::Keeping(exchange, Some(stream)), Some(shared)) = (link, &self.shared) {
            shared.put(*exchange, stream, self.identity.clone(), now.instant);
        }
    }
}

/// Returns an error for a successful answer whose body is compressed. The request is not repeated, since the server
/// would give the same answer again. An error answer may be compressed, since it is only quoted.
fn usable(head: &Head) -> Result<(), ExchangeError> {
    if head.coding.is_empty() || !(200..300).contains(&head.response.status) {
        return Ok(());
    }
    Err(ExchangeError::Unusable(format!(
        "the answer {} is compressed or otherwise encoded ({}) although perennial accepts only identity; check for a \
         proxy in between that rewrites answers",
        head.response.status,
        printable(&head.coding)
    )))
}
