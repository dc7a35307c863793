//! Writes certificates and records off the loop: a disk that does not answer stops no rotation.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use perennial::{Instant, RequestId};
use perennial_kubernetes::client::Issuance;
use perennial_kubernetes::rotation::{Input, Record, Rotation};
use perennial_pki::Credential;

use crate::clock;
use crate::link::{Ending, Message};
use perennial_rotation::Directory;

/// A request waits this long for its record to become durable. A crash after that may leave a second request object:
/// better than a certificate that expires while the disk does not answer.
const RECORD: Duration = Duration::from_secs(10);

/// Carries out the disk duties of one rotation: one at a time, in order, on a thread that ends when none is left.
/// Results arrive at the rotation's link as [`Input::Written`] and [`Input::Saved`]. Without a thread to be had, the
/// caller's own is used.
#[derive(Debug)]
pub struct DiskWorker {
    // Dropped before the ending: whoever waits for the end may open the store then.
    store: Option<Arc<Directory>>,
    ending: Ending,
    jobs: Arc<Mutex<Jobs>>,
    /// Results that have not arrived yet.
    writes: usize,
    saves: usize,
    /// A request that waits for its record, and until when.
    held: Option<(RequestId, Box<Issuance>, Instant)>,
    /// Result of the last attempt to write, at the end of the rotation.
    last: Last,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    NotTried,
    Tried,
    Written,
}

#[derive(Debug, Default)]
struct Jobs {
    queue: VecDeque<Job>,
    /// The write that the thread is at work on.
    writing: Option<RequestId>,
    running: bool,
}

#[derive(Debug)]
enum Job {
    Write { id: RequestId, credential: Arc<Credential>, serve: bool },
    Save { record: Box<Record> },
}

impl DiskWorker {
    /// A worker with nothing to do. Without a store, memory is as durable as it gets.
    pub fn new(store: Option<Arc<Directory>>, ending: Ending) -> Self {
        Self { store, ending, jobs: Arc::default(), writes: 0, saves: 0, held: None, last: Last::NotTried }
    }

    /// Writes a credential, and puts it in use if it is to `serve`. A queued one that has not been begun gives way to it.
    pub fn write(&mut self, id: RequestId, credential: Arc<Credential>, serve: bool) {
        let mut jobs = self.jobs();
        // The machine asks again if a result takes long.
        if jobs.writing == Some(id) {
            return;
        }
        let queued = jobs.queue.iter_mut().find(|job| matches!(job, Job::Write { .. }));
        let is_more = queued.is_none();
        let job = Job::Write { id, credential, serve };
        match queued {
            Some(queued) => *queued = job,
            None => jobs.queue.push_back(job),
        }
        drop(jobs);
        self.writes += usize::from(is_more);
        self.start();
    }

    /// Saves a record. A queued one that has not been begun gives way to it.
    pub fn save(&mut self, record: Box<Record>) {
        let mut jobs = self.jobs();
        let queued = jobs.queue.iter_mut().find(|job| matches!(job, Job::Save { .. }));
        let is_more = queued.is_none();
        match queued {
            Some(queued) => *queued = Job::Save { record },
            None => jobs.queue.push_back(Job::Save { record }),
        }
        drop(jobs);
        self.saves += usize::from(is_more);
        self.start();
    }

    /// Keeps an exchange until its record is durable, or ten seconds have passed: see [`ready`](Self::ready).
    pub fn hold(&mut self, id: RequestId, exchange: Box<Issuance>) {
        self.held = Some((id, exchange, clock::now().instant.after(RECORD)));
    }

    /// Drops the exchange of this request, if it is kept.
    pub fn drop_held(&mut self, id: RequestId) {
        self.held.take_if(|(held, ..)| *held == id);
    }

    /// The exchange to drive now, if there is one.
    pub fn ready(&mut self) -> Option<(RequestId, Box<Issuance>)> {
        let durable = self.saves == 0;
        let held = self.held.take_if(|(.., until)| durable || *until <= clock::now().instant);
        held.map(|(id, exchange, _)| (id, exchange))
    }

