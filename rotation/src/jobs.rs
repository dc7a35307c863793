//! What a rotation has its store do: one call at a time, on whatever thread the runtime gives.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial::{RequestId, UnixTime};
use perennial_pki::Credential;

use crate::handle::link::{Ending, Message};
use crate::{Input, Record, Store, StoreError};

/// A call of the store, which may block: run it on a thread of its own. Clones are the same call, for a runtime that may
/// fail to get a thread: [`run`](Self::run) one of them.
#[derive(Clone, Debug)]
pub struct Job {
    call: Call,
    at: UnixTime,
    store: Arc<dyn Store>,
    // Dropped last: until then the rotation has not ended.
    ending: Ending,
}

#[derive(Clone, Debug)]
enum Call {
    Write { id: RequestId, credential: Arc<Credential>, serve: bool },
    Save { record: Arc<Record> },
}

impl Job {
    /// Makes the call and reports the result to the rotation. A panic of the store counts as an error.
    pub fn run(self) {
        let Self { call, at, store, ending } = self;
        let made = catch_unwind(AssertUnwindSafe(|| call.make(&*store, at)));
        let result = made.unwrap_or_else(|_| Err("the store panicked; please report this as a bug".into()));
        // Before the result arrives: who waits for the end of the rotation may open the store then.
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
                    format!("the record of the request is not saved, a restart will not know it: {error}")
                }),
            },
        }
    }
}

/// Calls to be made, in order.
#[derive(Debug)]
pub(crate) struct Jobs {
    store: Arc<dyn Store>,
    /// One of each kind at most: the newest takes the place of the one before.
    waiting: VecDeque<Call>,
    /// The call that was given to the runtime.
    running: Option<Call>,
}

impl Jobs {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, waiting: VecDeque::new(), running: None }
    }

    /// Has a credential written, and put in use if it is to `serve`.
    pub(crate) fn write(&mut self, id: RequestId, credential: Arc<Credential>, serve: bool) {
        // The machine asks again if a result takes long.
        if !matches!(self.running, Some(Call::Write { id: running, .. }) if running == id) {
            self.push(Call::Write { id, credential, serve });
        }
    }

    /// Has a record saved.
    pub(crate) fn save(&mut self, record: Record) {
        self.push(Call::Save { record: Arc::new(record) });
    }

    fn push(&mut self, call: Call) {
        match self.waiting.iter_mut().find(|waiting| discriminant(*waiting) == discriminant(&call)) {
            Some(waiting) => *waiting = call,
            None => self.waiting.push_back(call),
        }
    }

    /// The next call, once the result of the one before has arrived.
    pub(crate) fn next(&mut self, at: UnixTime, ending: &Ending) -> Option<Job> {
        if self.running.is_none() {
            self.running = self.waiting.pop_front();
            let call = self.running.clone()?;
            return Some(Job { call, at, store: self.store.clone(), ending: ending.clone() });
        }
        None
    }

    /// True if calls return at once.
    pub(crate) fn are_instant(&self) -> bool {
        self.store.is_instant()
    }

    /// Takes note of a result.
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
