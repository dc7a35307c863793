//! Many machines as one: one deadline, one check of the clocks, and one queue for requests.

mod heap;
mod planner;

use alloc::vec::Vec;

pub use planner::{Limits, MemberKey, Planner, Schedule, Turn};

use crate::action::Actions;
use crate::event::{Event, SignerStatus};
use crate::machine::RotationMachine;
use crate::outcome::Outcome;
use crate::setup::Setup;
use crate::time::{Instant, Now};

/// Many [`RotationMachine`]s, its members, under common [`Limits`]. A [`Planner`] decides which member has its turn next.
///
/// The driver calls [`tick`](Self::tick) until it returns `None`, and carries out the actions of each member. It then
/// sleeps until [`deadline`](Self::deadline), or until a reply for a member arrives, which it passes to
/// [`handle`](Self::handle):
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use perennial::{Action, Fleet, Instant, Limits, Now, Setup, Template, UnixTime};
///
/// let now = Now { instant: Instant::from_millis(0), unix: UnixTime::from_secs(1_767_225_600) };
/// let mut fleet = Fleet::new(Limits { in_flight: 2.try_into().unwrap(), ..Limits::default() });
/// for name in ["etcd", "etcd-peer", "kube-proxy"] {
///     let template = Some(Arc::new(Template::node(name)));
///     fleet.insert(Setup { seed: perennial::seed("example.com/signer", name), template, ..Setup::default() }, now);
/// }
/// let mut submitted = 0;
/// while let Some((key, actions)) = fleet.tick(now) {
///     for action in actions {
///         if let Action::SubmitCsr { id, template, .. } = action {
///             submitted += 1;
///             println!("{key:?} submits {id} for {template}");
///         }
///     }
/// }
/// assert_eq!(submitted, 2, "the third waits for its turn");
/// assert!(fleet.deadline().unwrap().since(now.instant) <= Duration::from_secs(60));
/// ```
///
/// All promises of a [`RotationMachine`] hold for each member, except that a request also waits for its turn. Only
/// [`insert`](Self::insert), [`remove`](Self::remove) and [`reserve`](Self::reserve) allocate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    planner: Planner,
    /// The machine of each place of the planner.
    machines: Vec<Option<RotationMachine>>,
}

impl Fleet {
    /// Makes a fleet without members.
    pub fn new(limits: Limits) -> Self {
        Self { planner: Planner::new(limits), machines: Vec::new() }
    }

    /// Allocates for `additional` more members, and for no more than these.
    pub fn reserve(&mut self, additional: usize) {
        self.planner.reserve(additional);
        self.machines.reserve_exact(additional);
    }

    /// Adds a machine, which has its first turn at the next [`tick`](Self::tick). The signer status
    /// [`Ready`](SignerStatus::Ready) in `setup` counts as [`Shared`](SignerStatus::Shared): the machine submits
    /// requests only in its turns.
    ///
    /// # Panics
    /// If there are 4,294,967,295 members already.
    pub fn insert(&mut self, mut setup: Setup, now: Now) -> MemberKey {
        setup.signer = shared(setup.signer);
        let machine = RotationMachine::new(setup, now);
        let key = self.planner.insert(machine.schedule(now), now);
        let index = key.index as usize;
        if index < self.machines.len() {
            self.machines[index] = Some(machine);
        } else {
            self.machines.push(Some(machine));
        }
        key
    }

    /// Removes a member and returns its machine; `None` if the member has been removed already. The driver should cancel
    /// the member's request in flight. A reply that still arrives is ignored.
    pub fn remove(&mut self, key: MemberKey) -> Option<RotationMachine> {
        if !self.planner.contains(key) {
            return None;
        }
        self.planner.remove(key);
        self.machines.get_mut(key.index as usize)?.take()
    }

    /// Lets a member handle one event, and returns the actions that follow. The driver ignores `SetTimer` among them:
    /// the [`deadline`](Self::deadline) of the fleet includes that of each member. The fleet alone grants turns, so
    /// [`TurnGranted`](Event::TurnGranted) counts as a `Tick`, and a [`SignerChanged`](Event::SignerChanged) to `Ready` as
    /// one to `Shared`. Events for a member that has been removed are [ignored](Outcome::Ignored).
    pub fn handle(&mut self, key: MemberKey, event: Event, now: Now) -> Actions {
        self.step(
            key,
            match event {
                Event::SignerChanged(status) => Event::SignerChanged(shared(status)),
                Event::TurnGranted => Event::Tick,
                event => event,
            },
            now,
        )
    }

    /// Gives the next member its turn, and returns the member's key and actions. `None`: no member has anything to do
    /// before the [`deadline`](Self::deadline), unless an event arrives.
    pub fn tick(&mut self, now: Now) -> Option<(MemberKey, Actions)> {
        let (key, event) = match self.planner.next(now)? {
            Turn::Tick(key) => (key, Event::Tick),
            Turn::Grant(key) => (key, Event::TurnGranted),
        };
        Some((key, self.step(key, event, now)))
    }

    /// When to call [`tick`](Self::tick) again, unless an event comes first. `None`: there is no member.
    pub fn deadline(&self) -> Option<Instant> {
        self.planner.deadline()
    }

    /// The machine of a member. `None`: the member has been removed.
    pub fn get(&self, key: MemberKey) -> Option<&RotationMachine> {
        self.machines.get(key.index as usize).filter(|_| self.planner.contains(key))?.as_ref()
    }

    /// The members and their machines, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (MemberKey, &RotationMachine)> {
        self.planner.keys().filter_map(|key| Some((key, self.get(key)?)))
    }

    /// The planner of this fleet.
    pub const fn planner(&self) -> &Planner {
        &self.planner
    }

    fn step(&mut self, key: MemberKey, event: Event, now: Now) -> Actions {
        let machine = self.machines.get_mut(key.index as usize).filter(|_| self.planner.contains(key));
        let Some(machine) = machine.and_then(Option::as_mut) else { return Actions::after(Outcome::Ignored) };
        let actions = machine.handle(event, now);
        self.planner.update(key, machine.schedule(now), now);
        actions
    }
}

const fn shared(status: SignerStatus) -> SignerStatus {
    if status.is_ready() { SignerStatus::Shared } else { status }
}
