//! Decides which machine of many has its turn next: the deadlines, the queue for requests, and one check of the clocks
//! for all.

use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::time::Duration;

use super::heap::Heap;
use crate::policy::Budget;
use crate::time::{Instant, Now, at_least_a_millisecond};

/// The limits of a fleet: for requests in flight, for requests in a span of time, and for the time between checks of the
/// clocks. The default is 64 requests in flight, no budget, and a check every minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most requests in flight at any time. A request that waits for its signer or for an approver counts until it
    /// is answered or times out.
    ///
    /// All signers of the fleet share this limit, so a signer that does not answer can delay the others: once more of its
    /// members than this limit have no valid certificate, their repeated requests are first in the queue and can take all
    /// turns. A member of another signer then gets its turn when its own certificate expires, or after
    /// [`PATIENCE`](Planner::PATIENCE). To prevent this, choose a limit above the number of members of each signer, or
    /// make a fleet for each signer.
    pub in_flight: NonZeroU32,
    /// The submission budget of all members together, in addition to that of each member
    /// ([`Policy::budget`](crate::Policy::budget)); `None`: only the latter.
    pub budget: Option<Budget>,
    /// The longest time between two checks of the clocks; at least 1 ms. A step of the wall clock is noticed after this
    /// time at the latest.
    pub max_sleep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const IN_FLIGHT: NonZeroU32 = NonZeroU32::new(64).unwrap();
        Self { in_flight: IN_FLIGHT, budget: None, max_sleep: Duration::from_secs(60) }
    }
}

/// Identifies a member of a fleet. Never used again after the member has been removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    pub(super) index: u32,
    generation: u32,
}

/// The facts about one machine that decide when its turn comes
/// ([`RotationMachine::schedule`](crate::RotationMachine::schedule)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// When the machine wants its next [`Tick`](crate::Event::Tick). `None`: only another event can change anything.
    pub deadline: Option<Instant>,
    /// When the request in flight was submitted; `None`: no request is in flight.
    pub in_flight: Option<Instant>,
    /// The urgency of a request that waits for its turn: when the served certificate expires, or the present time if no
    /// usable certificate is served. `None`: no request waits.
    pub queued: Option<Instant>,
}

/// The next thing to do in a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Let this machine handle [`Event::Tick`](crate::Event::Tick).
    Tick(MemberKey),
    /// Let this machine handle [`Event::TurnGranted`](crate::Event::TurnGranted): it may submit a request.
    Grant(MemberKey),
}

/// Decides for the owner of many machines which machine has its turn next. A planner knows only the [`Schedule`] of each
/// machine, so the owner stores the machines as it likes. [`Fleet`](crate::Fleet) is a planner with its machines.
///
/// The owner calls [`next`](Self::next) until it returns `None`, and then sleeps until [`deadline`](Self::deadline).
/// After each step of a machine, it calls [`update`](Self::update).
///
/// - **Requests** wait in one queue, first the one whose certificate expires first. A request that has waited for
///   [`PATIENCE`](Self::PATIENCE) is overtaken by none that is queued later, so that none waits forever. At most
///   [`Limits::in_flight`] requests are in flight, and [`Limits::budget`] holds whatever happens.
/// - **Clocks** are checked in each call of `next`, and [`Limits::max_sleep`] apart at most. If the wall clock has
///   moved against the monotonic one by more than [`TOLERANCE`](Self::TOLERANCE), by a step, a suspend or
///   many small corrections, each machine has a Tick, and thereby plans anew.
/// - **Time**: an update takes a time that is logarithmic in the number of members. Members that sleep cost nothing.
/// - **Memory**: 40 bytes for each member. Only [`insert`](Self::insert) and [`remove`](Self::remove) allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planner {
    limits: Limits,
    places: Vec<Place>,
    /// Places for the next members.
    vacant: Vec<u32>,
    members: u32,
    deadlines: Heap,
    queue: Heap,
    /// The number of members that have a request in flight or a turn.
    busy: u32,
    /// When the bucket of the fleet's budget is full again.
    budget_whole_at: Instant,
    /// The last reading of the clocks.
    checked: Now,
    /// The reading of the clocks by which members have planned. A later reading shows whether a clock has moved.
    planned: Now,
    /// The members before this place have planned anew since the wall clock moved. Past the end unless it has just
    /// moved.
    replanned: u32,
}

