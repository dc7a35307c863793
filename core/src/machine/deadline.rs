//! The deadline: the earliest instant at which time alone may lead to an action.

use super::RotationMachine;
use crate::time::{Instant, Now, UnixTime, millis};

impl RotationMachine {
    /// When the next [`Event::Tick`](crate::Event::Tick) is wanted. An earlier Tick does no harm. `None`: only another
    /// event can change anything.
    pub const fn deadline(&self) -> Option<Instant> {
        self.facts.deadline
    }

    /// Computes the deadline from the facts: the earliest instant at which time alone may lead to an action.
    /// `clocks` are the earlier and the later wall clock.
    pub(super) fn next_deadline(&self, clocks: (UnixTime, UnixTime), now: Now) -> Option<Instant> {
        let write = self.facts.unwritten.map(|write| write.again_at);
        // Without template or signer, and without a waiting certificate, only a write depends on time.
        if !self.is_enabled() && self.facts.waiting.is_none() {
            return write;
        }
        let (earliest, latest) = clocks;
        let mut deadline: Option<Instant> = None;
        let mut add = |moment: Option<Instant>| {
            if let Some(moment) = moment {
                deadline = Some(deadline.map_or(moment, |earlier| earlier.min(moment)));
            }
        };
        let until =
            |at: UnixTime, clock: UnixTime| (at > clock).then(|| now.instant.after_millis(at.millis_since(clock)));
        add(write);
        add(self.facts.in_flight.map(|(_, since)| since.after(self.request_timeout())));
        // A queued submission waits for its turn, not for a time.
        if !self.facts.queued {
            add(self.next_submission());
        }
        // By the later clock: rotation point and notBefore count as passed if they have by either clock.
        add(self.newest_certificate().and_then(|_| until(self.facts.rotate_at, latest)));
        add(self.facts.waiting.as_ref().and_then(|waiting| until(waiting.validity.not_before(), latest)));
        // `shorten_wait` counts the time left by the local clock, so the local expiry comes first; then that by both
        // clocks.
        // notAfter is inclusive (RFC 5280 §4.1.2.5): a certificate has expired a millisecond later.
        let end = self.facts.certificate.as_ref().map(|served| served.validity.not_after().after_millis(1));
        add(end.and_then(|end| until(end, now.unix).or_else(|| until(end, earliest))));
        // The owner of a fleet checks the clocks for all its machines.
        if !self.facts.signer.is_shared() {
            add(Some(self.clock_check(now)));
        }
        deadline
    }

    /// The next regular check of the clocks, which notices suspend and steps of the wall clock.
    ///
    /// Checks lie on a grid: they are [`max_sleep`](crate::Policy::max_sleep) apart, and the seed shifts them. They do
    /// not count from the last event, since the number of Ticks that a loop sends must not change what the machine
    /// does. With a grid of 60 s and a seed of 7 s, checks are at 7 s, 67 s, 127 s …: at 100 s the next one is at 127
    /// s, and at 127 s it is at 187 s.
    pub(super) fn clock_check(&self, now: Now) -> Instant {
        let grid = millis(self.facts.policy.max_sleep).max(1);
        let (phase, at) = (self.facts.seed % grid, now.instant.as_millis() % grid);
        let passed = if at >= phase { at - phase } else { grid - (phase - at) };
        now.instant.after_millis(grid - passed)
    }
}
