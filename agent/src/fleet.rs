//! Rotates the certificates of a list in one loop, on threads or on smol.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use perennial_rotation::{Fleet, FleetNotices, Limits, News, Notice, Rotator};

use crate::cli::Runtime;
use crate::failure::Failure;
use crate::reactor;
use crate::rotation::{ActiveRotation, Observer};
use crate::threads;

/// Most requests in flight. A request that waits for an approver is in flight, too: members whose requests stay
/// unapproved must not keep the others from their turn.
const IN_FLIGHT: NonZeroU32 = NonZeroU32::new(1024).unwrap();
/// Most notices of all members in the queue to the observers. While the queue is full, further notices are dropped and
/// counted.
const QUEUED: usize = 1 << 14;
/// Most notices of a member that wait for the report.
const UNREPORTED: usize = 256;

/// The loop of all members, and the thread of their observers.
pub(crate) struct Rotations {
    fleet: Fleet,
    observers: Observers,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The observers of each member, by its name.
type Observers = Arc<Mutex<BTreeMap<String, Vec<Observer>>>>;

impl Rotations {
    /// Starts the loop, without members, and the thread of the observers.
    ///
    /// # Errors
    /// [`Failure::Failed`] if the system refuses a thread or, for smol, a descriptor.
    pub(crate) fn start(runtime: Runtime) -> Result<Self, Failure> {
        let limits = Limits { in_flight: IN_FLIGHT, ..Limits::default() };
        let mut started = Vec::new();
        let fleet = match runtime {
            Runtime::Std => perennial_std::fleet(limits).map_err(|error| Failure::Failed(error.to_string()))?,
            Runtime::Smol => {
                reactor::start()?;
                let (fleet, run) = perennial_smol::fleet(limits);
                started.push(threads::start("smol", "the rotations", || smol::block_on(run))?);
                fleet
            }
        };
        let (notices, observers) = (fleet.notices(QUEUED), Observers::default());
        let watched = observers.clone();
        started.push(threads::start("watch", "the observers", move || observe(notices, &watched))?);
        Ok(Self { fleet, observers, threads: Mutex::new(started) })
    }

    /// Adds the member `name`, whose rotation must have this name, with its observers. Blocks while the store is read.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the rotation cannot be prepared.
    pub(crate) fn add(
        &self,
        name: &str,
        rotator: Rotator,
        mut observers: Vec<Observer>,
    ) -> Result<ActiveRotation, Failure> {
        let inbox = Inbox::default();
        observers.push(inbox.observer());
        // Before the member is added, to miss no notice.
        lock(&self.observers).insert(name.to_owned(), observers);
        let handle = self.fleet.add(rotator.name(name)).map_err(Failure::usage)?;
        Ok(ActiveRotation::of_fleet(handle, inbox))
    }

    /// Ends all members, and waits until their observers have handled the last notice.
    pub(crate) fn finish(&self) {
        self.fleet.shutdown().wait();
        for thread in lock(&self.threads).drain(..) {
            // The panic hook has logged a panic already.
            let _ = thread.join();
        }
    }
}

/// The notices of one member for the report. The oldest are dropped if the report does not take them.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<VecDeque<Notice>>>);

impl Inbox {
    /// Returns an observer that keeps all notices except [`News::Stepped`], which are not reported.
    fn observer(&self) -> Observer {
        let inbox = self.clone();
        Box::new(move |notice| {
            if !matches!(notice.news, News::Stepped(_)) {
                let mut waiting = lock(&inbox.0);
                if waiting.len() == UNREPORTED {
                    waiting.pop_front();
                }
                waiting.push_back(notice.clone());
            }
        })
    }

    /// Takes the next notice; `None` if there is none.
    pub(crate) fn take(&self) -> Option<Notice> {
        lock(&self.0).pop_front()
    }
}

fn observe(mut notices: FleetNotices, observers: &Observers) {
    while let Some(received) = notices.recv().wait() {
        if let Some(observers) = lock(observers).get_mut(received.member.name()) {
            observers.iter_mut().for_each(|observer| observer(&received.notice));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
