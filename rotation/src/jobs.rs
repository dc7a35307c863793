//! Calls that a rotation makes to its store: one at a time, on a thread that the runtime provides.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial::{RequestId, UnixTime};
use perennial_pki::Credential;

use crate::handle::link::{Ending, Message};
use crate::{Input, Record, Store, StoreError};

/// A call to the store, which may block: run it on a thread of its own. A runtime that may fail to start a thread keeps
/// a clone; [`run`](Self::run) exactly one of the clones.
#[derive(Clone, Debug)]
pub struct Job {
    call: Call,
    at: UnixTime,
    store: Arc<dyn Store>,
    // Dropped last: the rotation has not ended while a job exists.
    ending: Ending,
}

#[derive(Clone, Debug)]
enum Call {
    Write { id: RequestId, credential: Arc<Credential>, serve: bool },
    Save { record: Arc<Record> },
}

impl Job {
    /// Makes the call, and reports the result to the rotation: an error if the store panics.
    pub fn run(self) {
        let Self { call, at, store, ending } = self;
        let made = catch_unwind(AssertUnwindSafe(|| call.make(&*store, at)));
        let result = made.unwrap_or_else(|_| Err("the store panicked; please report this as a bug".into()));
        // Before the result arrives: a caller that waits for the end of the rotation may open the store then.
        drop(store);
        ending.link().send(Message::Input(call.into_input(result)));
    }
}

impl Call {
    fn make(&self, store: &dyn Store, at: UnixTime) -> Result<(), StoreError> {
        match self {
            Self::Write { credential, serve, .. } => store.write(credential, *serve, at),
            Self::Save { record } => store.remember(&record.encode()),
        }
    }

    fn into_input(self, result: Result<(), StoreError>) -> Input {
        match self {
            Self::Write { id, .. } => Input::Written { id, result: result.map_err(|error| error.to_string()) },
            Self::Save { .. } => Input::Saved {
                result: result.map_err(|error| {
                    format!(
                        "cannot save the pending record: {error}; until it is saved, a restart may submit another \
                         request"
                    )
                }),
            },
        }
    }
}

/// The calls to the store that have not ended: one is running, the others wait in a queue.
#[derive(Debug)]
pub(crate) struct Jobs {
    store: Arc<dyn Store>,
    /// Calls not given to the runtime yet: at most one write and one save. A newer write replaces an older one, and a
    /// newer save an older one.
    waiting: VecDeque<Call>,
    /// The call that the runtime is making.
    running: Option<Call>,
}

impl Jobs {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, waiting: VecDeque::new(), running: None }
    }

    /// Queues the write of a credential, with `serve` as the current credential. Does nothing if the write with this id
    /// is running.
    pub(crate) fn write(&mut self, id: RequestId, credential: Arc<Credential>, serve: bool) {
        // The machine repeats a write whose result takes long: the call that is running suffices.
        if !matches!(self.running, Some(Call::Write { id: running, .. }) if running == id) {
            self.push(Call::Write { id, credential, serve });
        }
    }

    /// Queues the save of a pending record.
    pub(crate) fn save(&mut self, record: Record) {
        self.push(Call::Save { record: Arc::new(record) });
    }

    fn push(&mut self, call: Call) {
        match self.waiting.iter_mut().find(|waiting| discriminant(*waiting) == discriminant(&call)) {
            Some(waiting) => *waiting = call,
            None => self.waiting.push_back(call),
        }
    }

    /// Returns the next call for the runtime to make; `None` while a call is running, or if none is queued.
    pub(crate) fn next(&mut self, at: UnixTime, ending: &Ending) -> Option<Job> {
        if self.running.is_none() {
            self.running = self.waiting.pop_front();
            let call = self.running.clone()?;
            return Some(Job { call, at, store: self.store.clone(), ending: ending.clone() });
        }
        None
    }

    /// True if calls to the store return at once.
    pub(crate) fn are_instant(&self) -> bool {
        self.store.is_instant()
    }

    /// Notes the end of the running call if `input` is the result of that call.
    pub(crate) fn note(&mut self, input: &Input) {
        if matches!(input, Input::Written { .. } | Input::Saved { .. }) {
            self.running = None;
        }
    }

    pub(crate) fn has_writes(&self) -> bool {
        self.unfinished().any(|call| matches!(call, Call::Write { .. }))
    }

    pub(crate) fn has_saves(&self) -> bool {
        self.unfinished().any(|call| matches!(call, Call::Save { .. }))
    }

    fn unfinished(&self) -> impl Iterator<Item = &Call> {
        self.running.iter().chain(&self.waiting)
    }
}