    /// When [`ready`](Self::ready) is to be called even if nothing has happened.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.as_ref().map(|(.., until)| *until)
    }

    /// Takes note of an input before the rotation handles it.
    pub fn note(&mut self, input: &Input) {
        match input {
            Input::Written { .. } => self.writes = self.writes.saturating_sub(1),
            Input::Saved { .. } => self.saves = self.saves.saturating_sub(1),
            _ => {}
        }
    }

    /// The end of a rotation, with each message that arrives from then on; the first time with none. Waits for the
    /// results that are out, then tries once more to write a credential that exists in memory only. True once it is
    /// over.
    pub fn finish(&mut self, rotation: &mut Rotation, message: Option<Message>) -> bool {
        self.held = None;
        if let Some(Message::Input(input @ (Input::Written { .. } | Input::Saved { .. }))) = message {
            self.note(&input);
            match (input, self.last) {
                (Input::Written { result: Ok(()), .. }, Last::Tried) => self.last = Last::Written,
                (Input::Written { result: Err(error), .. }, Last::Tried) => {
                    tracing::error!(
                        "the certificate in use is lost with this process, the disk did not take it: {error}"
                    );
                }
                // What would follow is nobody's duty any more.
                (input, _) => drop(rotation.handle(input, clock::now())),
            }
        }
        if let (0, Last::NotTried, Some((credential, serve))) = (self.writes, self.last, rotation.unwritten()) {
            self.last = Last::Tried;
            self.write(RequestId::new(NonZeroU64::MAX), credential.clone(), serve);
        }
        self.writes == 0 && self.saves == 0
    }

    /// True if the last attempt wrote what was in memory only.
    pub fn wrote_at_the_end(&self) -> bool {
        self.last == Last::Written
    }

    fn start(&self) {
        let mut jobs = self.jobs();
        if std::mem::replace(&mut jobs.running, true) {
            return;
        }
        drop(jobs);
        let (store, ending, jobs) = (self.store.clone(), self.ending.clone(), self.jobs.clone());
        let run = move || {
            work(store.as_deref(), &ending, &jobs);
            drop(store);
            drop(ending);
        };
        if self.store.is_none() || thread::Builder::new().name("perennial-disk".into()).spawn(run).is_err() {
            work(self.store.as_deref(), &self.ending, &self.jobs);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        lock(&self.jobs)
    }
}

fn lock(jobs: &Mutex<Jobs>) -> MutexGuard<'_, Jobs> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries out jobs until there are none.
fn work(store: Option<&Directory>, ending: &Ending, jobs: &Mutex<Jobs>) {
    loop {
        let mut waiting = lock(jobs);
        let Some(job) = waiting.queue.pop_front() else {
            waiting.running = false;
            return;
        };
        waiting.writing = if let Job::Write { id, .. } = &job { Some(*id) } else { None };
        drop(waiting);
        let result = match job {
            Job::Write { id, credential, serve } => write(store, id, &credential, serve),
            Job::Save { record } => save(store, &record),
        };
        lock(jobs).writing = None;
        ending.link().send(Message::Input(result));
    }
}

fn write(store: Option<&Directory>, id: RequestId, credential: &Credential, serve: bool) -> Input {
    let now = clock::now().unix;
    let result = store.map_or(Ok(()), |store| match serve {
        true => store.write(credential, now),
        false => store.write_ahead(credential, now),
    });
    Input::Written { id, result: result.map_err(|error| error.to_string()) }
}

fn save(store: Option<&Directory>, record: &Record) -> Input {
    let result = store.map_or(Ok(()), |store| store.remember(&record.encode()));
    Input::Saved {
        result: result
            .map_err(|error| format!("the record of the request is not saved, a restart will not know it: {error}")),
    }
}
