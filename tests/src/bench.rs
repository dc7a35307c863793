//! Sizes and times of benches. With the argument `--test`, a bench runs to its end in a second: a check that it still works.

use std::time::{Duration, Instant};

/// Returns `full`, or `trial` if this bench was started with `--test`. The figures of a trial mean nothing.
pub fn sized<T>(full: T, trial: T) -> T {
    if std::env::args().any(|argument| argument == "--test") { trial } else { full }
}

/// Returns the median time of a call, over nine rounds of this many calls.
pub fn median_time(calls: u32, mut work: impl FnMut()) -> Duration {
    let mut rounds = [(); 9].map(|()| {
        let begun = Instant::now();
        (0..calls).for_each(|_| work());
        begun.elapsed() / calls
    });
    rounds.sort_unstable();
    rounds[4]
}
