//! The fleet that the laws check: the shipped one, or one that breaks a rule.

use perennial::{Actions, Event, Fleet, Instant, Limits, MemberKey, Now, RotationMachine, Setup};

/// A fleet that is checked by the laws: the shipped [`Fleet`], or one that breaks a rule.
pub trait Group: Clone + std::fmt::Debug {
    /// Makes a fleet without members.
    fn start(limits: Limits) -> Self;

    /// Adds a member.
    fn insert(&mut self, setup: Setup, now: Now) -> MemberKey;

    /// Removes a member.
    fn remove(&mut self, key: MemberKey);

    /// Lets a member handle an event.
    fn handle(&mut self, key: MemberKey, event: Event, now: Now) -> Actions;

    /// Lets the member act whose turn it is.
    fn tick(&mut self, now: Now) -> Option<(MemberKey, Actions)>;

    /// When to call [`tick`](Self::tick) again.
    fn deadline(&self) -> Option<Instant>;

    /// The machine of a member.
    fn machine(&self, key: MemberKey) -> Option<&RotationMachine>;
}

impl Group for Fleet {
    fn start(limits: Limits) -> Self {
        Self::new(limits)
    }

    fn insert(&mut self, setup: Setup, now: Now) -> MemberKey {
        Self::insert(self, setup, now)
    }

    fn remove(&mut self, key: MemberKey) {
        Self::remove(self, key);
    }

    fn handle(&mut self, key: MemberKey, event: Event, now: Now) -> Actions {
        Self::handle(self, key, event, now)
    }

    fn tick(&mut self, now: Now) -> Option<(MemberKey, Actions)> {
        Self::tick(self, now)
    }

    fn deadline(&self) -> Option<Instant> {
        Self::deadline(self)
    }

    fn machine(&self, key: MemberKey) -> Option<&RotationMachine> {
        self.get(key)
    }
}
