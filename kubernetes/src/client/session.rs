//! Requests to one API server as one identity, over a connection that is kept while it works.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now};

use super::exchange::Exchange;
use super::exchange_error::ExchangeError;
use super::head::Head;
use super::health::health;
use super::http::{Part, Request};
use super::response::{Event, Response};
use crate::cluster::{Cluster, printable};
use perennial_rotation::{Health, Identity, IoEvent, IoRequest, ServerDate};

/// A body that is not a stream may not be longer.
const LONGEST_BODY: usize = 4 << 20;
/// After a failed write: how long to listen for the server's reason.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a wait the default number of requests is for.
const PLAIN_WAIT: Duration = Duration::from_secs(15 * 60);
/// Waiting takes no more than a request in this time: looks are 24 s apart at least, and each takes a second request
/// if the server has closed the connection meanwhile. A watch that something ends once a minute takes less.
const QUIET: Duration = Duration::from_secs(12);

/// The longest pause while there is no valid certificate.
const URGENT: Duration = Duration::from_secs(120);

/// How long one conversation may take at each point, and how much of it there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// HTTP requests in one conversation, repeated ones included. Where a request may take longer than 15 minutes, a
    /// rotation allows for more: [`lasting`](Self::lasting) says how many.
    pub requests: u32,
    /// To resolve the name and open a TCP connection.
    pub connect: Duration,
    /// From sending a request (or, on a new connection, from the TLS handshake's start) to the whole answer;
    /// for a watch, to its head.
    pub answer: Duration,
    /// When the certificate that is to be replaced expires. No pause between two requests reaches past that: half of what
    /// is left is waited at most (but for a second), and once it is over, two minutes. A rotation sets it.
    pub needed_by: Instant,
}

impl Default for Limits {
    /// 64 requests, 10 s, 30 s, and no hurry.
    fn default() -> Self {
        let (connect, answer) = (Duration::from_secs(10), Duration::from_secs(30));
        Self { requests: 64, connect, answer, needed_by: Instant::MAX }
    }
}

impl Limits {
    /// The same for a conversation that may last so long: one request more for each 12 s beyond 15 minutes. Waiting
    /// takes no more where nothing goes wrong, so that the rest is left for trouble.
    #[must_use]
    pub fn lasting(self, timeout: Duration) -> Self {
        let beyond = timeout.saturating_sub(PLAIN_WAIT).as_secs() / QUIET.as_secs();
        let requests = self.requests.saturating_add(u32::try_from(beyond).unwrap_or(u32::MAX));
        Self { requests, ..self }
    }

    /// How much of a pause that begins at `now` is kept.
    fn pause(self, wanted: Duration, now: Instant) -> Duration {
        let left = self.needed_by.since(now);
        wanted.min(if left.is_zero() { URGENT } else { (left / 2).max(Duration::from_secs(1)) })
    }
}

pub(crate) struct Session {
    cluster: Arc<Cluster>,
    identity: Identity,
    limits: Limits,
    link: Link,
    asked: Option<Asked>,
    requests: u32,
    health: Option<Health>,
    /// The `Date` of the answer in hand.
    date: Option<ServerDate>,
}

/// The request in hand. It survives a connection that turns out to be dead.
struct Asked {
    request: Request,
    /// For a stream: how long it may last.
    stream: Option<Duration>,
    answer: Option<Response>,
}

enum Link {
    Down,
    Open(Box<Open>),
    /// To be written before the connection is closed.
    Closing(Vec<u8>),
}

struct Open {
    exchange: Exchange,
    doing: Doing,
    until: Instant,
    /// Whether an earlier request was answered over it.
    reused: bool,
}

/// What the driver was last told to do, to know what failed.
enum Doing {
    Connecting,
    Writing,
    Reading,
    /// A write failed, for this reason; only the server's last words are of interest.
    Listening(String),
}

