//! The two clocks of the host: monotonic and wall clock.

use std::time::Duration;

use perennial::{Instant, Now, UnixTime};
use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock. On Linux, this clock also counts time during a suspend, since certificates grow older then,
/// too.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MONOTONIC: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MONOTONIC: ClockId = ClockId::Monotonic;

/// Reads the monotonic and the wall clock. The instants of all rotations of a process count from the same moment (on
/// Linux, the boot of the host), and can be compared.
pub fn now() -> Now {
    let (monotonic, real) = (clock_gettime(MONOTONIC), clock_gettime(ClockId::Realtime));
    let millis =
        |time: rustix::time::Timespec| time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
    Now {
        instant: Instant::from_millis(u64::try_from(millis(monotonic)).unwrap_or(0)),
        unix: UnixTime::from_millis(millis(real).saturating_add(shift())),
    }
}

/// Time left until `at`; zero if `at` has passed.
pub fn until(at: Instant) -> Duration {
    at.since(now().instant)
}

/// Milliseconds to add to the wall clock: zero, except in builds with the feature `test-clock`.
#[cfg(not(feature = "test-clock"))]
const fn shift() -> i64 {
    0
}

/// Milliseconds to add to the wall clock: the number in the file that `PERENNIAL_TEST_CLOCK` names. A test may change
/// the file at any time.
#[cfg(feature = "test-clock")]
fn shift() -> i64 {
    let file = std::env::var_os("PERENNIAL_TEST_CLOCK");
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
