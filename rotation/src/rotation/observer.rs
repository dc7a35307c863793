//! Who looks on: logs, metrics and journals see every step of the machine, and change none.

use std::fmt;

use super::Transition;

/// Looks on. Called on the loop, which stands still meanwhile: be quick.
pub type Observer = Box<dyn FnMut(&Transition) + Send>;

/// All who look on.
#[derive(Default)]
pub(super) struct Observers(pub(super) Vec<Observer>);

impl Observers {
    pub(super) fn see(&mut self, transition: &Transition) {
        self.0.iter_mut().for_each(|observer| observer(transition));
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.0.len())
    }
}
