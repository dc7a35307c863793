//! When to look again: the earliest instant at which something may have to be done.

use core::time::Duration;

use super::RotationMachine;
use crate::certificate::Certificate;
use crate::judge::Judge;
use crate::time::{Instant, Now, UnixTime, millis};

impl RotationMachine {
    /// When the next [`Event::Tick`](crate::Event::Tick) is wanted. An early one is harmless. `None`: only an event from
    /// outside can matter.
    pub const fn deadline(&self) -> Option<Instant> {
        self.facts.deadline
    }

    /// The deadline that follows from the facts.
    pub(super) fn next_look(&self, now: Now) -> Option<Instant> {
        let write = self.facts.unwritten.map(|write| write.again_at);
        // No request can become due by time, and no certificate has to take its turn.
        if !self.is_enabled() && self.facts.waiting.is_none() {
            return write;
        }
        let times_out = self.facts.in_flight.map(|(_, since)| since.after(self.request_timeout()));
        let until = |at: UnixTime, clock: UnixTime| (at > clock).then(|| now.instant.after(at.since(clock)));
        let Judge { earliest, latest, .. } = self.judge(now);
        let rotates = self.relied_on().map(|held| self.point(held));
        let begins = self.facts.waiting.as_ref().map(|waiting| waiting.validity.not_before());
        // By the later clock: what is due by either is due.
        let [rotates, begins] = [rotates, begins].map(|at| at.and_then(|at| until(at, latest)));
        // Waits are shortened by the local clock, so that its expiry matters first; a certificate is expired by both.
        let expires = |served: &Certificate| {
            let at = served.validity.not_after().after(Duration::from_millis(1));
            until(at, now.unix).or_else(|| until(at, earliest))
        };
        let expires = self.facts.certificate.as_deref().and_then(expires);
        let moments = [write, times_out, self.next_submission(), rotates, begins, expires];
        moments.into_iter().flatten().fold(self.clock_check(now), Instant::min).into()
    }

    /// The next regular look at the clocks, so that suspend and steps of the wall clock are noticed.
    ///
    /// Looks lie on a grid that the seed shifts, and not [`max_sleep`](crate::Policy::max_sleep) after the last event: how
    /// often a loop ticks must not change what it does. With a grid of 60 s and a seed of 7 s, looks are at 7 s, 67 s,
    /// 127 s …: from 100 s on the next one is at 127 s, and 127 s itself leads to 187 s.
    pub(super) fn clock_check(&self, now: Now) -> Instant {
        let grid = millis(self.facts.policy.max_sleep).max(1);
        let (phase, at) = (self.facts.seed % grid, now.instant.as_millis() % grid);
        let passed = if at >= phase { at - phase } else { grid - (phase - at) };
        now.instant.after(Duration::from_millis(grid - passed))
    }
}
