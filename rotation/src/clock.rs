//! The two clocks of this machine.

use std::time::Duration;

use perennial::{Instant, Now, UnixTime};
use rustix::time::{ClockId, clock_gettime};

/// Goes on during suspend where the system has such a clock.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MONOTONIC: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MONOTONIC: ClockId = ClockId::Monotonic;

/// Both clocks. Instants count from the boot of the system, so that all rotations of a process agree.
pub fn now() -> Now {
    let (monotonic, real) = (clock_gettime(MONOTONIC), clock_gettime(ClockId::Realtime));
    let millis =
        |time: rustix::time::Timespec| time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
    Now {
        instant: Instant::from_millis(u64::try_from(millis(monotonic)).unwrap_or(0)),
        unix: UnixTime::from_millis(millis(real).saturating_add(shift())),
    }
}

/// How long to sleep until then; zero if it has passed.
pub fn until(at: Instant) -> Duration {
    at.since(now().instant)
}

/// Milliseconds to add to the wall clock.
#[cfg(not(feature = "test-clock"))]
const fn shift() -> i64 {
    0
}

/// The number in the file that `PERENNIAL_TEST_CLOCK` names, which a test may change at any time.
#[cfg(feature = "test-clock")]
fn shift() -> i64 {
    let file = std::env::var_os("PERENNIAL_TEST_CLOCK");
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
