//! Hostile lives of a fleet, and the laws that a fleet keeps in addition to those of its members.
//!
//! A life of a fleet is decoded from the bytes of a [life of one machine](crate::script): its steps happen to one
//! member after another. Members come and go, and replies may arrive after their member was removed.

mod group;
mod ledger;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Action, Actions, Budget, Certificate, Event, Fleet, Instant, Limits, MemberKey, Now, RequestId, Setup,
    SignerStatus, Template, UnixTime, mix,
};

pub use group::Group;
pub use ledger::Ledger;

use crate::laws::{Verdict, ensure};
use crate::mint;
use crate::script::{Life, LifeStep, Script};
use crate::simulation::world::{Answer, DiskHabit, Issue, Outcome, World};
use crate::trace::{Record, Run, Trace, submitted};

/// The most members of a fleet in a life.
const MOST: usize = 7;

/// A hostile life of a fleet.
#[derive(Clone, Debug)]
pub struct FleetScript {
    /// The life of one machine: policy, clocks and steps.
    pub script: Script,
    /// The limits of the fleet.
    pub limits: Limits,
    /// The number of members at the start.
    pub members: usize,
}

impl FleetScript {
    /// Decodes a hostile life of a fleet. Any bytes are a life.
    pub fn decode(bytes: &[u8]) -> Self {
        let script = Script::decode(bytes);
        let [cap, budget, members] = [3, 7, 11].map(|i| bytes.get(i).copied().unwrap_or(0));
        let max_sleep = script.life.policy.max_sleep;
        let refill = (max_sleep * (1 << (budget / 3 % 8)) / 16).max(Duration::from_millis(1));
        let budget = (budget % 3 > 0).then(|| Budget::new(2 + u32::from(budget % 4), refill).expect("large enough"));
        let in_flight = (1 + u32::from(cap % 3)).try_into().expect("at least one");
        Self { script, limits: Limits { in_flight, budget, max_sleep }, members: 1 + usize::from(members) % MOST }
    }

    /// Runs the life, and returns the trace of every member. A life whose clocks may jump to any time ([`Life::wild`])
    /// shows only that a fleet never panics: no law is checked, and no trace is returned.
    ///
    /// # Errors
    /// A law of fleets that is broken.
    pub fn run(&self) -> Result<Vec<Trace>, String> {
        let mut crowd = Crowd::new(self);
        for _ in 0..self.members {
            crowd.insert(None);
        }
        crowd.drain()?;
        for (i, step) in (0..).zip(&self.script.steps) {
            let outcome = crowd.apply(step, i).map_err(|how| format!("in step {i}, {step:?}: {how}"));
            if !self.script.life.wild {
                outcome?;
            }
        }
        if self.script.life.wild {
            return Ok(vec![]);
        }
        Ok(crowd.traces.into_values().collect())
    }
}

/// A reply on its way to a member. It arrives even if the member has been removed.
#[derive(Clone, Debug)]
struct Reply {
    key: MemberKey,
    event: Event,
}

/// A fleet with its clocks, signer and disk.
struct Crowd<'a> {
    life: &'a Life,
    fleet: Fleet,
    ledger: Ledger,
    /// The trace of each member, of removed ones too.
    traces: BTreeMap<MemberKey, Trace>,
    now: Now,
    keys: Vec<MemberKey>,
    arrivals: BTreeMap<(Instant, u64), Reply>,
    /// Every reply that has arrived.
    arrived: Vec<Reply>,
    answers: VecDeque<Answer>,
    habit: Answer,
    disk: (DiskHabit, Duration),
    minter: World,
    /// The number of replies and members so far.
    count: u64,
}

impl<'a> Crowd<'a> {
    fn new(script: &'a FleetScript) -> Self {
        let now = Now { instant: Instant::from_millis(0), unix: mint::EPOCH };
        let life = &script.script.life;
        Self {
            life,
            fleet: Fleet::new(script.limits),
            ledger: Ledger::new(script.limits, now),
            traces: BTreeMap::new(),
            now,
            keys: vec![],
            arrivals: BTreeMap::new(),
            arrived: vec![],
            answers: VecDeque::new(),
            habit: Answer::healthy(life.lifetime),
            disk: (DiskHabit::Works, Duration::ZERO),
            minter: World::new(Setup::default(), life.lifetime),
            count: 0,
        }
    }

