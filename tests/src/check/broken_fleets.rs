//! Fleets that break one rule each, for tests of the model checker, which must find each fault.

use std::marker::PhantomData;

use perennial::{
    Actions, Event, Instant, Limits, MemberKey, Now, Planner, RotationMachine, Schedule, Setup, SignerStatus, Turn,
};

use crate::fleet::Group;
use crate::mint;

/// A fleet that breaks one rule, in the way of the [`FleetFault`] `F`.
#[derive(Clone, Debug)]
pub struct BrokenFleet<F> {
    planner: Planner,
    machines: Vec<(MemberKey, RotationMachine)>,
    fault: PhantomData<F>,
}

/// One way to break a rule of fleets. Each method does what the shipped fleet does, unless the fault overrides it.
pub trait FleetFault: Clone + std::fmt::Debug {
    /// The status of the signer of each member.
    const SIGNER: SignerStatus = SignerStatus::Shared;
    /// Whether the reply to a member that has been removed reaches another member.
    const MIXES_MEMBERS: bool = false;

    /// The limits that the broken fleet applies instead of `limits`.
    fn limits(limits: Limits) -> Limits {
        limits
    }

    /// The schedule that the planner gets instead of `schedule`.
    fn schedule(schedule: Schedule, _now: Now) -> Schedule {
        schedule
    }

    /// The clocks that the planner gets instead of `now`.
    fn clocks(now: Now) -> Now {
        now
    }
}

impl<F: FleetFault> Group for BrokenFleet<F> {
    fn start(limits: Limits) -> Self {
        Self { planner: Planner::new(F::limits(limits)), machines: vec![], fault: PhantomData }
    }

    fn insert(&mut self, setup: Setup, now: Now) -> MemberKey {
        let machine = RotationMachine::new(Setup { signer: F::SIGNER, ..setup }, now);
        let key = self.planner.insert(F::schedule(machine.schedule(now), now), F::clocks(now));
        self.machines.push((key, machine));
        key
    }

    fn remove(&mut self, key: MemberKey) {
        self.planner.remove(key);
        self.machines.retain(|(other, _)| *other != key);
    }

    fn handle(&mut self, key: MemberKey, event: Event, now: Now) -> Actions {
        let found = self.machines.iter().position(|(other, _)| *other == key);
        let last = self.machines.len().checked_sub(1).filter(|_| F::MIXES_MEMBERS);
        let Some(found) = found.or(last) else {
            return RotationMachine::default().handle(Event::CertReplaced(None), now);
        };
        let (key, machine) = &mut self.machines[found];
        let actions = machine.handle(event, now);
        self.planner.update(*key, F::schedule(machine.schedule(now), now), F::clocks(now));
        actions
    }

    fn tick(&mut self, now: Now) -> Option<(MemberKey, Actions)> {
        let (key, event) = match self.planner.next(F::clocks(now))? {
            Turn::Tick(key) => (key, Event::Tick),
            Turn::Grant(key) => (key, Event::TurnGranted),
        };
        Some((key, self.handle(key, event, now)))
    }

    fn deadline(&self) -> Option<Instant> {
        self.planner.deadline()
    }

    fn machine(&self, key: MemberKey) -> Option<&RotationMachine> {
        self.machines.iter().find(|(other, _)| *other == key).map(|(_, machine)| machine)
    }
}

/// Grants turns while too many requests are in flight.
#[derive(Clone, Debug)]
pub struct IgnoresLimit;

impl FleetFault for IgnoresLimit {
    fn limits(limits: Limits) -> Limits {
        Limits { in_flight: 3.try_into().expect("not zero"), ..limits }
    }
}

/// Grants turns without a token in the budget.
#[derive(Clone, Debug)]
pub struct IgnoresBudget;

impl FleetFault for IgnoresBudget {
    fn limits(limits: Limits) -> Limits {
        Limits { budget: None, ..limits }
    }
}

/// Orders the queue by arrival, whenever the certificates expire.
#[derive(Clone, Debug)]
pub struct IgnoresExpiry;

impl FleetFault for IgnoresExpiry {
    fn schedule(schedule: Schedule, now: Now) -> Schedule {
        Schedule { queued: schedule.queued.map(|_| now.instant), ..schedule }
    }
}

/// Withholds turns although fewer requests are in flight than the limit.
#[derive(Clone, Debug)]
pub struct WithholdsTurns;

impl FleetFault for WithholdsTurns {
    fn limits(limits: Limits) -> Limits {
        Limits { in_flight: 1.try_into().expect("not zero"), ..limits }
    }
}

/// Misses the deadlines of its members.
#[derive(Clone, Debug)]
pub struct MissesDeadlines;

impl FleetFault for MissesDeadlines {
    fn schedule(schedule: Schedule, now: Now) -> Schedule {
        Schedule { deadline: schedule.deadline.filter(|at| *at <= now.instant), ..schedule }
    }
}

/// Does not notice that the wall clock is set.
#[derive(Clone, Debug)]
pub struct IgnoresWallClock;

impl FleetFault for IgnoresWallClock {
    fn clocks(now: Now) -> Now {
        Now { unix: mint::EPOCH.after(now.instant.since(Instant::default())), ..now }
    }
}

/// Lets members submit without a turn.
#[derive(Clone, Debug)]
pub struct SubmitsWithoutTurn;

impl FleetFault for SubmitsWithoutTurn {
    const SIGNER: SignerStatus = SignerStatus::Ready;
}

/// Delivers the late reply to a removed member to another one.
#[derive(Clone, Debug)]
pub struct MixesMembers;

impl FleetFault for MixesMembers {
    const MIXES_MEMBERS: bool = true;
}
