//! Pauses between HTTP requests. Their random part is computed from a seed, without a random number generator: equal
//! seeds give equal pauses, and nodes with different seeds retry at different times.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(800);
const LONGEST: Duration = Duration::from_secs(30);
const FIRST_POLL: Duration = Duration::from_secs(5);

pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The pause after a failure: a random time between 800 ms and a ceiling. The ceiling is 1.6 s after the first
    /// failure in a row, and doubles with each further failure, up to 30 s. `failures` is the number of failures in the
    /// row before this failure.
    pub(crate) fn backoff(&mut self, failures: u32) -> Duration {
        let ceiling = doubled(SHORTEST, failures.saturating_add(1));
        Duration::from_millis(self.between(millis(SHORTEST), millis(ceiling)))
    }

    /// The pause before a poll of the request object, where watches do not work. The pause is 5 s for the first poll,
    /// and doubles with each further poll, up to 30 s; then up to a fifth is taken off at random. `polls` is the number
    /// of earlier pauses before polls.
    pub(crate) fn poll(&mut self, polls: u32) -> Duration {
        let pause = millis(doubled(FIRST_POLL, polls));
        Duration::from_millis(self.between(pause - pause / 5, pause))
    }

    /// Draws a number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        // The remainder favours low numbers by less than 1 in 2^40: that does not matter for pauses.
        low + self.draw() % (high.saturating_sub(low) + 1)
    }

    /// The next output of SplitMix64 (Steele, Lea, Flood 2014).
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(1_u32.checked_shl(times).filter(|factor| *factor != 0).unwrap_or(u32::MAX)).min(LONGEST)
}

const fn millis(pause: Duration) -> u64 {
    // No pause is longer than `LONGEST`.
    pause.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_in_range_for_any_failure_count() {
        let mut jitter = Jitter::new(1);
        for failures in [0, 1, 2, 5, 6, 31, 32, 1000, u32::MAX] {
            for _ in 0..200 {
                let ceiling = if failures > 4 { LONGEST } else { SHORTEST * (2 << failures) };
                assert!((SHORTEST..=ceiling).contains(&jitter.backoff(failures)));
                assert!((FIRST_POLL * 4 / 5..=LONGEST).contains(&jitter.poll(failures)));
                assert!((300..=600).contains(&jitter.between(300, 600)));
            }
        }
    }

    #[test]
    fn pauses_repeat_for_equal_seeds_only() {
        let pauses = |seed| -> Vec<Duration> {
            let mut jitter = Jitter::new(seed);
            (0..8).map(|failures| jitter.backoff(failures)).collect()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
