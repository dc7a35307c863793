//! A trace of a rotation that is driven by somebody else: written from its news.

use std::sync::Arc;

use perennial::{Now, RotationMachine};
use perennial_rotation::{News, Rotation, Transition};

use crate::laws::{Verdict, check};
use crate::trace::{Record, Run, Trace};

/// What has happened to a rotation, from its start through every restart.
#[derive(Clone, Debug)]
pub struct Recording {
    trace: Trace,
    news: Vec<(Now, News)>,
}

impl Recording {
    /// Begins with a rotation that has just been made.
    pub fn of(rotation: &mut Rotation, now: Now) -> Self {
        let beginning = rotation.machine().checkpoint();
        let trace = Trace { policy: beginning.policy, seed: beginning.seed, wild: false, runs: vec![] };
        let mut recording = Self { trace, news: vec![] };
        recording.goes_on(rotation, now);
        recording
    }

    /// The process has started anew, with this rotation.
    pub fn goes_on(&mut self, rotation: &mut Rotation, now: Now) {
        let first = RotationMachine::clone(rotation.machine());
        // Nobody here compares clocks across a restart, so that no budget is counted across it.
        let run = Run { started: now, pending: first.pending(now), remembers: false, first, records: vec![] };
        self.trace.runs.push(run);
        self.note(rotation, now);
    }

    /// Takes down the news of the input that the rotation has just handled.
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

    /// All news so far, and when each happened.
    pub fn news(&self) -> &[(Now, News)] {
        &self.news
    }

    /// Every law, put to what has happened so far.
    ///
    /// # Errors
    /// The first one that is broken, and the way to it.
    pub fn check(&self) -> Verdict {
        check(&self.trace).map_err(|broken| format!("{broken}\n{}", self.trace))
    }
}
