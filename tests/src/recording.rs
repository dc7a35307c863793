//! Records the trace of a rotation. The steps come from the news of the rotation, so the recording works with any
//! driver.

use std::sync::Arc;

use perennial::{Now, RotationMachine};
use perennial_rotation::{News, Rotation, Transition};

use crate::laws::{Verdict, check};
use crate::trace::{Record, Run, Trace};

/// The trace and the news of a rotation, from its start through every restart.
#[derive(Clone, Debug)]
pub struct Recording {
    trace: Trace,
    news: Vec<(Now, News)>,
}

impl Recording {
    /// Begins a recording of a rotation that has just been made.
    pub fn of(rotation: &mut Rotation, now: Now) -> Self {
        let beginning = rotation.machine().checkpoint();
        let trace = Trace { policy: beginning.policy, seed: beginning.seed, wild: false, runs: vec![] };
        let mut recording = Self { trace, news: vec![] };
        recording.continue_with(rotation, now);
        recording
    }

    /// Continues the recording after a restart of the process: `rotation` is the new one.
    pub fn continue_with(&mut self, rotation: &mut Rotation, now: Now) {
        let first = RotationMachine::clone(rotation.machine());
        // Clocks are not compared across a restart here, so that no budget is counted across it.
        let (pending, renewal) = (first.pending(now), first.renewal());
        let run = Run { started: now, pending, renewal, remembers: false, first, records: vec![] };
        self.trace.runs.push(run);
        self.note(rotation, now);
    }

    /// Records the news that the rotation has produced since the last call.
    pub fn note(&mut self, rotation: &mut Rotation, now: Now) {
        for news in rotation.take_news() {
            if let News::Stepped(step) = &news {
                let Transition { now, event, actions, before: _, after } = Transition::clone(step);
                let record = Record { now, event, actions, after: Arc::unwrap_or_clone(after) };
                self.trace.runs.last_mut().expect("a recording begins with a run").records.push(record);
            }
            self.news.push((now, news));
        }
    }

    /// All news so far, each with its time.
    pub fn news(&self) -> &[(Now, News)] {
        &self.news
    }

    /// Checks the trace so far by every law.
    ///
    /// # Errors
    /// The first law that is broken, and the trace.
    pub fn check(&self) -> Verdict {
        check(&self.trace).map_err(|broken| format!("{broken}\n{}", self.trace))
    }
}