impl Session {
    pub(crate) const fn new(cluster: Arc<Cluster>, identity: Identity, limits: Limits) -> Self {
        Self { cluster, identity, limits, link: Link::Down, asked: None, requests: 0, health: None, date: None }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// HTTP requests begun so far.
    pub(crate) const fn requests(&self) -> u32 {
        self.requests
    }

    /// What the last answer told of the server.
    pub(crate) const fn health(&self) -> Option<Health> {
        self.health
    }

    /// Whether the bound on requests is reached.
    pub(crate) const fn exhausted(&self) -> bool {
        self.requests >= self.limits.requests
    }

    /// When a pause that begins at `now` ends.
    pub(crate) fn after_pause(&self, wanted: Duration, now: Instant) -> Instant {
        now.after(self.limits.pause(wanted, now))
    }

    /// Whether there is no connection yet.
    pub(crate) const fn connecting(&self) -> bool {
        match &self.link {
            Link::Down | Link::Closing(_) => true,
            Link::Open(open) => matches!(open.doing, Doing::Connecting),
        }
    }

    /// Begins a request; `stream` if the answer is one, and how long it may last.
    pub(crate) fn send(&mut self, request: Request, stream: Option<Duration>, now: Now) {
        self.requests += 1;
        if let Link::Open(open) = &mut self.link {
            open.exchange.send(&request, &self.cluster, &self.identity);
            (open.until, open.reused) = (now.instant.after(self.limits.answer), true);
        }
        self.asked = Some(Asked { request, stream, answer: None });
    }

    /// Gives up what is in hand and closes the connection.
    pub(crate) fn close(&mut self) {
        self.asked = None;
        self.hang_up();
    }

    /// Gives up what is in hand, if anything; an idle connection stays.
    pub(crate) fn stop(&mut self) {
        if self.asked.is_some() {
            self.close();
        }
    }

    fn hang_up(&mut self) {
        self.link = match std::mem::replace(&mut self.link, Link::Down) {
            Link::Down => Link::Down,
            Link::Closing(farewell) => Link::Closing(farewell),
            Link::Open(open) => Link::Closing(match open.doing {
                Doing::Connecting | Doing::Listening(_) => Vec::new(),
                Doing::Writing | Doing::Reading => open.exchange.close(),
            }),
        };
    }

    pub(crate) fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        let Link::Open(open) = &mut self.link else { return };
        match (&open.doing, input) {
            (Doing::Connecting, IoEvent::Connected) => {
                open.doing = Doing::Reading;
                open.until = now.instant.after(self.limits.answer);
                if let Some(asked) = &self.asked {
                    open.exchange.send(&asked.request, &self.cluster, &self.identity);
                }
            }
            (Doing::Connecting, IoEvent::Failed(why)) => open.exchange.fail(match self.cluster.proxy() {
                Some(proxy) => ExchangeError::Proxy(format!("cannot connect to the proxy {proxy}: {why}")),
                None => ExchangeError::Connect(why),
            }),
            (Doing::Writing, IoEvent::Failed(why)) => {
                open.doing = Doing::Listening(why);
                open.until = open.until.min(now.instant.after(LAST_WORDS));
            }
            (Doing::Reading | Doing::Listening(_), IoEvent::Failed(why)) => {
                open.exchange.fail(ExchangeError::Broken(why));
            }
            (Doing::Writing | Doing::Reading | Doing::Listening(_), IoEvent::Received(bytes)) => {
                open.exchange.receive(bytes);
            }
            (Doing::Writing | Doing::Reading | Doing::Listening(_), IoEvent::Ended) => open.exchange.received_eof(),
            (Doing::Connecting, IoEvent::Received(_) | IoEvent::Ended)
            | (Doing::Writing | Doing::Reading | Doing::Listening(_), IoEvent::Connected) => {}
        }
    }

    /// What became of the request in hand; `None` until the driver has done another [`step`](Self::step).
    pub(crate) fn event(&mut self, now: Now) -> Option<Event> {
        let event = match (&self.asked, &self.link) {
            (None, _) | (_, Link::Closing(_)) => None,
            (Some(_), Link::Down) => self.open(now),
            (Some(_), Link::Open(_)) => match self.read(now) {
                Ok(event) => event,
                Err(error) => self.lose(error),
            },
        };
        if let Some(health) = event.as_ref().and_then(|event| health(event, self.date, now)) {
            // The clock of something in between says nothing of the server's.
            self.date.take_if(|_| !health.is_at_work());
            self.health = Some(Health { date: self.date, ..health });
        }
        event
    }

    fn open(&mut self, now: Now) -> Option<Event> {
        match Exchange::new(&self.cluster, &self.identity, now.unix) {
            Ok(exchange) => {
                let until = now.instant.after(self.limits.connect);
                self.link = Link::Open(Box::new(Open { exchange, doing: Doing::Connecting, until, reused: false }));
                None
            }
            Err(error) => self.lose(error),
        }
    }

