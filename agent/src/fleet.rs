//! Rotates the certificates of a list in one loop, on threads or on smol.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use perennial_rotation::{
    Fleet, FleetNotices, Handle, Limits, MemberNotice, News, Notice, Rotator, Snapshot, StartError,
};

use crate::cli::Runtime;
use crate::failure::Failure;
use crate::reactor;
use crate::rotation::{ActiveRotation, Observer, notify};
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

/// The observers of all members.
type Observers = Arc<Mutex<Observed>>;

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

    /// Adds a rotation as the member `name`, with its observers. Blocks while the store is read.
    ///
    /// # Errors
    /// The rotation cannot be prepared.
    pub(crate) fn add(
        &self,
        name: &str,
        rotator: Rotator,
        mut observers: Vec<Observer>,
    ) -> Result<ActiveRotation, StartError> {
        let inbox = Inbox::default();
        // First, so that the inbox has a notice before another observer wakes the main loop for it.
        observers.insert(0, inbox.observer());
        // Before the member is added, to miss no notice.
        let number = lock(&self.observers).insert(name, observers);
        let added = self.fleet.add(rotator.name(name));
        if added.is_err() {
            lock(&self.observers).remove(name, number);
        }
        Ok(ActiveRotation::of_fleet(added?, inbox))
    }

    /// Ends all members, and waits up to `most` for their last writes. Then waits until their observers have handled the
    /// last notice. Returns false, without the wait for the observers, if a member has not ended in time.
    pub(crate) fn finish_within(&self, most: Duration) -> bool {
        self.fleet.shutdown().within(most);
        if !self.fleet.has_ended() {
            return false;
        }
        for thread in lock(&self.threads).drain(..) {
            // The panic hook has logged a panic already.
            let _ = thread.join();
        }
        true
    }
}

/// The notices of one member for the report. The oldest are dropped if the report does not take them.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Received>>);

/// The content of an [`Inbox`].
#[derive(Default)]
struct Received {
    waiting: VecDeque<Notice>,
    /// The snapshot of the last notice; `None` before the first one.
    last: Option<Arc<Snapshot>>,
}

impl Inbox {
    /// Returns an observer that keeps all notices except [`News::Stepped`], which are not reported.
    pub(crate) fn observer(&self) -> Observer {
        let inbox = self.clone();
        Box::new(move |notice| {
            let mut received = lock(&inbox.0);
            received.last = Some(notice.snapshot.clone());
            if !matches!(notice.news, News::Stepped(_)) {
                if received.waiting.len() == UNREPORTED {
                    received.waiting.pop_front();
                }
                received.waiting.push_back(notice.clone());
            }
        })
    }

    /// Takes the next notice; `None` if there is none.
    pub(crate) fn take(&self) -> Option<Notice> {
        lock(&self.0).waiting.pop_front()
    }

    /// The snapshot of the last notice; `None` before the first one. The snapshot of the member's handle may be newer:
    /// another thread brings the notices.
    pub(crate) fn last(&self) -> Option<Arc<Snapshot>> {
        lock(&self.0).last.clone()
    }
}

/// The members with their observers, each from before its start until its last notice. A member may start while notices
/// of an earlier member of the same name are still queued.
#[derive(Default)]
struct Observed {
    by_name: BTreeMap<String, Vec<Member>>,
    /// The number of members that were ever added, which numbers the next one.
    added: u64,
}

/// A member and its observers.
struct Member {
    number: u64,
    /// The member's handle; `None` until its first notice.
    handle: Option<Handle>,
    observers: Arc<Mutex<Vec<Observer>>>,
}

impl Observed {
    /// Adds the observers of a member that is about to start. Returns the member's number.
    fn insert(&mut self, name: &str, observers: Vec<Observer>) -> u64 {
        self.added += 1;
        let member = Member { number: self.added, handle: None, observers: Arc::new(Mutex::new(observers)) };
        self.by_name.entry(name.to_owned()).or_default().push(member);
        self.added
    }

    /// Finds the number and the observers of this member.
    fn find(&mut self, handle: &Handle) -> Option<(u64, Arc<Mutex<Vec<Observer>>>)> {
        let members = self.by_name.get_mut(handle.name())?;
        let known = members.iter().position(|member| member.handle.as_ref() == Some(handle));
        // A first notice: earlier members of this name are known until their last one.
        let index = known.or_else(|| members.iter().position(|member| member.handle.is_none()))?;
        let member = &mut members[index];
        member.handle.get_or_insert_with(|| handle.clone());
        Some((member.number, member.observers.clone()))
    }

    /// Drops the observers of a member.
    fn remove(&mut self, name: &str, number: u64) {
        if let Some(members) = self.by_name.get_mut(name) {
            members.retain(|member| member.number != number);
            if members.is_empty() {
                self.by_name.remove(name);
            }
        }
    }
}

fn observe(mut notices: FleetNotices, observed: &Observers) {
    while let Some(MemberNotice { member, notice, .. }) = notices.recv().wait() {
        // Released before the observers run: a start must not wait for them.
        let found = lock(observed).find(&member);
        let Some((number, observers)) = found else { continue };
        notify(&mut lock(&observers), &notice);
        if notice.news == News::Ended {
            lock(observed).remove(member.name(), number);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use perennial::Template;

    use super::*;

    #[test]
    fn notices_of_two_members_with_one_name_go_to_their_own_observers() {
        let prepare = || Rotator::new().name("web").prepare().unwrap();
        let ((old, _old), (new, _new)) = (prepare(), prepare());
        let mut observed = Observed::default();
        let find = |observed: &mut Observed, handle| observed.find(handle).map(|(number, _)| number);
        let first = observed.insert("web", Vec::new());
        assert_eq!(find(&mut observed, &old), Some(first));
        assert_eq!(find(&mut observed, &new), None, "not added yet");
        let second = observed.insert("web", Vec::new());
        assert_eq!(
            [&old, &new, &old].map(|handle| find(&mut observed, handle)),
            [Some(first), Some(second), Some(first)]
        );
        observed.remove("web", first);
        assert_eq!((find(&mut observed, &old), find(&mut observed, &new)), (None, Some(second)));
        observed.remove("web", second);
        assert!(observed.by_name.is_empty());
    }

    #[test]
    fn panic_of_observer_costs_no_notice_and_observers_end_with_their_member() {
        let rotations = Rotations::start(Runtime::Std).unwrap();
        let ended = Arc::new(AtomicU32::new(0));
        let count = ended.clone();
        let panics: Observer = Box::new(|_| panic!("a bug in an observer"));
        let counts: Observer = Box::new(move |notice| {
            count.fetch_add(u32::from(notice.news == News::Ended), Ordering::SeqCst);
        });
        let _one = rotations.add("one", Rotator::new(), vec![panics, counts]).unwrap();
        let count = ended.clone();
        let counts: Observer = Box::new(move |notice| {
            count.fetch_add(u32::from(notice.news == News::Ended), Ordering::SeqCst);
        });
        let _two = rotations.add("two", Rotator::new(), vec![counts]).unwrap();
        let bad = Template::new("x".repeat(1 << 10));
        assert!(rotations.add("bad", Rotator::new().template(bad), Vec::new()).is_err());
        assert!(!lock(&rotations.observers).by_name.contains_key("bad"));
        assert!(rotations.finish_within(Duration::from_secs(60)));
        assert_eq!(ended.load(Ordering::SeqCst), 2);
        assert!(lock(&rotations.observers).by_name.is_empty());
    }
}
