//! The progress bar of a simulation, on stderr if that is a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// The least time between two updates.
const UPDATE: Duration = Duration::from_millis(100);
const WIDTH: usize = 40;

/// A progress bar. Dropping it removes the bar.
pub(crate) struct Progress {
    what: String,
    of: u32,
    is_shown: bool,
    next: Instant,
}

impl Progress {
    /// A bar for `of` nodes, which appears after the first [`UPDATE`].
    pub(crate) fn new(what: String, of: u32) -> Self {
        Self { what, of: of.max(1), is_shown: false, next: Instant::now() + UPDATE }
    }

    pub(crate) fn show(&mut self, done: u32) {
        let now = Instant::now();
        if now < self.next || !io::stderr().is_terminal() {
            return;
        }
        (self.next, self.is_shown) = (now + UPDATE, true);
        let share = f64::from(done) / f64::from(self.of);
        let filled = (share * WIDTH as f64) as usize;
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH.saturating_sub(filled)));
        let _ = write!(io::stderr(), "\r{} [{bar}] {:3.0} %", self.what, share * 100.0);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            // Carriage return, then erase to the end of the line (ECMA-48).
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
