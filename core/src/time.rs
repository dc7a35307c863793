//! The two clocks, as values.
//!
//! Rotation points are times of the wall clock: X.509 validity is written in UTC. Backoff and timeouts are
//! spans of the monotonic clock, which must not stretch if the wall clock is set back. A driver
//! reads both clocks together and passes them as one [`Now`]; the core reads neither.

use core::fmt;
use core::num::NonZero;
use core::str::FromStr;
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
        self.before_millis(millis(span))
    }

    pub(crate) const fn before_millis(self, span: u64) -> Self {
        Self(self.0.saturating_sub_unsigned(span))
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

/// Reads RFC 3339 (§5.6), in UTC or with an offset: `2026-01-01T12:00:00Z`, `2026-01-01T13:00:00.5+01:00`. Fractions of
/// a millisecond are cut off. As in Go, a leap second `:60` is an error.
impl FromStr for UnixTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        rfc3339(text.as_bytes()).ok_or(TimeError)
    }
}

fn rfc3339(text: &[u8]) -> Option<UnixTime> {
    let (clock, rest) = text.split_at_checked("2026-01-01T12:00:00".len())?;
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T' | b't', ..] = clock else { return None };
    let &[.., h1, h2, b':', n1, n2, b':', s1, s2] = clock else { return None };
    let (year, month, day) = (number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?);
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[n1, n2])?, number(&[s1, s2])?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last_day = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=last_day).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix(b".") {
        Some(rest) => rest.split_at(rest.iter().take_while(|byte| byte.is_ascii_digit()).count()),
        None => (&b"0"[..], rest),
    };
    let milli = match *fraction {
        [] => return None,
        [a] => number(&[a])? * 100,
        [a, b] => number(&[a, b])? * 10,
        [a, b, c, ..] => number(&[a, b, c])?,
    };
    let east = match *zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', n1, n2] => {
            let (hours, minutes) = (number(&[h1, h2])?, number(&[n1, n2])?);
            let span = Some(hours * 60 + minutes).filter(|_| hours < 24 && minutes < 60)?;
            if sign == b'+' { span } else { -span }
        }
        _ => return None,
    };
    let seconds = ((days_before(year, month) + day - 1) * 24 + hour) * 3600 + (minute - east) * 60 + second;
    Some(UnixTime(seconds * 1000 + milli))
}

/// The days from 1970-01-01 to the first day of a month; negative for an earlier month.
const fn days_before(year: i64, month: i64) -> i64 {
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 - 719_468
}

/// The number that these decimal digits stand for; `None` if there is another character.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
}

/// Error of a text that is no time in RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeError;

impl fmt::Display for TimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a time in RFC 3339, such as 2026-01-01T12:00:00Z")
    }
}

impl core::error::Error for TimeError {}

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
