//! [`Calls`]: the threads that call stores and key sources.

use std::time::Duration;

use perennial_rotation::Job;

use crate::pool::Pool;

/// The threads that call the stores and key sources of one rotation, or of a fleet.
pub(crate) struct Calls {
    stores: Pool,
    key_sources: Pool,
}

impl Calls {
    /// Makes threads for at most `most` calls to stores at once, and as many to key sources. Calls that hang do not
    /// count.
    pub(crate) fn new(most: usize) -> Self {
        Self { stores: Pool::new("perennial-disk", Some(most)), key_sources: Pool::new("perennial-keys", Some(most)) }
    }

    /// Makes a call on a thread. Blocks only if no thread can be started.
    pub(crate) fn make(&self, job: Job) {
        let pool = if job.is_for_key() { &self.key_sources } else { &self.stores };
        let again = job.clone();
        // No thread: a blocked loop is better than a certificate that is never written.
        if pool.run(|| job.run()).is_err() {
            again.run();
        }
    }

    /// Starts threads for calls that wait behind hanging calls. Returns after which time to call this again; `None`: no
    /// call waits.
    pub(crate) fn relieve(&self) -> Option<Duration> {
        [self.stores.relieve(), self.key_sources.relieve()].into_iter().flatten().min()
    }
}
