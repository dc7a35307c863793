//! A trace of a rotation that is driven by somebody else: written by looking on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::Now;
use perennial_rotation::{Rotation, Transition};

use crate::laws::{Verdict, check};
use crate::trace::{Record, Run, Trace};

/// What has happened to a rotation, from its start through every restart.
#[derive(Clone, Debug)]
pub struct Recording(Arc<Mutex<Trace>>);

impl Recording {
    /// Looks on from now on: at a rotation that has just been made.
    pub fn of(rotation: &mut Rotation, now: Now) -> Self {
        let beginning = rotation.machine().checkpoint();
        let trace = Trace { policy: beginning.policy, seed: beginning.seed, wild: false, runs: vec![] };
        let recording = Self(Arc::new(Mutex::new(trace)));
        recording.goes_on(rotation, now);
        recording
    }

    /// The process has started anew, with this rotation.
    pub fn goes_on(&self, rotation: &mut Rotation, now: Now) {
        let first = rotation.machine().clone();
        // Nobody here compares clocks across a restart, so that no budget is counted across it.
        let run = Run { started: now, pending: first.pending(now), remembers: false, first, records: vec![] };
        self.trace().runs.push(run);
        let recording = self.clone();
        rotation.observe(Box::new(move |step| recording.note(step)));
    }

    /// Every law, put to what has happened so far.
    ///
    /// # Errors
    /// The first one that is broken, and the way to it.
    pub fn check(&self) -> Verdict {
        let trace = self.trace();
        check(&trace).map_err(|broken| format!("{broken}\n{trace}"))
    }

    fn note(&self, step: &Transition) {
        let Transition { now, event, actions, before: _, after } = step.clone();
        let record = Record { now, event, actions, after: Arc::unwrap_or_clone(after) };
        self.trace().runs.last_mut().expect("a recording begins with a run").records.push(record);
    }

    fn trace(&self) -> MutexGuard<'_, Trace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