/// The place of a member. Its index is also that of the member in both heaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    generation: u32,
    is_taken: bool,
    in_flight: bool,
    /// True from a [`Turn::Grant`] until the update that follows.
    is_granted: bool,
}

impl Place {
    const fn is_busy(self) -> bool {
        self.in_flight || self.is_granted
    }
}

impl Planner {
    /// The time after which a request in the queue is overtaken by none that is queued later: a day. Before, each
    /// request whose certificate expires earlier overtakes it.
    pub const PATIENCE: Duration = Duration::from_secs(86_400);

    /// The difference up to which the wall clock may have moved against the monotonic clock before each machine plans
    /// anew: a second. While the wall clock is slewed, a time of the wall clock, such as a rotation point, is therefore
    /// noticed at most two seconds late.
    pub const TOLERANCE: Duration = Duration::from_secs(1);

    /// Makes a planner without members.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            places: Vec::new(),
            vacant: Vec::new(),
            members: 0,
            deadlines: Heap::default(),
            queue: Heap::default(),
            busy: 0,
            budget_whole_at: Instant::default(),
            checked: Now::default(),
            planned: Now::default(),
            replanned: u32::MAX,
        }
    }

    /// Allocates for `additional` more members, and for no more than these.
    pub fn reserve(&mut self, additional: usize) {
        self.places.reserve_exact(additional);
        self.deadlines.reserve(additional);
        self.queue.reserve(additional);
    }

    /// The limits of this fleet.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The number of members.
    pub const fn len(&self) -> u32 {
        self.members
    }

    /// True if there is no member.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of members that have a request in flight, or a turn to submit one.
    pub const fn in_flight(&self) -> u32 {
        self.busy
    }

    /// Whether this key is that of a member.
    pub fn contains(&self, key: MemberKey) -> bool {
        self.place(key).is_some()
    }

    /// The keys of all members, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = MemberKey> {
        let taken = (0..).zip(&self.places).filter(|(_, place)| place.is_taken);
        taken.map(|(index, place)| MemberKey { index, generation: place.generation })
    }

    /// Adds a member.
    ///
    /// # Panics
    /// If there are 4,294,967,295 members already. Their planner would need 160 GB.
    pub fn insert(&mut self, schedule: Schedule, now: Now) -> MemberKey {
        if self.is_empty() {
            // No member has planned by an earlier reading.
            (self.checked, self.planned, self.replanned) = (now, now, u32::MAX);
        }
        let index = self.vacant.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.places.len()).ok().filter(|index| *index < u32::MAX);
            self.places.push(Place { generation: 0, is_taken: false, in_flight: false, is_granted: false });
            self.deadlines.grow();
            self.queue.grow();
            index.expect("fewer than 4,294,967,295 members")
        });
        let place = &mut self.places[index as usize];
        place.is_taken = true;
        self.members += 1;
        let key = MemberKey { index, generation: place.generation };
        self.update(key, schedule, now);
        key
    }

    /// Replaces the schedule of a member, after a step of its machine. Does nothing if the member has been removed.
    pub fn update(&mut self, key: MemberKey, schedule: Schedule, now: Now) {
        let Some(place) = self.place_mut(key) else { return };
        let before = *place;
        place.in_flight = schedule.in_flight.is_some();
        place.is_granted = false;
        let is_busy = place.is_busy();
        // Several submissions within a millisecond count as one more: the token stays spent.
        if before.is_granted && schedule.in_flight != Some(now.instant) {
            self.return_token();
        }
        self.count_busy(before.is_busy(), is_busy);
        self.deadlines.set(key.index, schedule.deadline);
        self.queue.set(key.index, schedule.queued.map(|expires| self.order(key.index, expires, now.instant)));
    }

    /// Removes a member: its request in flight no longer counts. Ignores the key of a member that has been removed
    /// already. Tokens that the member has taken from the fleet's budget stay spent.
    pub fn remove(&mut self, key: MemberKey) {
        let Some(place) = self.place_mut(key) else { return };
        let was_busy = place.is_busy();
        let is_last = place.generation == u32::MAX;
        *place = Place { generation: place.generation.wrapping_add(1), is_taken: false, ..*place };
        (place.in_flight, place.is_granted) = (false, false);
        self.members -= 1;
        self.count_busy(was_busy, false);
        self.deadlines.set(key.index, None);
        self.queue.set(key.index, None);
        // A place whose generations are used up stays vacant, so that no key is ever used again.
        if !is_last {
            self.vacant.push(key.index);
        }
    }

    /// The next turn: first the machines whose deadline has come; then, if a clock has moved, all others; then the
    /// queue. `None`: there is nothing to do before [`deadline`](Self::deadline) or another event.
    ///
    /// The owner lets the machine of a turn handle its event at once, and calls [`update`](Self::update) before it
    /// calls `next` again. A machine that is not updated has no further turn.
    pub fn next(&mut self, now: Now) -> Option<Turn> {
        self.check_clocks(now);
        if let Some((_, index)) = self.deadlines.first().filter(|(at, _)| *at <= now.instant) {
            return Some(Turn::Tick(self.take_deadline(index)));
        }
        while let Some(place) = self.places.get(self.replanned as usize) {
            let index = self.replanned;
            self.replanned += 1;
            if place.is_taken {
                return Some(Turn::Tick(self.take_deadline(index)));
            }
        }
        self.replanned = u32::MAX;
        let (_, index) = self.queue.first().filter(|_| self.grant_at().is_some_and(|at| at <= now.instant))?;
        Some(Turn::Grant(self.grant(index, now.instant)))
    }

    /// When to call [`next`](Self::next) again, unless an event comes first. `None`: there is no member.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let check = self.checked.instant.after(at_least_a_millisecond(self.limits.max_sleep));
        let replans = ((self.replanned as usize) < self.places.len()).then_some(self.checked.instant);
        let first = self.deadlines.first().map(|(at, _)| at);
        [first, replans, self.grant_at()].into_iter().flatten().fold(check, Instant::min).into()
    }

    /// Reads the clocks. If the wall clock has moved against the monotonic clock, lets each member plan anew.
    fn check_clocks(&mut self, now: Now) {
        self.checked = now;
        let expected = self.planned.unix.after(now.instant.since(self.planned.instant));
        if expected.apart(now.unix) > Self::TOLERANCE {
            (self.planned, self.replanned) = (now, 0);
        }
    }

    /// When limit and budget allow the first request of the queue. `None`: the queue is empty, or too many requests are
    /// in flight.
    fn grant_at(&self) -> Option<Instant> {
        let (_, index) = self.queue.first()?;
        // A request that supersedes the one in flight takes the place of that one.
        let has_room = self.places[index as usize].in_flight || self.busy < self.limits.in_flight.get();
        let allowed_by = |budget: Budget| self.budget_whole_at.before(budget.time_to_fill_from(1));
        let allowed = self.limits.budget.map_or_else(Instant::default, allowed_by);
        has_room.then_some(allowed)
    }

    /// Takes a member from the queue, and a token from the fleet's budget.
    fn grant(&mut self, index: u32, now: Instant) -> MemberKey {
        self.queue.set(index, None);
        let place = &mut self.places[index as usize];
        let was_busy = place.is_busy();
        place.is_granted = true;
        let key = MemberKey { index, generation: place.generation };
        self.count_busy(was_busy, true);
        if let Some(budget) = self.limits.budget {
            self.budget_whole_at = budget.whole_after_taking(self.budget_whole_at, now);
        }
        key
    }

    /// Returns the token of a turn that led to no request.
    fn return_token(&mut self) {
        if let Some(budget) = self.limits.budget {
            self.budget_whole_at = self.budget_whole_at.before(budget.refill());
        }
    }

    /// The order of a member in the queue, as an instant: the first is the least. Not before a machine is queued, so
    /// that it overtakes none whose patience has ended by then, and never later than at first.
    fn order(&self, index: u32, expires: Instant, now: Instant) -> Instant {
        let latest = self.queue.get(index).unwrap_or_else(|| now.after(Self::PATIENCE));
        expires.max(now).min(latest)
    }

    fn take_deadline(&mut self, index: u32) -> MemberKey {
        self.deadlines.set(index, None);
        MemberKey { index, generation: self.places[index as usize].generation }
    }

    const fn count_busy(&mut self, was_busy: bool, is_busy: bool) {
        match (was_busy, is_busy) {
            (false, true) => self.busy += 1,
            (true, false) => self.busy -= 1,
            _ => {}
        }
    }

    fn place(&self, key: MemberKey) -> Option<&Place> {
        self.places.get(key.index as usize).filter(|place| place.is_taken && place.generation == key.generation)
    }

    fn place_mut(&mut self, key: MemberKey) -> Option<&mut Place> {
        self.places.get_mut(key.index as usize).filter(|place| place.is_taken && place.generation == key.generation)
    }
}

/// A planner without members, under the default limits.
impl Default for Planner {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}
