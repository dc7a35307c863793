//! Model checking of a fleet of three: every move in every state, in which three members share a signer.
//!
//! Time passes in whole seconds, and a write succeeds at once. The patience of the queue, a day, is longer than any path
//! of the search: the property tests of [fleets](crate::fleet) check it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use perennial::{
    Action, Actions, Backoff, Budget, Event, Failure, Instant, Limits, MemberKey, Now, Policy, RequestId, Setup,
    SignerStatus, Template, Window,
};

use super::search::{Counterexample, Explored};
use crate::fleet::{Group, Ledger};
use crate::laws::{Verdict, ensure};
use crate::mint;
use crate::trace::submitted;

/// A small world for a fleet of three.
#[derive(Clone, Debug)]
pub struct FleetSetting {
    /// The name of the world.
    pub name: &'static str,
    /// The limits of the fleet.
    pub limits: Limits,
    /// A limit on the number of states, after which the search stops.
    pub most: usize,
}

/// A move in a small world of a fleet. Each is followed by the turns of every member that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetMove {
    /// A second passes.
    Pass,
    /// The wall clock is set five seconds ahead of the true time, or back to it.
    WallClock,
    /// The request of this member is answered with a certificate that lives for so many seconds.
    Issue(usize, u64),
    /// The request of this member fails.
    Fail(usize),
    /// A rotation of this member is requested.
    Rotate(usize),
    /// This member is removed.
    Remove(usize),
    /// A member without a certificate is added in this place.
    Insert(usize),
    /// A reply arrives to the last request of a member that has been removed.
    LateReply,
}

/// The number of members.
const MEMBERS: usize = 3;

static TEMPLATE: LazyLock<Arc<Template>> = LazyLock::new(|| Arc::new(Template::new("a")));

static POLICY: LazyLock<Arc<Policy>> = LazyLock::new(|| {
    let steady = Window::new(1000, 1000).expect("in order");
    let backoff = Backoff::new(seconds(2), seconds(2), steady).expect("in order");
    Arc::new(Policy {
        window: Window::new(500, 500).expect("in order"),
        request_timeout: seconds(3),
        spacing: seconds(1),
        budget: Budget::new(2, seconds(1)).expect("large enough"),
        transient: backoff,
        refused: backoff,
        write: backoff,
        max_sleep: seconds(2),
        new_key_per_attempt: false,
    })
});

/// The small worlds: one request at a time, and two at a time within a budget.
pub fn fleet_settings() -> [FleetSetting; 2] {
    let limits = |in_flight: u32, budget| Limits {
        in_flight: in_flight.try_into().expect("not zero"),
        budget,
        max_sleep: seconds(2),
    };
    let budget = Budget::new(2, seconds(2)).expect("large enough");
    [
        FleetSetting { name: "one at a time", limits: limits(1, None), most: usize::MAX },
        FleetSetting { name: "budget", limits: limits(2, Some(budget)), most: usize::MAX },
    ]
}

/// Every move, in the order of [`Explored::taken`].
pub fn fleet_moves() -> Vec<FleetMove> {
    use FleetMove::{Fail, Insert, Issue, LateReply, Pass, Remove, Rotate, WallClock};
    let of_member = |i| [Issue(i, 4), Issue(i, 8), Fail(i), Rotate(i), Remove(i), Insert(i)];
    [Pass, WallClock, LateReply].into_iter().chain((0..MEMBERS).flat_map(of_member)).collect()
}

/// A fleet of three, and the part of its world that decides which moves are possible.
#[derive(Clone, Debug)]
struct FleetState<G> {
    group: G,
    ledger: Ledger,
    now: Now,
    ahead: bool,
    keys: [Option<MemberKey>; MEMBERS],
    /// The last request of a member that has been removed.
    late: Option<(MemberKey, RequestId)>,
    serial: u64,
}

