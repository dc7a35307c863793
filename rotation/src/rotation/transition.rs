//! One step of a machine, whole: what journals, metrics and replays are made of.

use std::fmt;
use std::sync::Arc;

use perennial::{Action, Actions, Event, Failure, Now, Outcome, RotationMachine, TraceLine};

/// One step of a machine: the event, what the machine decided and wants done, and the machine before and after.
/// A clone shares both machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When the event was handled.
    pub now: Now,
    /// The event.
    pub event: Event,
    /// What the machine wants done, and its [outcomes](Actions::outcomes).
    pub actions: Actions,
    /// The machine before the event.
    pub before: Arc<RotationMachine>,
    /// The machine after the event.
    pub after: Arc<RotationMachine>,
}

impl Transition {
    /// Has the machine handle the event.
    pub fn of(machine: &mut Arc<RotationMachine>, event: Event, now: Now) -> Self {
        let before = machine.clone();
        let actions = Arc::make_mut(machine).handle(event.clone(), now);
        Self { now, event, actions, before, after: machine.clone() }
    }

    /// The failure of the attempt that came to nothing or fell short by this step, if one did.
    pub fn failure(&self) -> Option<Failure> {
        self.actions.outcomes().failure()
    }

    /// True for a Tick that led to nothing but, perhaps, another timer.
    pub fn is_uneventful(&self) -> bool {
        let is_duty = |action| !matches!(action, Action::SetTimer(_));
        matches!(self.event, Event::Tick)
            && !self.actions.clone().any(is_duty)
            && self.actions.outcomes().iter().all(|outcome| matches!(outcome, Outcome::Ignored | Outcome::Noted))
    }
}

/// One line: when, the event, the actions, the machine afterwards.
impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { now, event, actions, before: _, after } = self;
        TraceLine { event, now: *now, actions, machine: after }.fmt(f)
    }
}
