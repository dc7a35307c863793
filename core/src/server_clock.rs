//! The API server's clock, estimated from the `Date` of its responses.

use core::time::Duration;

use crate::time::{Instant, Now, UnixTime};

/// The difference up to which two readings agree: an HTTP `Date` has whole seconds, and a response takes time.
const AGREEMENT: Duration = Duration::from_secs(10);

/// The number of readings in a row that have to agree before the clock is used.
const ENOUGH: u8 = 3;

/// The API server's clock, as an offset to the monotonic clock: a step of the local wall clock does not move it.
///
/// Packed, so that a machine has no padding for it: 10 bytes instead of 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(Rust, packed(2))]
pub struct ServerClock {
    /// The server's time at the origin of the monotonic clock. Meaningless while `agreeing` is zero.
    origin: UnixTime,
    /// The number of readings in a row that agree, up to [`ENOUGH`].
    agreeing: u8,
}

impl ServerClock {
    /// Makes the estimate after `agreeing` readings in a row that agree on `origin`.
    pub const fn new(origin: UnixTime, agreeing: u8) -> Self {
        Self { origin, agreeing }
    }

    /// The time of the server's clock when the monotonic clock was at its origin, computed from the first of the
    /// agreeing readings. Meaningless while [`agreeing`](Self::agreeing) is zero.
    pub const fn origin(&self) -> UnixTime {
        self.origin
    }

    /// The number of readings in a row that agree. Stops at three: from then on, the machine uses the clock.
    pub const fn agreeing(&self) -> u8 {
        self.agreeing
    }

    /// Adds a reading: the server's clock showed `shown` at `now`. Returns whether the estimate changed.
    pub(crate) fn read(&mut self, shown: UnixTime, now: Instant) -> bool {
        let origin = shown.before(since_origin(now));
        let before = *self;
        // Compare with the first reading of the row: small differences in one direction must not add up.
        if self.agreeing > 0 && origin.apart(self.origin) <= AGREEMENT {
            self.agreeing = self.agreeing.saturating_add(1).min(ENOUGH);
        } else {
            *self = Self { origin, agreeing: 1 };
        }
        *self != before
    }

    /// The server's time, if enough readings agree on it.
    pub(crate) fn time(&self, now: Instant) -> Option<UnixTime> {
        self.estimate(now).filter(|_| self.agreeing >= ENOUGH)
    }

    /// The time by the local wall clock and the time by the server's clock, the earlier first. Both are the local time
    /// if the server's time is not known, or differs from the local time by [`AGREEMENT`] at most.
    pub(crate) fn earlier_and_later(&self, now: Now) -> (UnixTime, UnixTime) {
        let server = self.time(now.instant).filter(|server| server.apart(now.unix) > AGREEMENT).unwrap_or(now.unix);
        (now.unix.min(server), now.unix.max(server))
    }

    /// The server's time by the agreeing readings so far, even if there is only one.
    pub(crate) fn estimate(&self, now: Instant) -> Option<UnixTime> {
        (self.agreeing > 0).then(|| self.origin.after(since_origin(now)))
    }
}

const fn since_origin(now: Instant) -> Duration {
    Duration::from_millis(now.as_millis())
}
