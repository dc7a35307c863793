//! Numbers over time.

use std::collections::HashMap;
use std::time::Duration;

use perennial::Instant;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;

/// The number of events in each second of a simulation. Takes a byte a second, and more only for seconds with more than
/// 255 events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerSecond {
    /// The number of events in each second, modulo 256.
    low: Vec<u8>,
    /// How often the number in `low` has wrapped around, by second.
    wraps: HashMap<usize, u32>,
    total: u64,
}

impl PerSecond {
    pub(crate) fn new(span: Duration) -> Self {
        let seconds = usize::try_from(span.as_millis().div_ceil(SECOND.into())).unwrap_or(usize::MAX);
        Self { low: vec![0; seconds], wraps: HashMap::new(), total: 0 }
    }

    pub(crate) fn add(&mut self, at: Instant, events: u8) {
        let second = usize::try_from(at.as_millis() / SECOND).unwrap_or(usize::MAX);
        let Some(low) = self.low.get_mut(second) else { return };
        let (sum, wrapped) = low.overflowing_add(events);
        *low = sum;
        if wrapped {
            *self.wraps.entry(second).or_default() += 1;
        }
        self.total += u64::from(events);
    }

    /// The number of all events.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The number of events in a second.
    pub fn get(&self, second: usize) -> u64 {
        let low = self.low.get(second).copied().map_or(0, u64::from);
        low + 256 * self.wraps.get(&second).copied().map_or(0, u64::from)
    }

    /// The number of events in each second, in order of time.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let wraps = |second| self.wraps.get(&second).copied().unwrap_or(0);
        // Without a look into the map for each second if the map is empty, as it is for most fleets.
        let is_flat = self.wraps.is_empty();
        self.low
            .iter()
            .enumerate()
            .map(move |(second, low)| u64::from(*low) + if is_flat { 0 } else { 256 * u64::from(wraps(second)) })
    }

    /// The most events in one second, and the first second with so many.
    pub fn peak(&self) -> (usize, u64) {
        first_peak(self.iter())
    }
}

/// A number that rises and falls, by minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerMinute {
    /// The difference between each minute and the minute before.
    changes: Vec<i32>,
}

impl PerMinute {
    pub(crate) fn new(span: Duration) -> Self {
        let minutes = usize::try_from(span.as_millis().div_ceil(MINUTE.into())).unwrap_or(usize::MAX);
        // The last entry takes what lies beyond the end, and is not shown.
        Self { changes: vec![0; minutes.saturating_add(1)] }
    }

    /// Adds one to each minute that has a part of the time from `from` to `until`.
    pub(crate) fn add(&mut self, from: Instant, until: Instant) {
        let minute = |at: Instant| usize::try_from(at.as_millis() / MINUTE).unwrap_or(usize::MAX);
        let last = self.changes.len() - 1;
        let (from, until) = (minute(from).min(last), (minute(until).saturating_add(1)).min(last));
        self.changes[from] += 1;
        self.changes[until] -= 1;
    }

    /// The number in each minute, in order of time.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let minutes = &self.changes[..self.changes.len() - 1];
        minutes.iter().scan(0_u64, |number, change| {
            // Never below zero: what falls has risen before.
            *number = number.saturating_add_signed(i64::from(*change));
            Some(*number)
        })
    }

    /// The greatest number, and the first minute that has it.
    pub fn peak(&self) -> (usize, u64) {
        first_peak(self.iter())
    }
}

/// The greatest of the numbers, and the first index that has it.
fn first_peak(numbers: impl Iterator<Item = u64>) -> (usize, u64) {
    // The first of equal peaks: a later one must be greater.
    numbers.enumerate().fold((0, 0), |best, (index, number)| if number > best.1 { (index, number) } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_second_counts_beyond_a_byte() {
        let mut series = PerSecond::new(Duration::from_secs(3));
        for _ in 0..1000 {
            series.add(Instant::from_millis(1500), 3);
        }
        series.add(Instant::from_millis(2999), 1);
        assert_eq!(series.iter().collect::<Vec<_>>(), [0, 3000, 1]);
        assert_eq!((series.peak(), series.total()), ((1, 3000), 3001));
    }

    #[test]
    fn per_minute_counts_each_minute_that_a_time_touches() {
        let mut series = PerMinute::new(Duration::from_secs(180));
        series.add(Instant::from_millis(59_000), Instant::from_millis(61_000));
        series.add(Instant::from_millis(60_000), Instant::from_millis(10_000_000));
        assert_eq!(series.iter().collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(series.peak(), (1, 2));
    }
}
