//! [`Transition`]: one step of a machine with its event and its results, for journals, metrics and replays.

use std::fmt;
use std::sync::Arc;

use perennial::{Action, Actions, Event, Failure, Now, Outcome, RotationMachine, TraceLine};

/// One step of a machine: the event, the machine's outcomes and actions, and the machine before and after. A clone
/// shares both machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When the event was handled.
    pub now: Now,
    /// The event that the machine handled.
    pub event: Event,
    /// The machine's actions, and its [outcomes](Actions::outcomes).
    pub actions: Actions,
    /// The machine before the event.
    pub before: Arc<RotationMachine>,
    /// The machine after the event.
    pub after: Arc<RotationMachine>,
}

impl Transition {
    /// Passes the event to the machine, and returns the step.
    pub fn of(machine: &mut Arc<RotationMachine>, event: Event, now: Now) -> Self {
        let before = machine.clone();
        let actions = Arc::make_mut(machine).handle(event.clone(), now);
        Self { now, event, actions, before, after: machine.clone() }
    }

    /// The failure of the request that ended in this step; `None` if no request ended, or if none failed.
    pub fn failure(&self) -> Option<Failure> {
        self.actions.outcomes().failure()
    }

    /// True for a Tick that had no effect other than, perhaps, setting the timer.
    pub fn is_uneventful(&self) -> bool {
        let is_duty = |action| !matches!(action, Action::SetTimer(_));
        matches!(self.event, Event::Tick)
            && !self.actions.clone().any(is_duty)
            && self.actions.outcomes().iter().all(|outcome| matches!(outcome, Outcome::Ignored | Outcome::Noted))
    }
}

/// One line for people: the time, the event, the actions, and the machine after the event.
impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { now, event, actions, before: _, after } = self;
        TraceLine { event, now: *now, actions, machine: after }.fmt(f)
    }
}
