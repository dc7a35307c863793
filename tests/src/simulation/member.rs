//! The loops that drive every simulation through virtual time.

use std::time::Duration;

use perennial::{Instant, Now};

/// A simulation that runs in virtual time: a machine, rotation or holder with its surroundings, or a fleet.
pub trait Member {
    /// The current time.
    fn now(&self) -> Now;

    /// When the next step is due; `None`: no step is due until code outside of the simulation causes one.
    fn next_at(&self) -> Option<Instant>;

    /// Lets time pass without a step, as with a late driver or a suspended computer.
    fn pass(&mut self, span: Duration);

    /// Makes the steps that are due now.
    fn act(&mut self);

    /// Lets time pass until the next step is due, or to `end` if that comes first. True if a step is due.
    fn wait(&mut self, end: Instant) -> bool {
        let next = self.next_at().filter(|at| *at <= end);
        self.pass(next.unwrap_or(end).since(self.now().instant));
        next.is_some()
    }

    /// Lets time pass until the next step is due, and makes it. False if there is no next step.
    fn step(&mut self) -> bool {
        let Some(at) = self.next_at() else { return false };
        self.wait(at);
        self.act();
        true
    }

    /// Makes `most` steps, or fewer if no further step is due.
    fn steps(&mut self, most: usize) {
        for _ in 0..most {
            if !self.step() {
                return;
            }
        }
    }

    /// Makes every step of this span, including those due at its end. Gives up after `most` steps and returns false,
    /// since the simulation may spin.
    fn run_for(&mut self, span: Duration, most: usize) -> bool {
        let end = self.now().instant.after(span);
        for _ in 0..most {
            if !self.wait(end) {
                return true;
            }
            self.act();
        }
        false
    }

    /// Makes steps until `done` returns true, for `span` at most. Returns whether `done` returned true. Makes no step
    /// that is due at the very end of the span.
    fn run_until(&mut self, span: Duration, done: impl Fn(&Self) -> bool) -> bool
    where
        Self: Sized,
    {
        let end = self.now().instant.after(span);
        while !done(self) {
            if self.now().instant >= end {
                return false;
            }
            self.act();
            self.wait(end);
        }
        true
    }
}
