//! [`ClockOffset`]: the difference between the signer's clock and the local wall clock, for people.

use std::fmt;

use perennial::{Now, UnixTime};

const MINUTE: u64 = 60_000;

/// How far the signer's clock is ahead of the local wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// The offset in milliseconds; negative if the signer's clock is behind. Accurate to a second or two, since a
    /// `Date` counts whole seconds.
    pub millis: i64,
}

impl ClockOffset {
    pub(super) const fn between(server: UnixTime, now: Now) -> Self {
        Self { millis: server.as_millis().saturating_sub(now.unix.as_millis()) }
    }

    /// True if the clocks differ by more than one minute, which a person should correct.
    pub const fn is_large(self) -> bool {
        self.millis.unsigned_abs() > MINUTE
    }
}

/// The offset, and whether the local clock is ahead or behind, such as `6 h 0 min (behind)`.
impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.millis.unsigned_abs() / 1000;
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s")?,
            (0, 0, _) => write!(f, "{minutes} min {} s", seconds % 60)?,
            (0, ..) => write!(f, "{hours} h {minutes} min")?,
            _ => write!(f, "{days} d {hours} h")?,
        }
        f.write_str(if self.millis < 0 { " (ahead)" } else { " (behind)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_is_shown_with_its_size_and_direction() {
        for (millis, large, shown) in [
            (0, false, "0 s (behind)"),
            (-59_999, false, "59 s (ahead)"),
            (60_000, false, "1 min 0 s (behind)"),
            (-60_001, true, "1 min 0 s (ahead)"),
            (6 * 3_600_000, true, "6 h 0 min (behind)"),
            (-2 * 86_400_000, true, "2 d 0 h (ahead)"),
            (i64::MIN, true, "106751991167 d 7 h (ahead)"),
        ] {
            let offset = ClockOffset { millis };
            assert_eq!((offset.is_large(), offset.to_string().as_str()), (large, shown));
        }
    }
}
