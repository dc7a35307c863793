//! Durations in flags and messages: parsing, printing, jitter.

use std::time::Duration;

/// Names of each unit, plurals left out, and its length in seconds.
const UNITS: [(&[&str], f64); 6] = [
    (&["ms", "millisecond"], 0.001),
    (&["s", "sec", "second"], 1.0),
    (&["m", "min", "minute"], 60.0),
    (&["h", "hr", "hour"], 3600.0),
    (&["d", "day"], 86_400.0),
    (&["w", "week"], 604_800.0),
];
/// Longest accepted duration: the calendar of certificates ends in year 9999 (RFC 5280, section 4.1.2.5).
const LONGEST: Duration = Duration::from_secs(10_000 * 365 * 86_400);

/// Parses a positive duration: `6s`, `1h30m`, `365d`. A day has 24 hours. The error names an example.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "write a number and a unit, for example 6s, 90m, 1h30m or 365d";
    let (mut span, mut rest) = (Duration::ZERO, text.trim());
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after, |c| c.is_ascii_alphabetic());
        if ["mo", "month", "months", "y", "yr", "year", "years"].contains(&unit) {
            return Err("months and years differ in length; use days, hours, minutes or seconds".to_owned());
        }
        let named = |names: &[&str]| {
            names.iter().any(|name| *name == unit || name.len() > 1 && unit.strip_suffix('s') == Some(name))
        };
        let seconds = UNITS.iter().find(|(names, _)| named(names)).map(|(_, seconds)| seconds);
        let part = seconds.and_then(|seconds| Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok());
        let sum = part.and_then(|part| span.checked_add(part)).filter(|sum| *sum <= LONGEST);
        span = sum.ok_or_else(|| format!("this is not a duration; {EXAMPLES}"))?;
        rest = after;
    }
    if span.is_zero() { Err(format!("a duration must be longer than zero; {EXAMPLES}")) } else { Ok(span) }
}

/// Splits `text` before the first character that is not `of_kind`. Leaves out white space at the beginning of the
/// second part.
fn split(text: &str, of_kind: fn(char) -> bool) -> (&str, &str) {
    let (part, rest) = text.split_at(text.find(|c| !of_kind(c)).unwrap_or(text.len()));
    (part, rest.trim_start())
}

/// Formats a duration by its two largest units: `59 s`, `1 h 30 min`, `364 d 4 h`. Below ten seconds, in tenths: `6.0
/// s`.
pub(crate) fn words(span: Duration) -> String {
    if span < Duration::from_secs(10) {
        return format!("{:.1} s", span.as_secs_f64());
    }
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let largest = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut left = seconds;
    let parts = units[largest..].iter().take(2).map(|(unit, name)| {
        let count = left / unit;
        left %= unit;
        (count, name)
    });
    let parts: Vec<String> =
        parts.filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    parts.join(" ")
}

/// The wait before poll or check number `attempt` of node `name`: `mean`, shorter or longer by up to `permille` of
/// `mean`. The wait depends on name and number, so that nodes that were started together drift apart, and a restarted
/// node has the same waits as before.
pub(crate) fn spread(mean: Duration, permille: u32, name: &str, attempt: u64) -> Duration {
    let draw = u32::try_from(perennial::seed(name, &attempt.to_string()) % 1001).unwrap_or(0);
    mean * (1000 - permille) / 1000 + mean * 2 * permille / 1000 * draw / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_a_thousand_nodes_spread_evenly() {
        let minute = Duration::from_secs(60);
        for attempt in 0..3 {
            let mut tenths = [0_u32; 10];
            for node in 0..1000 {
                let wait = spread(minute, 250, &format!("worker-{node}"), attempt);
                assert!((45_000..=75_000).contains(&wait.as_millis()), "{wait:?}");
                assert_eq!(wait, spread(minute, 250, &format!("worker-{node}"), attempt));
                tenths[((wait.as_millis() - 45_000) / 3001) as usize] += 1;
            }
            assert!(tenths.iter().all(|nodes| (60..=150).contains(nodes)), "{tenths:?}");
        }
        assert_eq!(spread(minute, 0, "worker-1", 7), minute);
    }

    #[test]
    fn span_is_parsed_from_common_notations() {
        let seconds = |text| parse(text).map(|span| span.as_secs());
        assert_eq!(seconds("6s"), Ok(6));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert_eq!(seconds("1h 30m"), Ok(5400));
        assert_eq!(seconds("365d"), Ok(365 * 86_400));
        assert_eq!(seconds("2 weeks"), Ok(14 * 86_400));
        assert_eq!(seconds("1.5 hours"), Ok(5400));
        assert_eq!(parse("1500ms"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn invalid_span_is_refused_with_example() {
        for bad in ["", "6", "soon", "6 parsecs", "0s", "-6s", "1h -2h", "1h 2", "1.2.3s", "99999999999999999999s"] {
            let error = parse(bad).expect_err(bad);
            assert!(error.contains("for example 6s"), "{bad}: {error}");
        }
        assert!(parse("1 month").is_err_and(|error| error.contains("use days")));
    }

    #[test]
    fn span_is_printed_in_its_two_largest_units() {
        let words = |seconds| words(Duration::from_secs(seconds));
        assert_eq!(words(6), "6.0 s");
        assert_eq!(words(59), "59 s");
        assert_eq!(words(5400), "1 h 30 min");
        assert_eq!(words(3600), "1 h");
        assert_eq!(words(364 * 86_400 + 4 * 3600 + 59), "364 d 4 h");
    }
}
