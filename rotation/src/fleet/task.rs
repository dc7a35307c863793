//! [`FleetTask`]: the loop of a fleet, for a runtime to run.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial::{Instant, Limits, MemberKey, Now, Planner, Turn};

use super::hub::{Arrivals, FleetEnding};
use crate::handle::link::{Message, contain};
use crate::{Input, Task, Wait, Work};

/// A fleet, for a runtime to run. The loop is the same as for a single [`Task`]: call [`step`](Self::step), carry out the
/// [`Work`] of each member, end if [`is_over`](Self::is_over), and wait for [`arrival`](Self::arrival), until
/// [`deadline`](Self::deadline) at the latest.
///
/// A step takes no time for members that have no messages and are not due. Dropping a fleet task ends all members at
/// once, without a last write.
#[derive(Debug)]
pub struct FleetTask {
    planner: Planner,
    // Boxed: a map moves its values when it grows, and has spare room for more.
    members: BTreeMap<MemberKey, Box<Task>>,
    // Dropped last: the fleet ends after its members.
    ending: FleetEnding,
}

impl FleetTask {
    pub(super) fn new(limits: Limits, ending: FleetEnding) -> Self {
        Self { planner: Planner::new(limits), members: BTreeMap::new(), ending }
    }

    /// Lets each member take a step that is new, has messages, or has its turn. Returns the work of these members, which the
    /// runtime starts in this order. A panic in the code of one member is caught as in [`Task::step`], and does not affect
    /// the others.
    pub fn step(&mut self, now: Now) -> Vec<(MemberKey, Work)> {
        let mut work = Vec::new();
        let Arrivals { added, ready, stops, .. } = self.ending.hub().take();
        for task in added {
            let key = self.planner.insert(task.schedule(now), now);
            task.link().join(key);
            self.members.insert(key, task);
            // A member at rest would publish no step before its rotation point: observers need its state now.
            self.step_member(key, Some(Input::Tick), now, &mut work);
        }
        for key in ready {
            self.step_member(key, None, now, &mut work);
        }
        if stops {
            for key in self.members.keys().copied().collect::<Vec<_>>() {
                self.members.get(&key).into_iter().for_each(|task| task.link().send(Message::Stop));
                self.step_member(key, None, now, &mut work);
            }
        }
        while let Some(turn) = self.planner.next(now) {
            match turn {
                Turn::Tick(key) => self.step_member(key, Some(Input::Tick), now, &mut work),
                Turn::Grant(key) => self.step_member(key, Some(Input::TurnGranted), now, &mut work),
            }
        }
        work
    }

    /// Lets one member step, and plans its next turn. Does nothing for a member that has been removed.
    fn step_member(&mut self, key: MemberKey, turn: Option<Input>, now: Now, work: &mut Vec<(MemberKey, Work)>) {
        let Some(task) = self.members.get_mut(&key) else { return };
        // A message may have been handled by a step since its arrival.
        if turn.is_some() || task.has_messages() {
            work.extend(task.step_in_turn(turn, now).into_iter().map(|work| (key, work)));
        }
        // A deadline that stays due, as after a Tick without an effect, must not end in a loop without end.
        let soon = now.instant.after(Duration::from_millis(1));
        let mut schedule = task.schedule(now);
        schedule.deadline = schedule.deadline.map(|deadline| deadline.max(soon));
        // Before the removal: a turn that the member has not used returns its token.
        self.planner.update(key, schedule, now);
        if task.is_over() {
            self.planner.remove(key);
            // The drop of a store or of a signer is foreign code.
            contain(|| drop(self.members.remove(&key)));
        } else if task.has_messages() {
            // A panic has ended the step early.
            self.ending.hub().announce(key);
        }
    }

    /// True once there is nothing left to do: all members have ended, and none can be added any more. Drop the task
    /// then: only the drop ends the waits for the end of the fleet.
    pub fn is_over(&self) -> bool {
        let hub = self.ending.hub();
        hub.is_closed() && self.members.is_empty() && !hub.has_arrivals()
    }

    /// When to call [`step`](Self::step) even if no message arrives; `None`: only once a message arrives.
    pub fn deadline(&self) -> Option<Instant> {
        self.planner.deadline()
    }

    /// Waits for something that [`step`](Self::step) has to handle: a message of a handle or of an exchange, or a new
    /// member. [`Wait::within`] limits the wait.
    pub fn arrival(&self) -> Wait<'static, ()> {
        let (hub, arriving) = (self.ending.hub().clone(), self.ending.hub().clone());
        // Closed without members: the runtime has to notice that the task is over.
        let is_empty = self.members.is_empty();
        let check = move || (hub.has_arrivals() || is_empty && hub.is_closed()).then_some(());
        Wait::new(move || arriving.arrived.listen(), check, || ())
    }
}

/// Ends all members, also those that were added after the last step. A panic in the drop of one affects no other.
impl Drop for FleetTask {
    fn drop(&mut self) {
        let hub = self.ending.hub();
        hub.close(false);
        let Arrivals { added, .. } = hub.take();
        let members = std::mem::take(&mut self.members).into_values();
        members.chain(added).for_each(|task| contain(|| drop(task)));
    }
}
