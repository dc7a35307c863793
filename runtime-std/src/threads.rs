//! [`Threads`]: the threads that do the work of one rotation, or of a fleet.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use perennial_rotation::{Cancel, CancelOnDrop, Exchange, Reporter, Work};

use crate::drive::{block_on, drive};
use crate::pool::Pool;

/// The most calls to stores at once, and the most calls to key sources, in a fleet. Calls that hang do not count.
const MOST_CALLS: usize = 4;

/// The threads that drive exchanges and call stores and key sources. `K` names a rotation.
pub(crate) struct Threads<K> {
    /// Without a limit: a signer that ignores the end of its request must not keep other requests waiting. A fleet limits
    /// the requests in flight, and a rotation that runs alone makes one call at a time to its store and to its key
    /// source.
    work: Pool,
    /// The threads for stores and for key sources of a fleet; `None`: those of `work`.
    calls: Option<[Pool; 2]>,
    /// The guards of the exchanges in flight: dropping one cancels its exchange.
    in_flight: HashMap<K, CancelOnDrop>,
}

impl<K: Eq + Hash> Threads<K> {
    /// Threads for a rotation that runs alone. One thread is enough while nothing hangs: the record is saved, then the
    /// exchange is driven, then the pair is written.
    pub(crate) fn of_one() -> Self {
        Self { work: Pool::new("perennial-work", None), calls: None, in_flight: HashMap::new() }
    }

    /// Threads for a fleet.
    pub(crate) fn of_fleet() -> Self {
        let calls = ["perennial-disk", "perennial-keys"].map(|name| Pool::new(name, Some(MOST_CALLS)));
        Self { work: Pool::new("perennial-exchange", None), calls: Some(calls), in_flight: HashMap::new() }
    }

    /// Begins the work of a rotation. Blocks only if it is a call and no thread can be started.
    pub(crate) fn begin(&mut self, rotation: K, work: Work) {
        match work {
            Work::Drive(exchange, reporter) => {
                // An exchange that has ended has dropped its half of the guard.
                self.in_flight.retain(|_, guard| Arc::strong_count(&guard.0) > 1);
                let (cancel, failed) = (Arc::new(Cancel::default()), reporter.clone());
                let cancelled = cancel.clone();
                match self.work.run(move |freed| drive_to_end(exchange, reporter, &cancelled, freed)) {
                    Ok(()) => drop(self.in_flight.insert(rotation, CancelOnDrop(cancel))),
                    Err(error) => failed
                        .fail(format!("cannot start a thread for the request: {error}; raise the limit of threads")),
                }
            }
            Work::Cancel => drop(self.in_flight.remove(&rotation)),
            Work::Store(job) => {
                let calls = self.calls.as_ref();
                let pool = calls.map_or(&self.work, |[stores, keys]| if job.is_for_key() { keys } else { stores });
                let again = job.clone();
                // No thread: a blocked loop is better than a certificate that is never written.
                if pool.run(|freed| job.run_then(freed)).is_err() {
                    again.run();
                }
            }
        }
    }

    /// Starts threads for calls that wait behind hanging calls. Returns after which time to call this again; `None`: no
    /// call waits.
    pub(crate) fn relieve(&self) -> Option<Duration> {
        self.calls.iter().flatten().filter_map(Pool::relieve).min()
    }
}

/// Drives an exchange to its end, and reports its result. Calls `freed` before the report. Reports nothing once the
/// exchange is cancelled, and does not begin an exchange that is cancelled already.
fn drive_to_end(exchange: Exchange, mut reporter: Reporter, cancel: &Cancel, freed: &dyn Fn()) {
    if cancel.is_cancelled() {
        return;
    }
    let outcome = match exchange {
        Exchange::Conversation(conversation) => {
            drive(conversation, cancel, |conversation| reporter.progress(&**conversation))
        }
        Exchange::Blocking(work) => Some(work(cancel)),
        Exchange::Future(future) => block_on(future, cancel),
    };
    if let Some(result) = outcome {
        freed();
        reporter.finish(result);
    }
}
