//! The driver: whatever lives in virtual time is driven by these few loops.

use std::time::Duration;

use perennial::{Instant, Now};

/// Something that lives in virtual time: whoever keeps a certificate, with the other side that it asks.
pub trait Member {
    /// What its clocks show.
    fn now(&self) -> Now;

    /// When there is something to do by itself; `None`: never.
    fn next_at(&self) -> Option<Instant>;

    /// Time passes, and nobody looks: a driver that is late, or a computer asleep.
    fn pass(&mut self, span: Duration);

    /// Does what is due now.
    fn act(&mut self);

    /// Lets time pass until there is something to do, or to `end` if that comes first. True if there is something to do.
    fn wait(&mut self, end: Instant) -> bool {
        let next = self.next_at().filter(|at| *at <= end);
        self.pass(next.unwrap_or(end).since(self.now().instant));
        next.is_some()
    }

    /// Goes to the next thing to do, and does it. False if nothing will ever happen by itself.
    fn step(&mut self) -> bool {
        let Some(at) = self.next_at() else { return false };
        self.wait(at);
        self.act();
        true
    }

    /// So many steps.
    fn steps(&mut self, most: usize) {
        for _ in 0..most {
            if !self.step() {
                return;
            }
        }
    }

    /// Every step of this span, its end included, but no more than `most`. False if there were more: something spins.
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

    /// Goes on until `done`, for so long at most; whether it came to that. What is due at the very end is left to do.
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
