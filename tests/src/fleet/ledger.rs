//! The laws of a fleet, checked at every step from what a driver sees.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial::{Actions, Event, Instant, Limits, MemberKey, Now, Planner, RotationMachine, UnixTime};

use crate::laws::{Verdict, ensure};
use crate::trace::submitted;

/// A fleet as its driver sees it: the machines, the queue and the budget.
#[derive(Clone, Debug)]
pub struct Ledger {
    limits: Limits,
    members: BTreeMap<MemberKey, Member>,
    /// The level of the fleet's budget at a time, in milliseconds: a token is the time in which it is refilled.
    level: (u128, Instant),
}

#[derive(Clone, Debug)]
struct Member {
    machine: RotationMachine,
    queued: Option<Queued>,
    /// The last time at which the machine has read the clocks.
    planned: Now,
}

/// A request in the queue.
#[derive(Clone, Copy, Debug)]
struct Queued {
    since: Instant,
    /// When the certificate expires, but no later than the end of the patience. The least that was computed so far.
    order: Instant,
}

impl Member {
    fn is_in_flight(&self) -> bool {
        self.machine.checkpoint().in_flight.is_some()
    }
}

impl Ledger {
    /// Begins with a fleet without members.
    pub fn new(limits: Limits, now: Now) -> Self {
        Self { limits, members: BTreeMap::new(), level: (full(&limits), now.instant) }
    }

    /// Notes a new member.
    pub fn insert(&mut self, key: MemberKey, machine: RotationMachine, now: Now) {
        let member = Member { machine, queued: None, planned: now };
        assert!(self.members.insert(key, member).is_none(), "{key:?} is the key of two members");
    }

    /// Notes that a member has been removed.
    pub fn remove(&mut self, key: MemberKey) {
        self.members.remove(&key);
    }

    /// Notes a step of a member, and checks the laws of requests.
    ///
    /// # Errors
    /// The law that is broken.
    pub fn step(
        &mut self,
        key: MemberKey,
        event: &Event,
        actions: &Actions,
        after: RotationMachine,
        now: Now,
    ) -> Verdict {
        if submitted(actions).is_some() {
            self.submits(key, event, now)?;
        }
        let member = self.members.get_mut(&key).ok_or("a member acts that was removed")?;
        // A turn takes the request from the queue, even if it leads to another one.
        let before = member.queued.filter(|_| *event != Event::TurnGranted);
        member.queued = after.checkpoint().queued.then(|| {
            let latest = before.map_or_else(|| now.instant.after(Planner::PATIENCE), |queued| queued.order);
            let order = expires(&after, now).max(now.instant).min(latest);
            Queued { since: before.map_or(now.instant, |queued| queued.since), order }
        });
        if !actions.outcomes().is_ignored() {
            member.planned = now;
        }
        member.machine = after;
        let in_flight = self.in_flight();
        ensure!(in_flight <= self.cap(), "{in_flight} requests are in flight, the limit is {}", self.cap());
        Ok(())
    }

    /// Checks that this member may submit now: it has a turn, the budget of the fleet has a token, and no other request
    /// has to go first.
    fn submits(&mut self, key: MemberKey, event: &Event, now: Now) -> Verdict {
        ensure!(*event == Event::TurnGranted, "a request is submitted after {event}");
        if let Some(budget) = self.limits.budget {
            let token = budget.refill().as_millis();
            let level = self.level(now.instant);
            ensure!(level >= token, "a request is submitted without a token in the budget of the fleet");
            self.level = (level - token, now.instant);
        }
        let granted = self.members[&key].queued.ok_or("a request is submitted that was not queued")?;
        for (other, queued) in self.members.iter().filter_map(|(other, member)| Some((other, member.queued?))) {
            ensure!(
                granted.order <= queued.order,
                "{key:?} of order {} goes before {other:?} of order {}",
                granted.order,
                queued.order
            );
            let overtakes = granted.since > queued.since.after(Planner::PATIENCE);
            ensure!(!overtakes, "{key:?}, queued at {}, overtakes {other:?}, at {}", granted.since, queued.since);
        }
        Ok(())
    }

    /// Checks the laws of a fleet in which every member has acted whose turn it is.
    ///
    /// # Errors
    /// The law that is broken.
    pub fn drained(&self, deadline: Option<Instant>, now: Now) -> Verdict {
        let Some(deadline) = deadline else {
            ensure!(self.members.is_empty(), "there is no deadline");
            return Ok(());
        };
        let latest = now.instant.after(self.limits.max_sleep.max(Duration::from_millis(1)));
        ensure!(deadline > now.instant || now.instant == Instant::MAX, "the deadline, {deadline}, has passed at {now}");
        ensure!(deadline <= latest, "the deadline, {deadline}, is later than the next check of the clocks, {latest}");
        let queued = self.members.values().any(|member| member.queued.is_some());
        let has_token = self.limits.budget.is_none_or(|budget| self.level(now.instant) >= budget.refill().as_millis());
        ensure!(!(queued && has_token && self.in_flight() < self.cap()), "at {now} a turn is withheld");
        self.have_planned(now)
    }

    /// Checks that every member has planned by the clocks, which may have moved against each other a little since.
    fn have_planned(&self, now: Now) -> Verdict {
        for (key, member) in &self.members {
            let machine = &member.machine;
            let moved = apart(member.planned.unix.after(now.instant.since(member.planned.instant)), now.unix);
            let most = Planner::TOLERANCE * 2;
            ensure!(
                moved <= most,
                "at {now} the wall clock has moved by {moved:?} since {key:?} has planned: {machine}"
            );
            let mut ticked = machine.clone();
            let actions = ticked.handle(Event::Tick, now);
            ensure!(
                !moved.is_zero() || (actions.is_empty() && ticked == *machine),
                "at {now} a Tick for {key:?} leads to {actions} and from {machine} to {ticked}"
            );
        }
        Ok(())
    }

    /// The order of each queued request, and the level of the fleet's budget: all that decides about later turns.
    pub fn queue(&self, now: Instant) -> (Vec<(MemberKey, Instant)>, u128) {
        let queued = self.members.iter().filter_map(|(key, member)| Some((*key, member.queued?.order)));
        (queued.collect(), self.level(now))
    }

    /// The number of members that have a request in flight.
    pub fn in_flight(&self) -> usize {
        self.members.values().filter(|member| member.is_in_flight()).count()
    }

    const fn cap(&self) -> usize {
        self.limits.in_flight.get() as usize
    }

    /// The level of the fleet's budget, in milliseconds.
    fn level(&self, now: Instant) -> u128 {
        (self.level.0 + now.since(self.level.1).as_millis()).min(full(&self.limits))
    }
}

/// When the served certificate expires. Now, if no usable certificate is served.
fn expires(machine: &RotationMachine, now: Now) -> Instant {
    let served = machine.certificate().filter(|served| !served.provisional && !machine.checkpoint().refused);
    served.map_or(now.instant, |served| now.instant.after(served.validity.not_after().since(now.unix)))
}

/// The level of a full bucket.
fn full(limits: &Limits) -> u128 {
    limits.budget.map_or(0, |budget| budget.refill().as_millis() * u128::from(budget.size()))
}

fn apart(a: UnixTime, b: UnixTime) -> Duration {
    a.since(b).max(b.since(a))
}