/// Visits the states of a small world of a fleet, breadth first. Ends once a law is broken, or the number of states
/// reaches [`FleetSetting::most`].
pub fn search_fleets<G: Group>(setting: &FleetSetting) -> Explored {
    let moves = fleet_moves();
    let mut explored =
        Explored { states: 1, steps: 0, depth: 0, closed: false, taken: vec![0; moves.len()], broken: None };
    let first = FleetState::<G>::start(setting);
    let mut known = HashSet::from([first.key()]);
    // The state before each state, and the move that leads from there.
    let mut ways: Vec<(usize, FleetMove)> = vec![(0, FleetMove::Pass)];
    let mut layer = vec![(0, first)];
    while !layer.is_empty() && ways.len() < setting.most {
        let mut next = vec![];
        for (from, state) in &layer {
            for (by, what) in moves.iter().enumerate().filter(|(_, what)| state.allows(**what)) {
                explored.taken[by] += 1;
                match state.after(*what) {
                    Ok(after) if known.insert(after.key()) => {
                        next.push((ways.len(), after));
                        ways.push((*from, *what));
                    }
                    Ok(_) => {}
                    Err(law) => {
                        let lines = lines(&ways, *from, *what);
                        explored.broken = Some(Counterexample { law, lines });
                        return explored;
                    }
                }
            }
        }
        explored.depth += usize::from(!next.is_empty());
        layer = next;
        (explored.states, explored.steps) = (ways.len(), explored.taken.iter().sum());
    }
    explored.closed = layer.is_empty();
    explored
}

/// The moves of the path to a broken law.
fn lines(ways: &[(usize, FleetMove)], mut from: usize, last: FleetMove) -> Vec<String> {
    let mut moves = vec![last];
    while from > 0 {
        moves.push(ways[from].1);
        from = ways[from].0;
    }
    moves.iter().rev().map(|what| format!("{what:?}")).collect()
}

impl<G: Group> FleetState<G> {
    /// A fleet whose members have no certificate, and have not acted yet.
    fn start(setting: &FleetSetting) -> Self {
        let now = Now { instant: Instant::from_millis(1_000_000), unix: mint::EPOCH };
        let ledger = Ledger::new(setting.limits, now);
        let group = G::start(setting.limits);
        let mut state = Self { group, ledger, now, ahead: false, keys: [None; MEMBERS], late: None, serial: 0 };
        (0..MEMBERS).for_each(|i| state.insert(i));
        state
    }

    fn allows(&self, what: FleetMove) -> bool {
        match what {
            FleetMove::Pass | FleetMove::WallClock => true,
            FleetMove::Issue(i, _) | FleetMove::Fail(i) => self.request(i).is_some(),
            FleetMove::Rotate(i) | FleetMove::Remove(i) => self.keys[i].is_some(),
            FleetMove::Insert(i) => self.keys[i].is_none(),
            FleetMove::LateReply => self.late.is_some(),
        }
    }

    /// The state after this move, and after every turn that it leads to.
    ///
    /// # Errors
    /// How a law is broken.
    fn after(&self, what: FleetMove) -> Result<Self, String> {
        let mut state = self.clone();
        match what {
            FleetMove::Pass => {
                let Now { instant, unix } = self.now;
                state.now = Now { instant: instant.after(seconds(1)), unix: unix.after(seconds(1)) };
            }
            FleetMove::WallClock => {
                let unix = self.now.unix;
                state.now.unix = if self.ahead { unix.before(seconds(5)) } else { unix.after(seconds(5)) };
                state.ahead = !self.ahead;
            }
            FleetMove::Issue(i, life) => {
                state.serial += 1;
                let certificate = mint::certificate(&TEMPLATE, state.serial, self.now.unix, seconds(life));
                let issued = |id| Event::CsrIssued { id, certificate: Arc::new(certificate) };
                state.reply(i, issued)?;
            }
            FleetMove::Fail(i) => {
                state.reply(i, |id| Event::CsrFailed { id, failure: Failure::Unreachable, retry_after: None })?;
            }
            FleetMove::Rotate(i) => state.handle(self.keys[i].ok_or("no member")?, Event::RotateNow)?,
            FleetMove::Remove(i) => {
                state.late = self.request(i).or(self.late);
                let key = state.keys[i].take().ok_or("no member")?;
                state.group.remove(key);
                state.ledger.remove(key);
            }
            FleetMove::Insert(i) => state.insert(i),
            FleetMove::LateReply => state.late_reply()?,
        }
        state.drain()?;
        Ok(state)
    }

