//! The API server's clock, by the dates of its answers.

use core::time::Duration;

use crate::time::{Instant, Now, UnixTime};

/// How far two readings may lie apart and still agree: an HTTP `Date` counts whole seconds, and an answer takes time.
const AGREEMENT: Duration = Duration::from_secs(10);

/// The number of readings in a row that have to agree.
const ENOUGH: u8 = 3;

/// The API server's clock. It is kept by the monotonic clock, so that a step of the local wall clock does not move it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerClock {
    /// Its time at the origin of the monotonic clock, by the first of the readings that agree. Meaningless without any.
    pub origin: UnixTime,
    /// Readings in a row that agree, up to three, which are believed.
    pub agreeing: u8,
}

impl ServerClock {
    /// Takes in what the server's clock shows at `now`. False if nothing has changed by that.
    pub(crate) fn read(&mut self, shown: UnixTime, now: Instant) -> bool {
        let origin = shown.before(since_origin(now));
        let before = *self;
        if self.agreeing > 0 && apart(origin, self.origin) <= AGREEMENT {
            self.agreeing = self.agreeing.saturating_add(1).min(ENOUGH);
        } else {
            *self = Self { origin, agreeing: 1 };
        }
        *self != before
    }

    /// The server's time, if enough readings agree on it.
    pub(crate) fn time(&self, now: Instant) -> Option<UnixTime> {
        self.shows(now).filter(|_| self.agreeing >= ENOUGH)
    }

    /// The local wall clock and the server's, the earlier one first. A difference no larger than that between readings
    /// which agree is none.
    pub(crate) fn and_local(&self, now: Now) -> (UnixTime, UnixTime) {
        let server = self.time(now.instant).filter(|server| apart(*server, now.unix) > AGREEMENT).unwrap_or(now.unix);
        (now.unix.min(server), now.unix.max(server))
    }

    /// The server's time by its last reading.
    pub(crate) fn shows(&self, now: Instant) -> Option<UnixTime> {
        (self.agreeing > 0).then(|| self.origin.after(since_origin(now)))
    }
}

const fn since_origin(now: Instant) -> Duration {
    Duration::from_millis(now.as_millis())
}

fn apart(a: UnixTime, b: UnixTime) -> Duration {
    a.since(b).max(b.since(a))
}
