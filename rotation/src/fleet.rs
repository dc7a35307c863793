//! [`Fleet`]: any number of certificates, rotated by one loop.

pub(crate) mod hub;
mod task;

use std::fmt;
use std::sync::Arc;

use perennial::Limits;

use crate::handle::Queue;
use crate::{Handle, MemberNotice, Rotator, StartError, Wait};
use hub::{FleetEnding, Hub, WeakFleetEnding};
pub use task::FleetTask;

/// Any number of certificates that one loop rotates, under common [`Limits`]. Each certificate is a member, with a
/// [`Handle`] of its own; it takes a few kilobytes of memory, and no processor time before its rotation point.
///
/// The function `fleet` of a runtime starts a fleet and returns this type, which is cheap to clone; [`Fleet::prepare`] is
/// for runtimes. At most [`Limits::in_flight`] requests of all members are in flight. While further requests wait, the one
/// whose certificate expires first goes first.
///
/// The fleet ends after [`shutdown`](Self::shutdown), or, once all clones of this `Fleet` are dropped, with its last
/// member.
#[derive(Clone)]
pub struct Fleet {
    door: Arc<Door>,
    ending: WeakFleetEnding,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("has_ended", &self.has_ended()).finish_non_exhaustive()
    }
}

/// The part of a fleet that adds members. The last clone of a [`Fleet`] closes it.
struct Door(Arc<Hub>);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.close(false);
    }
}

impl Fleet {
    /// Makes a fleet without members, and the task that a runtime has to run.
    pub fn prepare(limits: Limits) -> (Self, FleetTask) {
        let hub = Arc::<Hub>::default();
        let ending = FleetEnding::new(hub.clone());
        let fleet = Self { door: Arc::new(Door(hub)), ending: ending.downgrade() };
        (fleet, FleetTask::new(limits, ending))
    }

    /// Reads the store of a certificate, and adds the certificate to the fleet. The handle has the stored credential at
    /// once. [`Handle::shutdown`] ends this member, and removes it from the fleet; the other members do not notice.
    ///
    /// Blocks while it reads the store, as [`Rotator::prepare`] does. Logs and [notices](Self::notices) name the member as
    /// [`Rotator::name`] does. To authenticate requests with the certificate of another member, give the signer the
    /// handle of that member as its [`IdentitySource`](crate::IdentitySource). Members take less memory if they share one
    /// signer in an `Arc`.
    ///
    /// # Errors
    /// [`StartError`]: the template has names that no certificate can carry, the store cannot be read, or the fleet has
    /// ended. The fleet continues without this member.
    pub fn add(&self, rotator: Rotator) -> Result<Handle, StartError> {
        if self.hub().is_closed() {
            return Err(StartError::FleetEnded);
        }
        let (handle, task) = rotator.prepare_for(Some(&self.ending))?;
        self.hub().add(Box::new(task)).map_err(|_| StartError::FleetEnded)?;
        Ok(handle)
    }

    /// Returns a queue with the news of all members from now on. Each notice has the handle of its member. The queue has
    /// room for `most` notices. Notices that find it full are dropped, and replaced by one
    /// [`News::Missed`](crate::News::Missed) for each member concerned. Only the [end](crate::News::Ended) of a member is
    /// never dropped, so a queue that is not read grows by each member that ends.
    pub fn notices(&self, most: usize) -> FleetNotices {
        FleetNotices { hub: self.hub().clone(), queue: self.hub().subscribe(most) }
    }

    /// Ends all members as [`Handle::shutdown`] does, with their last writes, and then the fleet. Calls of
    /// [`add`](Self::add) fail from now on, also those that are reading a store now. The returned [`Wait`] ends once no call
    /// of a member's store or key source is running any more; it does not wait for calls of `add`.
    pub fn shutdown(&self) -> Wait<'static, ()> {
        self.hub().close(true);
        let (hub, ending) = (self.hub().clone(), self.hub().clone());
        Wait::new(move || ending.ended.listen(), move || hub.has_ended().then_some(()), || ())
    }

    /// True once all members have ended, and none can be added any more.
    pub fn has_ended(&self) -> bool {
        self.hub().has_ended()
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.door.0
    }
}

/// The news of all members of a fleet, in order for each member.
pub struct FleetNotices {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
}

impl fmt::Debug for FleetNotices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetNotices").field("has_ended", &self.hub.has_ended()).finish_non_exhaustive()
    }
}

impl FleetNotices {
    /// Takes the next notice, if one is queued. Does not wait.
    pub fn try_recv(&mut self) -> Option<MemberNotice> {
        self.queue.pop()
    }

    /// Waits for the next notice; `None` after the last notice of a fleet that has ended, or if the wait times out.
    pub fn recv(&mut self) -> Wait<'_, Option<MemberNotice>> {
        let hub = self.hub.clone();
        let check = || {
            // Read first: the last notice could be queued and the fleet end between the two reads.
            let ended = self.hub.has_ended();
            self.try_recv().map(Some).or(ended.then_some(None))
        };
        Wait::new(move || hub.notified.listen(), check, || None)
    }
}