    fn insert(&mut self, i: usize) {
        let setup = Setup {
            policy: POLICY.clone(),
            seed: i as u64,
            template: Some(TEMPLATE.clone()),
            signer: SignerStatus::Shared,
            ..Setup::default()
        };
        let key = self.group.insert(setup, self.now);
        let machine = self.group.machine(key).expect("the member was added").clone();
        self.ledger.insert(key, machine, self.now);
        self.keys[i] = Some(key);
    }

    /// The request in flight of a member.
    fn request(&self, i: usize) -> Option<(MemberKey, RequestId)> {
        let key = self.keys[i]?;
        let (id, _) = self.group.machine(key)?.checkpoint().in_flight?;
        Some((key, id))
    }

    fn reply(&mut self, i: usize, event: impl FnOnce(RequestId) -> Event) -> Verdict {
        let (key, id) = self.request(i).ok_or("no request is in flight")?;
        self.handle(key, event(id))
    }

    /// Delivers a reply to a member that has been removed, and checks that it changes nothing.
    fn late_reply(&mut self) -> Verdict {
        let (key, id) = self.late.take().ok_or("no member was removed")?;
        let before = self.clone();
        let actions =
            self.group.handle(key, Event::CsrFailed { id, failure: Failure::Denied, retry_after: None }, self.now);
        let machines = |state: &Self| state.keys.map(|key| state.group.machine(key?).cloned());
        let is_ignored = actions.is_empty() && actions.outcomes().is_ignored();
        ensure!(is_ignored && machines(self) == machines(&before), "the reply to a removed member changes another");
        Ok(())
    }

    fn handle(&mut self, key: MemberKey, event: Event) -> Verdict {
        let actions = self.group.handle(key, event.clone(), self.now);
        self.acted(key, &event, actions)
    }

    /// Lets every member act whose turn it is.
    fn drain(&mut self) -> Verdict {
        for turn in 0.. {
            ensure!(turn < 50, "the fleet spins");
            let Some((key, actions)) = self.group.tick(self.now) else { break };
            let submits = submitted(&actions).is_some();
            self.acted(key, if submits { &Event::TurnGranted } else { &Event::Tick }, actions)?;
        }
        self.ledger.drained(self.group.deadline(), self.now)
    }

    /// Checks a step by the laws, and carries out a write at once.
    fn acted(&mut self, key: MemberKey, event: &Event, actions: Actions) -> Verdict {
        let after = self.group.machine(key).ok_or("a member is gone")?.clone();
        self.ledger.step(key, event, &actions, after, self.now)?;
        for action in actions {
            if let Action::WriteCert { id, .. } = action {
                self.handle(key, Event::CertWritten { id })?;
            }
        }
        Ok(())
    }

    /// A hash of everything that decides what can happen next. Times are distances from now.
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let now = self.now;
        for machine in self.keys.map(|key| key.and_then(|key| self.group.machine(key))) {
            machine.is_some().hash(&mut hasher);
            let Some(machine) = machine else { continue };
            machine.hash_at(now, &mut hasher);
            let times = machine.certificate().map(|held| {
                let ahead = |at: perennial::UnixTime| at.as_millis() - now.unix.as_millis();
                // An expired certificate may become valid again if the clock is set back by five seconds.
                [ahead(held.validity.not_before()), ahead(held.validity.not_after())].map(|at| at.max(-20_000))
            });
            times.hash(&mut hasher);
        }
        let (queue, level) = self.ledger.queue(now.instant);
        let place = |key| self.keys.iter().position(|other| *other == Some(key));
        let ahead = |at: Instant| i128::from(at.as_millis()) - i128::from(now.instant.as_millis());
        let queue: Vec<_> = queue.into_iter().map(|(key, order)| (place(key), ahead(order))).collect();
        let late = self.late.map(|(_, id)| id);
        (queue, level, self.ahead, late).hash(&mut hasher);
        hasher.finish()
    }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
