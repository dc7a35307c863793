//! The two clocks, as values.
//!
//! Rotation points are times of the wall clock: X.509 validity is written in UTC. Backoff and timeouts are
//! spans of the monotonic clock, which must not stretch if the wall clock is set back. A driver
//! reads both clocks together and passes them as one [`Now`]; the core reads neither.

use core::fmt;
use core::num::NonZero;
use core::time::Duration;

/// A point on the driver's monotonic clock: milliseconds since an origin that the driver chose.
///
/// Use a clock that advances during suspend (Linux `CLOCK_BOOTTIME`) where there is one.
///
/// An `Option<Instant>` has the size of an `Instant`: eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(
    /// The milliseconds plus one.
    NonZero<u64>,
);

impl Instant {
    /// The last representable instant, at which sums saturate.
    pub const MAX: Self = Self(NonZero::<u64>::MAX);

    /// The instant `millis` milliseconds after the origin of the clock, saturating at [`Instant::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        Self(NonZero::<u64>::MIN.saturating_add(millis))
    }

    /// Milliseconds since the origin of the clock.
    pub const fn as_millis(self) -> u64 {
        self.0.get() - 1
    }

    /// The instant `span` later, in whole milliseconds, saturating at [`Instant::MAX`].
    pub const fn after(self, span: Duration) -> Self {
        self.after_millis(millis(span))
    }

    pub(crate) const fn after_millis(self, span: u64) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// The instant `span` earlier, in whole milliseconds, not before the origin of the clock.
    pub(crate) const fn before(self, span: Duration) -> Self {
        Self::from_millis(self.as_millis().saturating_sub(millis(span)))
    }

    /// The span since `earlier`, zero if `earlier` lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.get().saturating_sub(earlier.0.get()))
    }
}

/// The origin of the clock.
impl Default for Instant {
    fn default() -> Self {
        Self::from_millis(0)
    }
}

/// Shows the milliseconds since the origin of the clock.
impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Instant").field(&self.as_millis()).finish()
    }
}

/// A point in wall-clock time: milliseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
///
/// `i64` milliseconds reach far beyond year 9999, the last a certificate can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    /// The time `seconds` seconds after the epoch, saturating.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// The time `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The time `span` later, in whole milliseconds, saturating.
    pub const fn after(self, span: Duration) -> Self {
        self.after_millis(millis(span))
    }

    pub(crate) const fn after_millis(self, span: u64) -> Self {
        Self(self.0.saturating_add_unsigned(span))
    }

    /// The time `span` earlier, in whole milliseconds, saturating.
    pub const fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(millis(span)))
    }

    /// The span since `earlier`, zero if `earlier` lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.millis_since(earlier))
    }

    /// The span between the two times, whichever is the earlier.
    pub(crate) fn apart(self, other: Self) -> Duration {
        self.since(other).max(other.since(self))
    }

    /// [`since`](Self::since) in milliseconds.
    pub(crate) const fn millis_since(self, earlier: Self) -> u64 {
        if self.0 <= earlier.0 { 0 } else { self.0.abs_diff(earlier.0) }
    }

    /// The date and time of day in UTC: `(year, month, day, hour, minute, second, millisecond)`.
    pub const fn civil(self) -> (i64, u8, u8, u8, u8, u8, u16) {
        let (days, ms) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        // Days to civil date, proleptic Gregorian: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
        let z = days + 719_468;
        let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + (month <= 2) as i64;
        let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
        let (second, milli) = (ms / 1000 % 60, ms % 1000);
        (year, month as u8, day as u8, hour as u8, minute as u8, second as u8, milli as u16)
    }
}

const DAY: i64 = 86_400_000;

/// Shows RFC 3339 in UTC, with milliseconds only if they are not zero.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second, milli) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if milli != 0 {
            write!(f, ".{milli:03}")?;
        }
        f.write_str("Z")
    }
}

/// The monotonic clock and the wall clock, read together by the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Now {
    /// The monotonic clock: measures backoff, timeouts and the submission budget.
    pub instant: Instant,
    /// The wall clock: measures validity and the rotation point.
    pub unix: UnixTime,
}

/// A span in milliseconds, saturating.
pub(crate) const fn millis(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1000).saturating_add(span.subsec_millis() as u64)
}

/// Lengthens `span` to a millisecond if it is shorter: settings of zero count as a millisecond.
pub(crate) fn at_least_a_millisecond(span: Duration) -> Duration {
    span.max(Duration::from_millis(1))
}
