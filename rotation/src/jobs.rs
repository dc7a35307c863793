//! Calls that a rotation makes to its store and to its key source: one at a time to each, on threads that the runtime
//! provides.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial::{RequestId, UnixTime};
use perennial_pki::Credential;

use crate::handle::link::{Ending, Message};
use crate::{Input, KeyCall, Record, Store, StoreError};

/// A call to the store or to the key source, which may block: run it on a thread of its own. Starting a thread can
/// fail, and lose the job given to the thread: a runtime keeps a clone for that case. Exactly one of the clones must be
/// [`run`](Self::run).
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
    Key { id: RequestId, call: Arc<KeyCall> },
}

impl Job {
    /// Makes the call, and reports the result to the rotation: an error if the store or the key source panics.
    pub fn run(self) {
        self.run_then(&|| {});
    }

    /// Like [`run`](Self::run), and calls `freed` between the call and the report of its result. A pool of threads counts
    /// this thread as free from then on, so that work that follows from the result needs no other thread.
    pub fn run_then(self, freed: &dyn Fn()) {
        let Self { call, at, store, ending } = self;
        let input = call.make(&*store, at);
        // Drop the store before the result arrives: a caller that waits for the end of the rotation may open the store
        // then.
        drop(store);
        freed();
        ending.link().send(Message::Input(input));
    }

    /// True for a call to the key source; false for one to the store. A runtime that makes calls on few threads has
    /// separate threads for each, since a request must get its key even while all calls to the store hang.
    pub fn is_for_key(&self) -> bool {
        matches!(self.call, Call::Key { .. })
    }

    /// True if the call returns at once, so that the loop of the rotation may make it. False if the store panics: a
    /// panic of the loop would lose this call.
    pub(crate) fn is_instant(&self) -> bool {
        !self.is_for_key() && catch_unwind(AssertUnwindSafe(|| self.store.is_instant())).unwrap_or(false)
    }
}

impl Call {
    fn make(self, store: &dyn Store, at: UnixTime) -> Input {
        match self {
            Self::Write { id, credential, serve } => {
                Input::Written { id, result: contain(|| store.write(&credential, serve, at)) }
            }
            Self::Save { record } => Input::Saved {
                result: contain(|| store.remember(&record.encode())).map_err(|error| {
                    format!(
                        "cannot save the pending record: {error}; until it is saved, a restart may submit another \
                         request"
                    )
                }),
            },
            Self::Key { id, call } => Input::Keyed { id, keyed: call.run() },
        }
    }
}

/// Calls the store, which may panic.
fn contain(call: impl FnOnce() -> Result<(), StoreError>) -> Result<(), String> {
    let made = catch_unwind(AssertUnwindSafe(call));
    let made = made.unwrap_or_else(|_| Err("the store panicked; please report this as a bug".into()));
    made.map_err(|error| error.to_string())
}

/// The calls that have not ended.
#[derive(Debug)]
pub(crate) struct Jobs {
    store: Arc<dyn Store>,
    /// `None` while there are no calls, as in a rotation that rests.
    lanes: Option<Box<Lanes>>,
}

/// One lane for the store, one for the key source.
#[derive(Debug, Default)]
struct Lanes {
    of_store: Lane,
    /// The calls to the key source. They do not wait for calls to the store, so that a request gets its key even while
    /// the disk hangs.
    of_keys: Lane,
}

/// Calls that are made one at a time: one is running, the others wait in a queue.
#[derive(Debug, Default)]
struct Lane {
    /// Calls not given to the runtime yet: at most one of each kind. A newer write replaces an older one, and a
    /// newer save an older one.
    waiting: VecDeque<Call>,
    /// The call that the runtime is making.
    running: Option<Call>,
}

impl Jobs {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, lanes: None }
    }

    fn lanes(&mut self) -> &mut Lanes {
        self.lanes.get_or_insert_default()
    }

    /// Queues the write of a credential, with `serve` as the current credential. Does nothing if the write with this id
    /// is running.
    pub(crate) fn write(&mut self, id: RequestId, credential: Arc<Credential>, serve: bool) {
        // The machine repeats a write whose result takes long: the call that is running suffices.
        let lane = &mut self.lanes().of_store;
        if !matches!(lane.running, Some(Call::Write { id: running, .. }) if running == id) {
            lane.push(Call::Write { id, credential, serve });
        }
    }

    /// Queues the save of a pending record.
    pub(crate) fn save(&mut self, record: Record) {
        self.lanes().of_store.push(Call::Save { record: Arc::new(record) });
    }

    /// Queues a call of the key source. If another call is still queued, that call is for an earlier request, and the
    /// new call replaces it.
    pub(crate) fn key(&mut self, id: RequestId, call: KeyCall) {
        self.lanes().of_keys.push(Call::Key { id, call: Arc::new(call) });
    }

    /// Returns the next call for the runtime to make; `None` if no call is queued, or if each queued call must wait for
    /// the running call of its lane.
    pub(crate) fn next(&mut self, at: UnixTime, ending: &Ending) -> Option<Job> {
        let lanes = self.lanes.as_mut()?;
        let call = lanes.of_store.next().or_else(|| lanes.of_keys.next())?;
        Some(Job { call, at, store: self.store.clone(), ending: ending.clone() })
    }

    /// Notes the end of the running call if `input` is the result of that call.
    pub(crate) fn note(&mut self, input: &Input) {
        let Some(lanes) = &mut self.lanes else { return };
        match input {
            Input::Written { .. } | Input::Saved { .. } => lanes.of_store.running = None,
            Input::Keyed { .. } => lanes.of_keys.running = None,
            _ => {}
        }
        self.lanes.take_if(|lanes| lanes.of_store.is_idle() && lanes.of_keys.is_idle());
    }

    pub(crate) fn has_writes(&self) -> bool {
        self.unfinished().any(|call| matches!(call, Call::Write { .. }))
    }

    pub(crate) fn has_saves(&self) -> bool {
        self.unfinished().any(|call| matches!(call, Call::Save { .. }))
    }

    fn unfinished(&self) -> impl Iterator<Item = &Call> {
        let lanes = self.lanes.iter().map(|lanes| &lanes.of_store);
        lanes.flat_map(|lane| lane.running.iter().chain(&lane.waiting))
    }
}

impl Lane {
    fn push(&mut self, call: Call) {
        match self.waiting.iter_mut().find(|waiting| discriminant(*waiting) == discriminant(&call)) {
            Some(waiting) => *waiting = call,
            None => self.waiting.push_back(call),
        }
    }

    fn next(&mut self) -> Option<Call> {
        if self.running.is_some() {
            return None;
        }
        self.running = self.waiting.pop_front();
        self.running.clone()
    }

    fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }
}