    fn read(&mut self, now: Now) -> Result<Option<Event>, ExchangeError> {
        let (Link::Open(open), Some(asked)) = (&mut self.link, &mut self.asked) else { return Ok(None) };
        loop {
            let part = open.exchange.poll()?;
            if let Some(Part::Head(head)) = &part {
                // Where anyone is taken at their word, their clock says nothing.
                let shown = head.date.filter(|_| !self.cluster.insecure_skip_tls_verify());
                self.date = shown.map(|unix| ServerDate { unix, at: now.instant }).or(self.date);
                usable(head)?;
            }
            match (part, &mut asked.answer) {
                (Some(Part::Head(Head { status: 200, .. })), _) if asked.stream.is_some() => {
                    let lifetime = asked.stream.unwrap_or_default();
                    open.until = now.instant.after(lifetime);
                    return Ok(Some(Event::Opened));
                }
                (Some(Part::Head(head)), answer) => *answer = Some(Response { date: self.date, ..head.into() }),
                (Some(Part::Body(piece)), Some(answer)) => {
                    answer.body.extend_from_slice(&piece);
                    if answer.body.len() > LONGEST_BODY {
                        return Err(ExchangeError::Unusable("the answer is longer than 4 MiB".to_owned()));
                    }
                }
                (Some(Part::Body(piece)), None) => return Ok(Some(Event::Piece(piece))),
                (Some(Part::End { reusable }), answer) => {
                    let event = answer.take().map_or(Event::Closed, |answer| {
                        Event::Answer(match self.identity.token() {
                            Some(token) => answer.without(token),
                            None => answer,
                        })
                    });
                    self.asked = None;
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

    /// The connection is of no more use. If that is merely because the server dropped it between two
    /// requests, the request is made again on a new one.
    fn lose(&mut self, error: ExchangeError) -> Option<Event> {
        let (error, idle) = match &self.link {
            Link::Open(open) => (open.reason(error), open.reused && open.exchange.unheard()),
            Link::Down | Link::Closing(_) => (error, false),
        };
        self.hang_up();
        if idle && matches!(error, ExchangeError::Closed | ExchangeError::Broken(_)) && !self.exhausted() {
            self.requests += 1;
            return None;
        }
        self.asked = None;
        Some(Event::Lost(error))
    }

    /// What the driver is to do; `None` if nothing is in hand.
    pub(crate) fn step<T>(&mut self, now: Now) -> Option<IoRequest<T>> {
        match &mut self.link {
            Link::Down => None,
            Link::Closing(farewell) if !farewell.is_empty() => {
                Some(IoRequest::Transmit { bytes: std::mem::take(farewell), until: now.instant.after(LAST_WORDS) })
            }
            Link::Closing(_) => {
                self.link = Link::Down;
                Some(IoRequest::Disconnect)
            }
            Link::Open(_) if self.asked.is_none() => None,
            Link::Open(open) => Some(open.step(&self.cluster)),
        }
    }
}

impl Open {
    fn step<T>(&mut self, cluster: &Cluster) -> IoRequest<T> {
        let until = self.until;
        match self.doing {
            Doing::Connecting => {
                let (host, port) = cluster.next_hop();
                return IoRequest::Connect { host: host.to_owned(), port, until };
            }
            Doing::Listening(_) => return IoRequest::Receive { until },
            Doing::Writing | Doing::Reading => {}
        }
        let bytes = self.exchange.transmit();
        if bytes.is_empty() {
            self.doing = Doing::Reading;
            IoRequest::Receive { until }
        } else {
            self.doing = Doing::Writing;
            IoRequest::Transmit { bytes, until }
        }
    }

    fn late(&self) -> ExchangeError {
        match self.doing {
            Doing::Connecting => ExchangeError::Connect("timed out".to_owned()),
            Doing::Writing | Doing::Reading | Doing::Listening(_) => ExchangeError::TimedOut(self.exchange.awaited()),
        }
    }

    /// A failed write is why the connection broke, unless the server gave a better reason.
    fn reason(&self, error: ExchangeError) -> ExchangeError {
        match (&self.doing, error) {
            (Doing::Listening(why), ExchangeError::Closed | ExchangeError::Broken(_) | ExchangeError::TimedOut(_)) => {
                ExchangeError::Broken(why.clone())
            }
            (_, error) => error,
        }
    }
}

/// An answer that perennial cannot read stays one, however often the request is made.
fn usable(head: &Head) -> Result<(), ExchangeError> {
    if head.coding.is_empty() || !(200..300).contains(&head.status) {
        return Ok(());
    }
    Err(ExchangeError::Unusable(format!(
        "the answer {} is coded ({}), and perennial asked for none (Accept-Encoding: identity); does a proxy in \
         between rewrite answers?",
        head.status,
        printable(&head.coding)
    )))
}
