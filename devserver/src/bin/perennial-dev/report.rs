//! Output of the commands on stdout.

use std::io::{self, Write as _};
use std::time::Duration;

use jiff::SignedDuration;
use perennial::UnixTime;

/// Writes a line to stdout. Ignores errors, such as a closed pipe.
pub(crate) fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The time of day in UTC. Omits the date, since a person follows the output of a command for hours rather than days.
pub(crate) fn time_of_day(at: UnixTime) -> String {
    let (_, _, _, hour, minute, second, _) = at.civil();
    format!("{hour:02}:{minute:02}:{second:02}")
}

/// Formats a span for people, such as `6s` or `1h 30m`, cut to tenths of a second.
pub(crate) fn human_duration(span: Duration) -> String {
    let tenths = i64::try_from(span.as_millis() / 100).unwrap_or(i64::MAX);
    format!("{:#}", SignedDuration::from_millis(tenths.saturating_mul(100)))
}