    /// Carries out a step of the life, the `i`th one, then lets every member act whose turn it is.
    fn apply(&mut self, step: &LifeStep, i: u64) -> Verdict {
        let picked = self.keys.get((mix(i, 0, 0) % self.keys.len().max(1) as u64) as usize).copied();
        match step {
            LifeStep::Run(most) => return (0..*most).try_for_each(|_| self.run()),
            LifeStep::Pass(span) => {
                // Nothing happens meanwhile: the loop wakes up late.
                self.pass(*span);
                return Ok(());
            }
            LifeStep::Answer(answer) => self.answers.push_back(answer.clone()),
            LifeStep::Habit(answer) => self.habit = answer.clone(),
            LifeStep::Disk(disk, delay) => self.disk = (*disk, *delay),
            LifeStep::WallClock(millis) => {
                self.now.unix = UnixTime::from_millis(self.now.unix.as_millis().saturating_add(*millis));
            }
            LifeStep::JumpMonotonic(instant) => self.now.instant = *instant,
            LifeStep::JumpWallClock(unix) => self.now.unix = *unix,
            LifeStep::SaveRecords(_) => self.insert(None),
            LifeStep::LoseRecord | LifeStep::Restart => self.replace(picked, *step == LifeStep::Restart),
            LifeStep::RepeatReply(back) => {
                let reply = self.arrived.iter().rev().nth(*back).cloned();
                reply.map_or(Ok(()), |Reply { key, event }| self.handle(key, event))?;
            }
            step => {
                if let Some((key, machine)) = picked.and_then(|key| Some((key, self.fleet.get(key)?.clone()))) {
                    let events = step.events(&machine, self.now, |template, issue| self.mint(template, issue));
                    events.into_iter().try_for_each(|event| self.handle(key, event))?;
                }
            }
        }
        self.drain()
    }

    fn pass(&mut self, span: Duration) {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let drift = millis.saturating_mul(self.life.drift) / 1000;
        let unix = self.now.unix.after(span).as_millis().saturating_add(drift);
        self.now = Now { instant: self.now.instant.after(span), unix: UnixTime::from_millis(unix) };
    }

    /// Sleeps until the next reply or the deadline. Then the reply arrives, and every member acts whose turn it is.
    fn run(&mut self) -> Verdict {
        let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = arrival.into_iter().chain(self.fleet.deadline()).min() else { return Ok(()) };
        self.pass(next.since(self.now.instant));
        if arrival.is_some_and(|at| at <= self.now.instant) {
            let (_, reply) = self.arrivals.pop_first().expect("a reply has arrived");
            self.arrived.push(reply.clone());
            self.handle(reply.key, reply.event)?;
        }
        self.drain()
    }

    /// Adds a member, which continues from an earlier one.
    fn insert(&mut self, earlier: Option<perennial::RotationMachine>) {
        if self.keys.len() == MOST {
            return;
        }
        self.count += 1;
        let kind = mix(self.life.seed, self.count, 7);
        let template = self.life.template.clone().or_else(|| (kind & 8 > 0).then(|| Template::node("worker-1")));
        let flaw = self.life.certificate.filter(|_| kind & 1 > 0);
        let life = self.life.lifetime / (1 + (kind >> 8) as u32 % 4);
        let issue = flaw.map(|flaw| Issue { life, backdate: Duration::ZERO, flaw });
        let setup = Setup {
            policy: Arc::new(self.life.policy.clone()),
            seed: kind,
            certificate: issue.map(|issue| self.mint(&Template::node("worker-1"), issue)),
            signer: if kind & 6 == 6 { SignerStatus::Shared } else { SignerStatus::Ready },
            template: template.map(Arc::new),
            pending: earlier.as_ref().and_then(|machine| machine.pending(self.now)),
            renewal: earlier.and_then(|machine| machine.renewal()),
            ..Setup::default()
        };
        let (policy, pending, renewal) = (setup.policy.clone(), setup.pending.clone(), setup.renewal);
        let key = self.fleet.insert(setup, self.now);
        let first = self.fleet.get(key).expect("the member was added").clone();
        self.ledger.insert(key, first.clone(), self.now);
        let run = Run { started: self.now, pending, renewal, remembers: false, first, records: vec![] };
        self.traces.insert(key, Trace { policy, seed: kind, wild: false, runs: vec![run] });
        self.keys.push(key);
    }

