//! Runs a fleet: one thread for any number of certificates, and further threads only while there is work for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use perennial_rotation::{
    Cancel, CancelOnDrop, Exchange, Fleet, FleetTask, Job, Limits, MemberKey, Reporter, StartError, Work, clock,
};

use crate::pool::Pool;
use crate::run::drive_to_end;

/// The most calls to stores at once, and the most calls to key sources. Calls that hang do not count.
const MOST_CALLS: usize = 4;

/// Starts a fleet on a thread of its own, which ends after [`Fleet::shutdown`]. [`Fleet::add`] adds certificates.
///
/// Requests have a thread each while they are in flight; stores and key sources are called on a few further threads. A
/// call that hangs keeps its thread, and other members get another one. A thread without work ends after a few seconds.
///
/// # Errors
/// The operating system cannot start a thread.
pub fn fleet(limits: Limits) -> Result<Fleet, StartError> {
    let (fleet, task) = Fleet::prepare(limits);
    let spawned = thread::Builder::new().name("perennial-fleet".into()).spawn(|| Threads::new().run(task));
    spawned.map(|_| fleet).map_err(StartError::Thread)
}

/// The threads of a fleet.
struct Threads {
    /// Without a limit: the fleet limits the requests in flight, and a signer that ignores the end of its request must
    /// not keep other requests waiting.
    exchanges: Pool,
    stores: Pool,
    key_sources: Pool,
    /// The guards of the exchanges in flight: dropping one cancels its exchange.
    in_flight: HashMap<MemberKey, CancelOnDrop>,
}

impl Threads {
    fn new() -> Self {
        Self {
            exchanges: Pool::new("perennial-exchange", None),
            stores: Pool::new("perennial-disk", Some(MOST_CALLS)),
            key_sources: Pool::new("perennial-keys", Some(MOST_CALLS)),
            in_flight: HashMap::new(),
        }
    }

    /// Runs the task to its end, on the calling thread.
    fn run(mut self, mut task: FleetTask) {
        while !task.is_over() {
            for (member, work) in task.step(clock::now()) {
                match work {
                    Work::Drive(exchange, reporter) => self.drive(member, exchange, reporter),
                    Work::Cancel => drop(self.in_flight.remove(&member)),
                    Work::Store(job) => self.call(job),
                }
            }
            if !task.is_over() {
                let relief = [self.stores.relieve(), self.key_sources.relieve()].into_iter().flatten();
                let waits = relief.chain(task.deadline().map(clock::until)).min();
                task.arrival().within(waits);
            }
        }
    }

    fn drive(&mut self, member: MemberKey, exchange: Exchange, reporter: Reporter) {
        // An exchange that has ended has dropped its half of the guard.
        self.in_flight.retain(|_, guard| Arc::strong_count(&guard.0) > 1);
        let cancel = Arc::new(Cancel::default());
        let (cancelled, failed) = (cancel.clone(), reporter.clone());
        match self.exchanges.run(move || drive_to_end(exchange, reporter, &cancelled)) {
            Ok(()) => drop(self.in_flight.insert(member, CancelOnDrop(cancel))),
            Err(error) => {
                failed.fail(format!("cannot start a thread for the request: {error}; raise the limit of threads"));
            }
        }
    }

    fn call(&self, job: Job) {
        let pool = if job.is_for_key() { &self.key_sources } else { &self.stores };
        let again = job.clone();
        // No thread: a blocked loop is better than a certificate that is never written.
        if pool.run(|| job.run()).is_err() {
            again.run();
        }
    }
}
