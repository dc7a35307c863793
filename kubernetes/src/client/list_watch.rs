//! [`ListWatch`]: reads a selection of objects with a list, and then follows their changes with watches.
//!
//! ```text
//!  List ──200──▶ Watch from the list's version ──▶ changes
//!   ▲  │ 404: the next API version    │
//!   │  └──── error: pause ────┐       │ ended, broken, 410: at once the first time, then after a pause
//!   └─────────────────────────┴───────┘
//! ```
//!
//! Source: client-go's reflector, with two differences: each watch is followed by a list, which also finds what a watch
//! may have missed, and an error that only a person can mend is retried less often.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now};
use perennial_rotation::{Identity, IdentitySource, IoEvent, IoRequest};
use serde_json::value::RawValue;

use super::backoff::Jitter;
use super::desired::encoded;
use super::exchange_error::ExchangeError;
use super::http::Request;
use super::limits::Limits;
use super::response::{ErrorAnswer, Event, Response};
use super::session::Session;
use super::watch::{Lines, List, WatchEvent, decode, name_of};
use crate::cluster::Cluster;

/// A watch that lasted at least this long counts as a success, even if it broke: the number of failures returns to 0.
const GOOD_WATCH: Duration = Duration::from_secs(60);
/// The time that a watch may last beyond its requested duration. Then the client closes the watch and lists again.
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// The longest pause for a `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);
/// The bounds of the pause after an error that stays until a person changes the cluster or the credential.
const LASTING_PAUSE: (u64, u64) = (60_000, 120_000);
/// The pause while there is no identity yet: the first one, and the longest, up to which it doubles.
const IDENTITY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The objects to read: a resource without namespaces, and a selection of its objects.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    /// The API group.
    pub(crate) group: &'static str,
    /// The versions of the group that may serve the resource, in the order in which they are tried.
    pub(crate) versions: &'static [&'static str],
    /// The name of the resource in paths, such as `clustertrustbundles`.
    pub(crate) resource: &'static str,
    /// The field selector; empty for none.
    pub(crate) fields: String,
    /// The label selector; empty for none.
    pub(crate) labels: String,
    /// The advice for a server that does not serve the resource, which begins with `; `.
    pub(crate) absent: &'static str,
}

/// The name of an object, and the object in JSON.
type Object = (String, Box<RawValue>);

/// News of the selection.
pub(crate) enum Change {
    /// All selected objects. Objects that are absent from the list do not exist any more.
    Listed(Vec<Object>),
    /// An object was added, or has changed to this state.
    Set(String, Box<RawValue>),
    /// An object was deleted, or is not selected any more.
    Deleted(String),
    /// A watch is open: the state is current, and changes follow at once.
    Current,
    /// The objects cannot be read or watched now. Contains the reason. What was read last stays known.
    Failed(String),
}

/// Reads a selection of objects, and follows their changes. Ends only when it is dropped.
pub(crate) struct ListWatch {
    selected: Selected,
    identity: Arc<dyn IdentitySource>,
    session: Session,
    stage: Stage,
    jitter: Jitter,
    /// The number of failures in a row, short watches included. Each makes the next pause longer.
    failures: u32,
    /// The number of pauses in a row because there was no identity yet.
    waits: u32,
    /// The API version in use, as an index of [`Selected::versions`].
    version: usize,
    /// The number of API versions in a row that the server does not serve.
    absent: usize,
    /// The resource version of the last list, from which the next watch begins.
    listed: String,
    lines: Lines,
    changes: VecDeque<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    List,
    Watch,
}

#[derive(Debug)]
enum Stage {
    /// Make the HTTP request for this purpose now.
    Next(Purpose),
    Requesting(Purpose),
    /// The watch has been open since this time.
    Watching(Instant),
    /// List again at this time.
    Pausing(Instant),
}

impl ListWatch {
    /// Reads the objects of `cluster`, authenticated with what `identity` returns for each list. Of `limits`, only
    /// [`Limits::connect`] and [`Limits::answer`] apply. `seed` determines the pauses.
    pub(crate) fn new(
        selected: Selected,
        cluster: Arc<Cluster>,
        identity: Arc<dyn IdentitySource>,
        limits: Limits,
        seed: u64,
    ) -> Self {
        Self {
            selected,
            identity,
            session: Session::new(cluster, Identity::Anonymous, Limits { requests: u32::MAX, ..limits }),
            stage: Stage::Next(Purpose::List),
            jitter: Jitter::new(seed),
            failures: 0,
            waits: 0,
            version: 0,
            absent: 0,
            listed: String::new(),
            lines: Lines::default(),
            changes: VecDeque::new(),
        }
    }

