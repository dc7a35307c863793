//! What a rotation's loop and its handles share: an inbox one way, a snapshot the other.
//!
//! Both can be waited for from threads and from futures alike, so every runtime uses the same.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use event_listener::Event;

use crate::log;
use crate::{Input, Record, Snapshot};

/// What a loop is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened.
    Input(Input),
    /// End, cleanly.
    Stop,
}

/// The inbox and the snapshot.
#[derive(Debug)]
pub(crate) struct Link {
    name: String,
    inbox: Mutex<VecDeque<Message>>,
    arrived: Event,
    // A lock, held for a clone: publishing costs the same however many threads the process has.
    snapshot: Mutex<Arc<Snapshot>>,
    changed: Event,
    ended: AtomicBool,
    record: Mutex<Option<Record>>,
}

impl Link {
    /// A link whose handles see this until the loop says otherwise. What is logged about it bears the name.
    pub(crate) fn new(name: String, snapshot: Snapshot) -> Self {
        log::start(&name, &snapshot);
        Self {
            name,
            inbox: Mutex::default(),
            arrived: Event::new(),
            snapshot: Mutex::new(Arc::new(snapshot)),
            changed: Event::new(),
            ended: AtomicBool::new(false),
            record: Mutex::default(),
        }
    }

    /// Tells the loop. Never blocks; after the end, nobody listens.
    pub(crate) fn send(&self, message: Message) {
        if self.has_ended() {
            return;
        }
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
        self.arrived.notify(1);
    }

    /// Shows handles how things are now, if anything but the time has changed.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let before = self.snapshot();
        let is_reminder = snapshot.expiry_reminders() != before.expiry_reminders();
        if !is_reminder && snapshot == (Snapshot { at: snapshot.at, ..Snapshot::clone(&before) }) {
            return;
        }
        log::report(&self.name, &before, &snapshot);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        self.changed.notify(usize::MAX);
    }

    /// Leaves this to whoever goes on from here. To be called before the end.
    pub(crate) fn leave(&self, record: Option<Record>) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
    }

    /// What was left.
    pub(crate) fn record(&self) -> Option<Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells handles that nothing will change any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify(usize::MAX);
    }

    /// Whether the loop has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How things are.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next message, if one is there.
    pub(crate) fn pop(&self) -> Option<Message> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// True if the next message is there.
    pub(crate) fn has_messages(&self) -> bool {
        !self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Notified when a message arrives.
    pub(crate) const fn arrived(&self) -> &Event {
        &self.arrived
    }

    /// Notified when the snapshot changes, and at the end.
    pub(crate) const fn changed(&self) -> &Event {
        &self.changed
    }
}

/// Ends a link when the last clone of it is gone, be it by a panic: whoever waits learns of it.
#[derive(Clone, Debug)]
pub(crate) struct Ending(Arc<EndOnDrop>);

#[derive(Debug)]
struct EndOnDrop(Arc<Link>);

impl Ending {
    /// The end of this link.
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self(Arc::new(EndOnDrop(link)))
    }

    /// The link.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0.0
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}
