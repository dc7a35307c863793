//! Watches: a cursor into the store's log for each watcher, and nothing else, however slow it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;
use serde::Serialize;

use super::message::to_json;
use super::selector::Selector;
use super::status;
use super::store::{Change, Event, Store, Stored};
use super::table::{Shape, shaped};

/// One watch. It is asked for events by [`Api::next_event`](super::Api::next_event), which never blocks.
#[derive(Debug)]
pub struct Watcher {
    selector: Selector,
    shape: Shape,
    /// Objects that were there when the watch began, still to be told.
    initial: VecDeque<Arc<Stored>>,
    /// A bookmark marks the end of the initial objects (`sendInitialEvents`).
    marks_initial_end: bool,
    /// The version of the last event looked at.
    after: u64,
    timeout: Duration,
    ended: bool,
}

impl Watcher {
    /// How long the client wants to watch.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// What a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// One event as it goes over the wire: a line of JSON.
    Event(Vec<u8>),
    /// Nothing until the store changes.
    Pending,
    /// The watch is over.
    End,
}

/// How a watch begins.
pub(super) enum Start {
    /// With the objects that are there, as ADDED.
    Objects {
        /// Tell where they end.
        marked: bool,
    },
    /// After this version.
    After(u64),
}

impl Watcher {
    pub(super) fn new(store: &Store, selector: Selector, shape: Shape, start: &Start, timeout: Duration) -> Self {
        let (initial, after, marks_initial_end) = match start {
            Start::Objects { marked } => {
                let there = store.iter().filter(|stored| selector.matches(&stored.object)).map(Arc::clone);
                (there.collect(), store.version(), *marked)
            }
            Start::After(version) => (VecDeque::new(), *version, false),
        };
        Self { selector, shape, initial, marks_initial_end, after, timeout, ended: false }
    }

    pub(super) fn next(&mut self, store: &Store, now: UnixTime) -> Next {
        if self.ended {
            return Next::End;
        }
        if let Some(stored) = self.initial.pop_front() {
            return Next::Event(encode("ADDED", &shaped(&stored, self.shape, now)));
        }
        if std::mem::take(&mut self.marks_initial_end) {
            return Next::Event(encode("BOOKMARK", &bookmark(self.after)));
        }
        if self.after < store.oldest() {
            self.ended = true;
            return Next::Event(encode("ERROR", &status::expired(self.after, store.oldest())));
        }
        while let Some(event) = store.after(self.after) {
            self.after = event.object.version;
            if let Some(kind) = self.kind(event) {
                return Next::Event(encode(kind, &shaped(&event.object, self.shape, now)));
            }
        }
        Next::Pending
    }

    /// How this watcher sees an event: an object that leaves the selection is deleted to it, one that enters is new.
    fn kind(&self, event: &Event) -> Option<&'static str> {
        let now = event.change != Change::Deleted && self.selector.matches(&event.object.object);
        let before = event.before.as_ref().is_some_and(|before| self.selector.matches(&before.object));
        match (before, now) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }
}

fn bookmark(version: u64) -> serde_json::Value {
    serde_json::json!({
        "kind": status::KIND,
        "apiVersion": crate::objects::API_VERSION,
        "metadata": {
            "resourceVersion": version.to_string(),
            "creationTimestamp": null,
            "annotations": { "k8s.io/initial-events-end": "true" },
        },
        "spec": { "request": null, "signerName": "" },
        "status": {},
    })
}

fn encode(kind: &'static str, object: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a, T> {
        #[serde(rename = "type")]
        kind: &'static str,
        object: &'a T,
    }
    let mut line = to_json(&Line { kind, object });
    line.push(b'\n');
    line
}
