//! The limit of `--exit-without-certificate`.

use std::time::Duration;

use perennial::Instant;

/// The time without a valid certificate.
#[derive(Default)]
pub(super) struct Absence {
    /// Time from which there has been no valid certificate; `None` if there is one. The clock of this time also runs in
    /// suspend.
    since: Option<Instant>,
}

impl Absence {
    /// Notes whether a valid certificate is missing at the time `now`. Returns how long it has been missing, once that
    /// is as long as `most` allows; `None` before, and without a limit.
    pub(super) fn beyond(&mut self, most: Option<Duration>, is_missing: bool, now: Instant) -> Option<Duration> {
        self.since = is_missing.then(|| self.since.unwrap_or(now));
        let missing = now.since(self.since?);
        (missing >= most?).then_some(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_counts_from_last_valid_certificate() {
        let (mut absence, most) = (Absence::default(), Some(Duration::from_secs(10)));
        let mut beyond =
            |is_missing, seconds: u64| absence.beyond(most, is_missing, Instant::from_millis(seconds * 1000));
        assert_eq!(
            [beyond(true, 0), beyond(true, 9), beyond(false, 10), beyond(true, 11), beyond(true, 20)],
            [None; 5]
        );
        assert_eq!([beyond(true, 21), beyond(true, 30)], [10, 19].map(|seconds| Some(Duration::from_secs(seconds))));
        assert_eq!(absence.beyond(None, true, Instant::from_millis(40_000)), None);
    }
}
