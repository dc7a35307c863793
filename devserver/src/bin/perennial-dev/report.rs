//! What the commands report on stdout.

use std::io::{self, Write as _};
use std::time::Duration;

use jiff::SignedDuration;
use perennial::UnixTime;

/// Writes a line to stdout. Goes on without a reader.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The time of day in UTC: enough for what happens within a day.
pub(crate) fn time_of_day(at: UnixTime) -> String {
    let (_, _, _, hour, minute, second, _) = at.civil();
    format!("{hour:02}:{minute:02}:{second:02}")
}

/// A span as people write it, rounded to tenths of a second: `6s`, `1h 30m`.
pub(crate) fn words(span: Duration) -> String {
    let tenths = i64::try_from(span.as_millis() / 100).unwrap_or(i64::MAX);
    format!("{:#}", SignedDuration::from_millis(tenths.saturating_mul(100)))
}
