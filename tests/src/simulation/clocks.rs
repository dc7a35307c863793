//! The clocks of a computer, in virtual time: the monotonic clock, the wall clock, and the time spent in suspend.

use std::time::Duration;

use perennial::{Instant, Now, UnixTime};

use crate::mint;

/// The clocks of a computer, in virtual time.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The time of the monotonic and of the wall clock. The monotonic clock advances during suspend, too.
    pub now: Now,
    /// The milliseconds per second that the wall clock gains on the monotonic clock; negative if the wall clock is
    /// slow.
    pub drift: i64,
    /// The time for which the computer has been suspended so far. Timers of programs stand still during suspend.
    pub suspended: Duration,
}

impl Clocks {
    /// Clocks that show the time `now`, without drift.
    pub const fn at(now: Now) -> Self {
        Self { now, drift: 0, suspended: Duration::ZERO }
    }

    /// Clocks whose wall clock shows this time, and whose monotonic clock is at its origin.
    pub const fn starting(unix: UnixTime) -> Self {
        Self::at(Now { instant: Instant::from_millis(0), unix })
    }

    /// Lets this much time pass, in which the wall clock drifts.
    pub fn pass(&mut self, span: Duration) {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let gained = i64::try_from(i128::from(millis) * i128::from(self.drift) / 1000).unwrap_or(0);
        self.now = Now { instant: self.now.instant.after(span), unix: self.now.unix.after(span) };
        self.step_wall_clock(gained);
    }

    /// Suspends the computer for this much time.
    pub fn suspend(&mut self, span: Duration) {
        self.suspended += span;
        self.pass(span);
    }

    /// Steps the wall clock by this many milliseconds: forward, or back if the number is negative.
    pub fn step_wall_clock(&mut self, millis: i64) {
        let span = Duration::from_millis(millis.unsigned_abs());
        self.now.unix = if millis < 0 { self.now.unix.before(span) } else { self.now.unix.after(span) };
    }

    /// The time since the origin of the monotonic clock.
    pub fn elapsed(&self) -> Duration {
        self.now.instant.since(Instant::default())
    }

    /// The time for which the computer has been awake. Timers of programs run by this time.
    pub fn awake(&self) -> Duration {
        self.elapsed() - self.suspended
    }
}

impl Default for Clocks {
    fn default() -> Self {
        Self::starting(mint::EPOCH)
    }
}
