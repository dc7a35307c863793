//! Watches. Each watcher stores its position in the store's log and no events of the log, even if its client is slow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;

use super::Api;
use super::list::parse_version;
use super::message::{Query, Response, to_json};
use super::object::Object;
use super::resource::{Key, Resource};
use super::selector::Selector;
use super::store::{Event, Store, Stored};
use super::table::{Shape, shaped};
use super::{status, validation};
use perennial_kubernetes::objects::Status;

/// One watch. [`Api::next_event`](super::Api::next_event) returns its events and never blocks.
#[derive(Debug)]
pub struct Watcher {
    selector: Selector,
    shape: Shape,
    /// Stored objects to send as ADDED, before the events of the log.
    initial: VecDeque<Arc<Stored>>,
    /// True if a bookmark follows the initial objects (`sendInitialEvents`).
    marks_initial_end: bool,
    /// Version up to which this watch has read the store's log.
    after: u64,
    /// The last version that was sent to the client.
    sent: u64,
    /// Earliest time of the next bookmark; `None` if the client wants no bookmarks.
    bookmark: Option<UnixTime>,
    timeout: Duration,
    end: UnixTime,
    ended: bool,
    /// Reason why the watch cannot begin, sent as the only event (`ERROR`); `None` if the watch can begin.
    refusal: Option<Box<Status>>,
    /// Makes this watch count as open until the `Watcher` is dropped: see `Api::watches`.
    _open: Arc<()>,
}

/// Interval of bookmarks, as in a cluster.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Duration of a watch without `timeoutSeconds`. A cluster chooses a random duration between half an hour and an hour.
const DEFAULT_DURATION: Duration = Duration::from_secs(1800);

impl Watcher {
    /// Duration of the watch: `timeoutSeconds` of its request, or half an hour.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Time of the next bookmark. `None` if the client wants no bookmarks, or has been sent the latest version already.
    pub(crate) fn deadline(&self) -> Option<UnixTime> {
        // A bookmark with a version that the client has already would be useless.
        self.bookmark.filter(|_| self.sent < self.after).map(|due| due.min(self.end))
    }
}

/// Result of [`Api::next_event`](super::Api::next_event).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// One event to send: a line of JSON, with its line break.
    Event(Vec<u8>),
    /// There is no event now. The next event follows a change of the store, or is a bookmark.
    Pending,
    /// The watch is over.
    End,
}

impl Api {
    pub(super) fn watch(&self, scope: &Key, query: &Query, shape: Shape, now: UnixTime) -> Result<Watcher, Response> {
        let selector = Selector::new(scope, query)?;
        let timeout =
            query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).filter(|seconds| *seconds > 0);
        let timeout = timeout.map_or(DEFAULT_DURATION, Duration::from_secs);
        let initial = initial_events(query)?;
        let version = query.get("resourceVersion").filter(|version| !matches!(*version, "" | "0"));
        let version = version.map(parse_version).transpose()?;
        // One reference is the API's own.
        if Arc::strong_count(&self.watches) > self.options.watches {
            return Err(status::too_many_watches(self.options.watches));
        }

        // A watch without `sendInitialEvents` and version begins with the current objects, as in a cluster.
        let from_objects = initial.unwrap_or_else(|| version.is_none());
        let (oldest, current) = (self.store.oldest(), self.store.version());
        // Sent as an event, as by a cluster's watch cache, not as the status of the answer.
        let refusal = match version {
            Some(version) if version > current && from_objects => Some(status::too_large_version(version, current)),
            Some(version) if version > current => Some(status::version_ahead(version, current)),
            Some(version) if version < oldest && !from_objects => Some(status::expired(version, oldest)),
            _ => None,
        };
        let sends_objects = from_objects && refusal.is_none();
        let objects =
            self.store.iter(scope.resource).filter(|stored| sends_objects && selector.matches(&stored.object));
        let after = version.filter(|_| !from_objects).unwrap_or(current);
        let bookmarks = query.flag("allowWatchBookmarks");
        Ok(Watcher {
            initial: objects.map(Arc::clone).collect(),
            selector,
            shape,
            marks_initial_end: initial == Some(true) && bookmarks,
            after,
            sent: if from_objects { 0 } else { after },
            bookmark: bookmarks.then(|| now.after(BOOKMARK_INTERVAL)),
            timeout,
            end: now.after(timeout),
            ended: false,
            refusal: refusal.map(Box::new),
            _open: Arc::clone(&self.watches),
        })
    }
}

