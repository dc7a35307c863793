//! Who looks on: logs, metrics and journals see every step of the machine, and change none.

use std::fmt;

use perennial::{Action, Actions, Event, Failure, Now, RotationMachine, TraceLine};

/// One step of a rotation: what happened, what followed, and the machine before and after.
#[derive(Debug)]
pub struct Transition<'a> {
    /// When.
    pub now: Now,
    /// What the machine was told.
    pub event: &'a Event,
    /// What it led to.
    pub actions: &'a Actions,
    /// The machine before.
    pub before: &'a RotationMachine,
    /// The machine afterwards.
    pub after: &'a RotationMachine,
}

impl Transition<'_> {
    /// The failure of the attempt that came to nothing or fell short by this step, if one did.
    pub fn failure(&self) -> Option<Failure> {
        self.actions.outcomes().failure()
    }

    /// Nothing followed but, perhaps, that the clock is looked at again later.
    pub fn is_uneventful(&self) -> bool {
        let duty = |action| !matches!(action, Action::SetTimer(_));
        matches!(self.event, Event::Tick)
            && !self.actions.clone().any(duty)
            && self.before.due(self.now) == self.after.due(self.now)
    }
}

/// One line: when, what happened, what followed, where that leaves us.
impl fmt::Display for Transition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { now, event, actions, before: _, after } = *self;
        TraceLine { event, now, actions, machine: after }.fmt(f)
    }
}

/// Looks on. Called on the loop, which stands still meanwhile: be quick.
pub type Observer = Box<dyn FnMut(&Transition<'_>) + Send>;

/// All who look on.
#[derive(Default)]
pub(super) struct Observers(pub(super) Vec<Observer>);

impl Observers {
    /// Has the machine handle the event, before everybody's eyes.
    pub(super) fn handle(&mut self, machine: &mut RotationMachine, event: Event, now: Now) -> Actions {
        if self.0.is_empty() {
            return machine.handle(event, now);
        }
        let before = machine.clone();
        let actions = machine.handle(event.clone(), now);
        let step = Transition { now, event: &event, actions: &actions, before: &before, after: machine };
        self.0.iter_mut().for_each(|observer| observer(&step));
        actions
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.0.len())
    }
}