    /// Handles the runtime's result of the last command.
    pub(crate) fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        self.session.handle(input, now);
    }

    /// Returns the next change; `None` if the runtime has to do another [`step`](Self::step) first.
    pub(crate) fn change(&mut self, now: Now) -> Option<Change> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Some(change);
            }
            match self.stage {
                Stage::Next(purpose) => self.begin(purpose, now),
                Stage::Pausing(until) if now.instant >= until => self.begin(Purpose::List, now),
                Stage::Requesting(_) | Stage::Watching(_) | Stage::Pausing(_) => {}
            }
            match self.session.event(now) {
                Some(event) => self.on_event(event, now),
                None if matches!(self.stage, Stage::Next(_)) => {}
                None if !self.changes.is_empty() => {}
                None => return None,
            }
        }
    }

    /// Returns the next command to the runtime. [`change`](Self::change) must have returned `None`.
    pub(crate) fn step<T>(&mut self, now: Now) -> IoRequest<T> {
        match (self.session.step(now), &self.stage) {
            (Some(step), _) => step,
            (None, Stage::Pausing(until)) => IoRequest::Wait { until: *until },
            // Unreachable: while there is a request, the session has a step.
            (None, Stage::Next(_) | Stage::Requesting(_) | Stage::Watching(_)) => {
                IoRequest::Wait { until: now.instant }
            }
        }
    }

    fn begin(&mut self, purpose: Purpose, now: Now) {
        let (query, stream) = match purpose {
            Purpose::List => match self.identity.identity() {
                Ok(identity) => {
                    self.waits = 0;
                    self.session.authenticate(identity);
                    (String::new(), None)
                }
                Err(why) if why.is_coming() => return self.wait_for_identity(now),
                Err(why) => return self.fail(why.to_string(), None, now),
            },
            Purpose::Watch => {
                // The duration of client-go's reflector (`minWatchTimeout`), random so that a fleet does not reconnect
                // at once.
                let seconds = self.jitter.between(300, 600);
                // A line that the end of the previous watch cut off must not join the first one of this watch.
                self.lines = Lines::default();
                let query = format!("&watch=true&resourceVersion={}&timeoutSeconds={seconds}", encoded(&self.listed));
                (query, Some(Duration::from_secs(seconds) + WATCH_GRACE))
            }
        };
        self.session.send(Request::get(self.selected.path(self.version, &query)), stream, now);
        self.stage = Stage::Requesting(purpose);
    }

    fn on_event(&mut self, event: Event, now: Now) {
        let purpose = match self.stage {
            Stage::Requesting(purpose) => purpose,
            Stage::Watching(_) => Purpose::Watch,
            Stage::Next(_) | Stage::Pausing(_) => return,
        };
        match (event, purpose) {
            (Event::Answer(response), Purpose::List) => self.listed(&response, now),
            (Event::Answer(response), Purpose::Watch) => match response.status {
                410 => self.list_again(now),
                _ => self.refused(&response, now),
            },
            (Event::Opened, _) => {
                self.stage = Stage::Watching(now.instant);
                self.changes.push_back(Change::Current);
            }
            (Event::Piece(piece), _) => self.watched(&piece, now),
            (Event::Closed, _) => self.list_again(now),
            (Event::Lost(error), Purpose::List) => self.lost(&error, now),
            // The list that follows reports the error, if it lasts.
            (Event::Lost(ExchangeError::Closed | ExchangeError::Broken(_) | ExchangeError::TimedOut(_)), _) => {
                self.list_again(now);
            }
            (Event::Lost(error), Purpose::Watch) => self.lost(&error, now),
        }
    }

    /// Handles the answer to a list.
    fn listed(&mut self, response: &Response, now: Now) {
        match response.status {
            200 => match read_list(&response.body) {
                Ok((version, objects)) => {
                    self.listed = version;
                    self.absent = 0;
                    self.changes.push_back(Change::Listed(objects));
                    self.stage = Stage::Next(Purpose::Watch);
                }
                Err(error) => self.fail(format!("the list cannot be read: {error}"), None, now),
            },
            404 => {
                self.version = (self.version + 1) % self.selected.versions.len();
                self.absent += 1;
                if self.absent < self.selected.versions.len() {
                    self.stage = Stage::Next(Purpose::List);
                } else {
                    self.absent = 0;
                    let why =
                        format!("the server answered {}{}", ErrorAnswer::read(response).text, self.selected.absent);
                    self.fail_lastingly(why, now);
                }
            }
            _ => self.refused(response, now),
        }
    }

    /// Handles a part of a watch.
    fn watched(&mut self, piece: &[u8], now: Now) {
        self.lines.push(piece);
        while let Stage::Watching(_) = self.stage {
            let line = match self.lines.next(self.session.identity().token()) {
                Ok(Some(line)) => line,
                Ok(None) => return,
                Err(_) => return self.fail("an event of the watch is longer than 1.5 MiB".to_owned(), None, now),
            };
            match decode(&line) {
                WatchEvent::Object { name, object } => self.changes.push_back(Change::Set(name, object)),
                WatchEvent::Deleted { name } => self.changes.push_back(Change::Deleted(name)),
                WatchEvent::Nothing | WatchEvent::Bookmark(_) => {}
                WatchEvent::Expired => self.list_again(now),
                WatchEvent::Over(why) => self.fail(why, None, now),
            }
        }
    }

    /// Handles an answer with an error.
    fn refused(&mut self, response: &Response, now: Now) {
        let answer = ErrorAnswer::read(response);
        let resource = self.selected.resource;
        let why = format!("the server answered {}", answer.text);
        match response.status {
            401 => {
                self.identity.identity_refused(self.session.identity());
                let shown = self.session.identity().describe();
                self.fail(format!("{why}; it refused the credential ({shown})"), answer.retry_after, now);
            }
            403 => {
                let why = format!("{why}; the credential must be allowed to list and watch {resource}");
                self.fail_lastingly(why, now);
            }
            408 | 410 | 429 | 500..=599 => self.fail(why, answer.retry_after.or(response.retry_after), now),
            _ => self.fail_lastingly(why, now),
        }
    }

    /// Handles an HTTP request that got no answer.
    fn lost(&mut self, error: &ExchangeError, now: Now) {
        if let ExchangeError::CertificateRefused(_) = error {
            self.identity.identity_refused(self.session.identity());
        }
        self.fail(error.to_string(), None, now);
    }

    /// Lists after a watch has ended: at once if this is the first failure in a row, otherwise after a pause.
    fn list_again(&mut self, now: Now) {
        self.end_watch(now);
        self.stage = match self.failures {
            0 => Stage::Next(Purpose::List),
            failures => Stage::Pausing(now.instant.after(self.jitter.backoff(failures - 1))),
        };
        self.failures = self.failures.saturating_add(1);
    }

    fn end_watch(&mut self, now: Now) {
        if matches!(self.stage, Stage::Watching(since) if now.instant.since(since) >= GOOD_WATCH) {
            // API servers end each watch after some minutes, so that such an end is no failure.
            self.failures = 0;
        }
        self.session.stop();
    }

    /// Lists after a pause, which grows with each failure in a row.
    fn fail(&mut self, why: String, retry_after: Option<Duration>, now: Now) {
        self.end_watch(now);
        let retry_after = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let backoff = self.jitter.backoff(self.failures);
        self.pause(backoff.max(retry_after), why, now);
    }

    /// Lists after a long pause: the error stays until a person changes the cluster or the credential.
    fn fail_lastingly(&mut self, why: String, now: Now) {
        self.end_watch(now);
        let pause = Duration::from_millis(self.jitter.between(LASTING_PAUSE.0, LASTING_PAUSE.1));
        self.pause(pause, why, now);
    }

    fn pause(&mut self, pause: Duration, why: String, now: Now) {
        self.failures = self.failures.saturating_add(1);
        self.stage = Stage::Pausing(now.instant.after(pause));
        self.changes.push_back(Change::Failed(why));
    }

    fn wait_for_identity(&mut self, now: Now) {
        let (shortest, longest) = IDENTITY_PAUSE;
        let pause = shortest.saturating_mul(1 << self.waits.min(8)).min(longest);
        self.waits = self.waits.saturating_add(1);
        self.stage = Stage::Pausing(now.instant.after(pause));
    }
}

impl Selected {
    /// The path of the selected objects in an API version, with `query` at its end.
    fn path(&self, version: usize, query: &str) -> String {
        let Self { group, versions, resource, fields, labels, .. } = self;
        let labels = match labels.as_str() {
            "" => String::new(),
            labels => format!("&labelSelector={}", encoded(labels)),
        };
        let version = versions.get(version).copied().unwrap_or_default();
        format!("/apis/{group}/{version}/{resource}?fieldSelector={}{labels}{query}", encoded(fields))
    }
}

/// Reads a list. Returns its resource version, and its objects.
fn read_list(list: &[u8]) -> serde_json::Result<(String, Vec<Object>)> {
    let list: List<'_> = serde_json::from_slice(list)?;
    let objects = list.items.into_iter().flatten().map(|item| Ok((name_of(item)?, item.to_owned())));
    Ok((list.metadata.resource_version, objects.collect::<serde_json::Result<_>>()?))
}

impl fmt::Debug for ListWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListWatch({}, {:?}, {:?})", self.selected.resource, self.session, self.stage)
    }
}