/// Reads `sendInitialEvents` of a watch; `None` if absent. As in a cluster, `resourceVersionMatch` must be
/// `NotOlderThan` if `sendInitialEvents` is present, and absent otherwise.
fn initial_events(query: &Query) -> Result<Option<bool>, Response> {
    const MATCH: &str = "resourceVersionMatch";
    let initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
    let why = match (initial, query.get(MATCH).filter(|wanted| !wanted.is_empty())) {
        (Some(_), Some("NotOlderThan")) | (None, None) => return Ok(initial),
        (Some(_), _) => "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        (None, Some(_)) => "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
    };
    Err(status::invalid_list_options(validation::forbidden(MATCH, why)))
}

impl Watcher {
    pub(super) fn release_forgotten(&mut self, store: &Store) {
        if self.after < store.oldest() {
            self.initial = VecDeque::new();
        }
    }

    pub(super) fn next(&mut self, store: &Store, now: UnixTime) -> Next {
        if self.ended {
            return Next::End;
        }
        let behind = (self.after < store.oldest()).then(|| Box::new(status::expired(self.after, store.oldest())));
        if let Some(why) = self.refusal.take().or(behind) {
            self.ended = true;
            return Next::Event(encode("ERROR", &to_json(&why)));
        }
        if let Some(stored) = self.initial.pop_front() {
            return Next::Event(encode("ADDED", &shaped(&stored, self.shape, now)));
        }
        if std::mem::take(&mut self.marks_initial_end) {
            self.sent = self.after;
            return Next::Event(encode("BOOKMARK", &self.bookmark_object(true)));
        }
        while let Some(event) = store.after(self.after) {
            self.after = event.object.version;
            if let Some(kind) = self.kind(event) {
                self.sent = self.after;
                return Next::Event(encode(kind, &shaped(&event.object, self.shape, now)));
            }
        }
        // Writes of other resources raise the version, too: a bookmark lets the client's next watch skip them.
        self.after = store.version();
        self.bookmark(now).map_or(Next::Pending, Next::Event)
    }

    /// A bookmark with the version that this watch has reached. `None` if no bookmark is due, or the client has been
    /// sent this version already. A bookmark is due each minute and at the end of the watch: the client can begin its
    /// next watch at the bookmark's version.
    fn bookmark(&mut self, now: UnixTime) -> Option<Vec<u8>> {
        if self.deadline()? > now {
            return None;
        }
        self.sent = self.after;
        self.bookmark = Some(now.after(BOOKMARK_INTERVAL));
        Some(encode("BOOKMARK", &self.bookmark_object(false)))
    }

    fn bookmark_object(&self, ends_initial_events: bool) -> Vec<u8> {
        bookmark(self.selector.resource(), self.after, ends_initial_events)
    }

    /// The type of an event for this watcher: ADDED for an object that enters the selection, MODIFIED for one that
    /// stays, DELETED for one that leaves. `None` for an object outside the selection.
    fn kind(&self, event: &Event) -> Option<&'static str> {
        let now = !event.is_deletion && self.selector.matches(&event.object.object);
        let before = event.before.as_ref().is_some_and(|before| self.selector.matches(&before.object));
        match (before, now) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }
}

/// The JSON object of a bookmark at this version, in a watch of `resource`.
pub(super) fn bookmark(resource: Resource, version: u64, ends_initial_events: bool) -> Vec<u8> {
    let mut object = Object::empty(resource);
    let metadata = object.metadata_mut();
    metadata.resource_version = version.to_string();
    if ends_initial_events {
        metadata.annotations.insert("k8s.io/initial-events-end".into(), "true".into());
    }
    to_json(&object)
}

/// A line of JSON with an event of this type, such as `ADDED`.
pub(super) fn encode(kind: &str, object: &[u8]) -> Vec<u8> {
    let opening = format!("{{\"type\":\"{kind}\",\"object\":");
    [opening.as_bytes(), object, b"}\n"].concat()
}
