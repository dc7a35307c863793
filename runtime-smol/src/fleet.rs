//! Runs a fleet: one future for any number of certificates.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use perennial_rotation::{Fleet, FleetTask, Job, Limits, MemberKey, Work, clock};
use smol::future::FutureExt as _;
use smol::lock::Semaphore;
use smol::{Executor, Task, Timer};

use crate::run::{call_on_thread, drive_and_report, due};

/// The most calls to stores at once, and the most calls to key sources. Calls that hang do not count.
const MOST_CALLS: usize = 4;

/// How long a call may take before it counts as hanging.
const HANGS: Duration = Duration::from_secs(3);

/// Returns a fleet, and the future that runs it: spawn the future on an executor. [`Fleet::add`] adds certificates, which
/// rotate only while the future is polled. The future ends after [`Fleet::shutdown`], or once all clones of the [`Fleet`]
/// are dropped and all members have ended. Dropping the future ends the rotations at once, without a last write.
///
/// The future itself drives each request in flight. A signer that blocks has a thread for each request. Stores and key
/// sources are called on a few further threads. If such a call hangs, another thread takes over the calls for other
/// members.
pub fn fleet(limits: Limits) -> (Fleet, impl Future<Output = ()> + Send + use<>) {
    let (fleet, task) = Fleet::prepare(limits);
    (fleet, run_fleet(task))
}

/// Runs the task of a fleet to its end while this future is polled.
async fn run_fleet(task: FleetTask) {
    // Polls only those exchanges that can proceed.
    let executor = Executor::new();
    let work = FleetWork {
        executor: &executor,
        in_flight: HashMap::new(),
        stores: Arc::new(Semaphore::new(MOST_CALLS)),
        key_sources: Arc::new(Semaphore::new(MOST_CALLS)),
    };
    executor.run(work.run(task)).await;
}

/// The work that is under way for a fleet.
struct FleetWork<'a> {
    executor: &'a Executor<'static>,
    /// The exchanges in flight: dropping one cancels it.
    in_flight: HashMap<MemberKey, Task<()>>,
    stores: Arc<Semaphore>,
    key_sources: Arc<Semaphore>,
}

impl FleetWork<'_> {
    async fn run(mut self, mut task: FleetTask) {
        while !task.is_over() {
            for (member, work) in task.step(clock::now()) {
                match work {
                    Work::Drive(exchange, reporter) => {
                        self.in_flight.retain(|_, driven| !driven.is_finished());
                        let driven = self.executor.spawn(drive_and_report(exchange, reporter));
                        self.in_flight.insert(member, driven);
                    }
                    Work::Cancel => drop(self.in_flight.remove(&member)),
                    Work::Store(job) => self.call(job),
                }
            }
            if !task.is_over() {
                task.arrival().or(due(task.deadline())).await;
            }
        }
    }

    fn call(&self, job: Job) {
        let calls = if job.is_for_key() { self.key_sources.clone() } else { self.stores.clone() };
        let call = async move {
            let _permit = calls.acquire().await;
            let ended = call_on_thread(job);
            // Keep no other call waiting for one that hangs.
            let hangs = async {
                Timer::after(HANGS).await;
            };
            async { while ended.recv().await.is_ok() {} }.or(hangs).await;
        };
        self.executor.spawn(call).detach();
    }
}
