//! [`Hub`]: the state that the loop of a fleet, its handles and its members share.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use event_listener::Event;
use perennial::{MemberKey, RotationMachine};

use crate::handle::link::notify;
use crate::handle::{Queue, Queues};
use crate::{Handle, Notice, Task};

/// The state that the loop of a fleet, its handles and its members share.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    arrivals: Mutex<Arrivals>,
    /// Notified when something arrives for the loop.
    pub(crate) arrived: Event,
    /// The queues of the observers of all members.
    queues: Mutex<Queues>,
    /// Notified when a notice of a member is queued, and when the fleet ends.
    pub(crate) notified: Event,
    has_ended: AtomicBool,
    /// Notified when the fleet ends.
    pub(crate) ended: Event,
}

/// Members and messages that have arrived for the loop of a fleet since its last step.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// New members. Boxed: a list of thousands of tasks that grows, and then goes, leaves holes in the heap.
    #[expect(clippy::vec_box, reason = "see above")]
    pub(crate) added: Vec<Box<Task>>,
    /// The members with messages. A member may be here twice, or have been removed.
    pub(crate) ready: Vec<MemberKey>,
    /// True once all members are to end.
    pub(crate) stops: bool,
    /// True once no member can be added any more.
    pub(crate) is_closed: bool,
}

impl Hub {
    /// Tells the loop that this member has messages.
    pub(crate) fn announce(&self, member: MemberKey) {
        self.arrivals().ready.push(member);
        notify(&self.arrived);
    }

    /// Adds a member. Returns the task if the fleet takes no members any more.
    pub(crate) fn add(&self, task: Box<Task>) -> Result<(), Box<Task>> {
        let mut arrivals = self.arrivals();
        if arrivals.is_closed {
            return Err(task);
        }
        arrivals.added.push(task);
        drop(arrivals);
        notify(&self.arrived);
        Ok(())
    }

    /// Takes no members any more. With `stops`, all members end, too.
    pub(crate) fn close(&self, stops: bool) {
        let mut arrivals = self.arrivals();
        arrivals.is_closed = true;
        arrivals.stops |= stops;
        drop(arrivals);
        notify(&self.arrived);
    }

    /// Removes and returns all arrivals.
    pub(crate) fn take(&self) -> Arrivals {
        let mut arrivals = self.arrivals();
        let is_closed = arrivals.is_closed;
        mem::replace(&mut *arrivals, Arrivals { is_closed, ..Arrivals::default() })
    }

    pub(crate) fn has_arrivals(&self) -> bool {
        let arrivals = self.arrivals();
        !arrivals.added.is_empty() || !arrivals.ready.is_empty() || arrivals.stops
    }

    /// True once no member can be added any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.arrivals().is_closed
    }

    /// Adds an observer of all members, whose queue has room for `most` notices.
    pub(crate) fn subscribe(&self, most: usize) -> Arc<Queue> {
        self.queues().subscribe(most)
    }

    /// Adds notices of a member to the queue of each observer.
    pub(crate) fn queue(&self, member: &Handle, notices: &[Notice], machine: &Arc<RotationMachine>) {
        if !notices.is_empty() {
            self.queues().push(member, notices, machine);
            notify(&self.notified);
        }
    }

    /// True once all members have ended, and none can be added any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard that marks the fleet as ended when its last clone is dropped: the loop has one, and each member.
#[derive(Clone, Debug)]
pub(crate) struct FleetEnding(Arc<EndOnDrop>);

/// A [`FleetEnding`] that does not keep the fleet from ending.
#[derive(Clone, Debug)]
pub(crate) struct WeakFleetEnding(Weak<EndOnDrop>);

#[derive(Debug)]
struct EndOnDrop(Arc<Hub>);

impl FleetEnding {
    /// Makes the guard that ends the fleet of this hub.
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self(Arc::new(EndOnDrop(hub)))
    }

    pub(crate) fn downgrade(&self) -> WeakFleetEnding {
        WeakFleetEnding(Arc::downgrade(&self.0))
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.0.0
    }
}

impl WeakFleetEnding {
    /// `None` once the fleet has ended.
    pub(crate) fn upgrade(&self) -> Option<FleetEnding> {
        self.0.upgrade().map(FleetEnding)
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let hub = &self.0;
        hub.has_ended.store(true, Ordering::SeqCst);
        hub.ended.notify(usize::MAX);
        hub.notified.notify(usize::MAX);
    }
}