    /// Removes a member, and with `again` adds one that continues from it.
    fn replace(&mut self, key: Option<MemberKey>, again: bool) {
        let Some(key) = key else { return };
        let removed = self.fleet.remove(key);
        self.keys.retain(|other| *other != key);
        self.ledger.remove(key);
        if again {
            self.insert(removed);
        }
    }

    /// Lets a member handle an event. The event of a member that has been removed must change nothing.
    fn handle(&mut self, key: MemberKey, event: Event) -> Verdict {
        if !self.keys.contains(&key) {
            let before = self.fleet.clone();
            let actions = self.fleet.handle(key, event.clone(), self.now);
            let is_ignored = actions.is_empty() && actions.outcomes().is_ignored() && self.fleet == before;
            ensure!(is_ignored, "{event} for a member that has been removed changes the fleet, or leads to {actions}");
            return Ok(());
        }
        // As the fleet passes the event on.
        let event = match event {
            Event::SignerChanged(SignerStatus::Ready) => Event::SignerChanged(SignerStatus::Shared),
            Event::TurnGranted => Event::Tick,
            event => event,
        };
        let actions = self.fleet.handle(key, event.clone(), self.now);
        self.acted(key, event, actions)
    }

    /// Lets every member act whose turn it is.
    fn drain(&mut self) -> Verdict {
        let most = 8 * (MOST + 1);
        for turn in 0.. {
            ensure!(turn < most, "the fleet spins at {}", self.now);
            let Some((key, actions)) = self.fleet.tick(self.now) else { break };
            // A turn that submits nothing is no more than a Tick.
            let submits = submitted(&actions).is_some();
            let event = if submits { Event::TurnGranted } else { Event::Tick };
            self.acted(key, event, actions)?;
        }
        let (in_flight, counted) = (self.ledger.in_flight(), self.fleet.planner().in_flight() as usize);
        ensure!(in_flight == counted, "{in_flight} requests are in flight, the fleet counts {counted}");
        self.ledger.drained(self.fleet.deadline(), self.now)
    }

    /// Notes a step of a member, and carries out its actions.
    fn acted(&mut self, key: MemberKey, event: Event, actions: Actions) -> Verdict {
        let after = self.fleet.get(key).ok_or("a member is gone")?.clone();
        self.ledger.step(key, &event, &actions, after.clone(), self.now)?;
        let record = Record { now: self.now, event, actions: actions.clone(), after };
        self.traces.get_mut(&key).ok_or("no trace")?.runs[0].records.push(record);
        for action in actions {
            match action {
                Action::SubmitCsr { id, template, .. } => self.answer(key, id, &template),
                Action::WriteCert { id, .. } => self.write(key, id),
                Action::CancelRequest { .. } | Action::SetTimer(_) => {}
            }
        }
        Ok(())
    }

    fn answer(&mut self, key: MemberKey, id: RequestId, template: &Arc<Template>) {
        let Answer { outcome, delay, repeated } = self.answers.pop_front().unwrap_or_else(|| self.habit.clone());
        let event = match outcome {
            Outcome::Lose => return,
            Outcome::Issue(issue) => Event::CsrIssued { id, certificate: self.mint(template, issue) },
            Outcome::Fail(failure, retry_after) => Event::CsrFailed { id, failure, retry_after },
        };
        (0..=u8::from(repeated)).for_each(|_| self.send(delay, Reply { key, event: event.clone() }));
    }

    fn write(&mut self, key: MemberKey, id: RequestId) {
        let event = match self.disk.0 {
            DiskHabit::Works => Event::CertWritten { id },
            DiskHabit::Full => Event::WriteFailed { id },
            DiskHabit::Silent => return,
        };
        self.send(self.disk.1, Reply { key, event });
    }

    fn send(&mut self, delay: Duration, reply: Reply) {
        self.count += 1;
        self.arrivals.insert((self.now.instant.after(delay), self.count), reply);
    }

    fn mint(&mut self, template: &Template, issue: Issue) -> Arc<Certificate> {
        self.minter.clocks.now = self.now;
        Arc::new(self.minter.mint(template, issue))
    }
}
