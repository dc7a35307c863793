//! A hostile life of a machine: events, faults and restarts, decoded from bytes. Every byte string is a life. The
//! smaller its bytes, the simpler the life. So a failing life becomes readable when proptest or a fuzzer shrinks its
//! bytes.

mod decode;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use perennial::{
    Action, Certificate, Event, Failure, Fingerprint, Instant, Now, Policy, RenewalHint, RequestId, RotationMachine,
    Setup, SignerStatus, Template, UnixTime,
};
use proptest::prelude::*;

use crate::mint;
use crate::simulation::Member as _;
use crate::simulation::world::{Answer, DiskHabit, Flaw, Issue, World};
use crate::trace::Trace;
pub use decode::bytes;

/// A hostile life: the start of a machine, and all that happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The start of the machine.
    pub life: Life,
    /// The steps, in order.
    pub steps: Vec<LifeStep>,
}

/// The start of a machine in a hostile life, and the course of its clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// The first policy of the machine.
    pub policy: Policy,
    /// The seed of the machine's jitter.
    pub seed: u64,
    /// The lifetime of a healthy certificate.
    pub lifetime: Duration,
    /// The first certificate: none, or one with this flaw.
    pub certificate: Option<Flaw>,
    /// The first template.
    pub template: Option<Template>,
    /// The drift of the wall clock, in permille.
    pub drift: i64,
    /// True if both clocks may jump to any time, forward or back.
    pub wild: bool,
}

/// An event or a fault in a hostile life, or a passage of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeStep {
    /// The next replies and Ticks come, each at its time, up to this many of them.
    Run(usize),
    /// This much time passes, without an event.
    Pass(Duration),
    /// A Tick comes now, early or late.
    Tick,
    /// The turn of the machine comes to submit a request, early or late, or although its signer is not shared.
    Turn,
    /// The signer gives this answer to one request: the next one for which no answer is planned yet.
    Answer(Answer),
    /// From now on, the signer gives this answer to every request for which no [`Answer`](Self::Answer) is planned.
    Habit(Answer),
    /// Each write has this outcome from now on, after this time.
    Disk(DiskHabit, Duration),
    /// The template changes to this one; `None`: the template is removed.
    Template(Option<Template>),
    /// A rotation is requested.
    RotateNow,
    /// The signer changes to this status: ready, shared, not ready (no identity to authenticate with) or absent.
    Signer(SignerStatus),
    /// The policy changes to this one.
    Policy(Box<Policy>),
    /// Another program removes the certificate from the store.
    Removed,
    /// Another program puts a copy of the served certificate into the store.
    Restored,
    /// Another program puts a new certificate of this kind into the store.
    Replaced(Issue),
    /// The signer gives a hint when to rotate the newest certificate.
    Hint(HintKind),
    /// A server refuses the served certificate (true), or a certificate that the machine does not serve (false).
    Refused(bool),
    /// The wall clock is stepped by this many milliseconds.
    WallClock(i64),
    /// From now on, each write of the pending record succeeds (true) or fails (false).
    SaveRecords(bool),
    /// The pending record is lost.
    LoseRecord,
    /// The process restarts.
    Restart,
    /// A reply of the signer or of the disk arrives once more: the last one (0), or the one this many replies before
    /// the last.
    RepeatReply(usize),
    /// Replies arrive for an id that the machine has never given to a request or a write.
    ForeignReply,
    /// Readings of the API server's clock arrive. All show the same time, this many milliseconds ahead of the local
    /// wall clock. The second number is the number of readings.
    ServerClock(i64, usize),
    /// The monotonic clock jumps to this instant (only if the life is [`wild`](Life::wild)).
    JumpMonotonic(Instant),
    /// The wall clock jumps to this time (only if the life is [`wild`](Life::wild)).
    JumpWallClock(UnixTime),
}

/// A hint when to rotate the newest certificate, in permille of its lifetime after its notBefore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintKind {
    /// Whether the hint names the newest certificate, or one that the machine does not have.
    pub is_known: bool,
    /// The time of the hint; negative: before notBefore.
    pub from: i16,
    /// The end of the period; `None`: the hint is a single time.
    pub until: Option<i16>,
}

impl HintKind {
    fn event(self, machine: &RotationMachine, now: Now) -> Event {
        let newest = machine.waiting().or_else(|| machine.certificate());
        let (begin, life) = newest.map_or((now.unix, Duration::from_secs(1)), |newest| {
            (newest.validity.not_before(), newest.validity.lifetime())
        });
        let at = |permille: i16| {
            let span = life / 1000 * u32::from(permille.unsigned_abs());
            if permille < 0 { begin.before(span) } else { begin.after(span) }
        };
        let from = at(self.from);
        let hint = self.until.map_or_else(|| RenewalHint::after(from), |until| RenewalHint { from, until: at(until) });
        let fingerprint = newest.filter(|_| self.is_known).map(|newest| newest.fingerprint);
        Event::RenewalHinted { fingerprint: fingerprint.unwrap_or(Fingerprint([0xff; 32])), hint }
    }
}

impl Script {
    /// Runs the life in a world of its own and returns the trace.
    pub fn run(&self) -> Trace {
        let mut world = self.life.begin();
        for step in &self.steps {
            self.life.apply(&mut world, step);
        }
        world.trace.wild = self.life.wild;
        world.trace
    }
}

/// A strategy for hostile lives of fewer than `steps` steps.
pub fn scripts(steps: usize) -> impl Strategy<Value = Script> {
    bytes(steps).prop_map(|bytes| Script::decode(&bytes))
}

impl Life {
    /// Makes the world in which the life begins, with its machine.
    pub fn begin(&self) -> World {
        let mut setup = Setup {
            policy: Arc::new(self.policy.clone()),
            seed: self.seed,
            template: self.template.clone().map(Arc::new),
            ..Setup::default()
        };
        let mut world = World::new(setup.clone(), self.lifetime);
        if let Some(flaw) = self.certificate {
            setup.certificate = Some(Arc::new(world.mint(&node(), self.issue(flaw))));
            world = World::new(setup, self.lifetime);
        }
        world.clocks.drift = self.drift;
        world
    }

    const fn issue(&self, flaw: Flaw) -> Issue {
        Issue { life: self.lifetime, backdate: Duration::ZERO, flaw }
    }

    /// Carries out one step in this world.
    pub fn apply(&self, world: &mut World, step: &LifeStep) {
        match step {
            LifeStep::Run(most) => world.steps(*most),
            LifeStep::Pass(span) => world.pass(*span),
            LifeStep::Answer(answer) => world.next_answers.push_back(answer.clone()),
            LifeStep::Habit(answer) => world.habit = answer.clone(),
            LifeStep::Disk(disk, delay) => world.disk = (*disk, *delay),
            LifeStep::WallClock(millis) => world.clocks.step_wall_clock(*millis),
            LifeStep::SaveRecords(works) => world.records = *works,
            LifeStep::LoseRecord => world.lose_record(),
            LifeStep::Restart => world.restart(),
            LifeStep::RepeatReply(back) => repeat_reply(world, *back),
            LifeStep::JumpMonotonic(instant) => world.clocks.now.instant = *instant,
            LifeStep::JumpWallClock(unix) => world.clocks.now.unix = *unix,
            step => {
                let (machine, now) = (world.machine.clone(), world.now());
                let events = step.events(&machine, now, |template, issue| Arc::new(world.mint(template, issue)));
                events.into_iter().for_each(|event| world.handle(event));
            }
        }
    }
}

impl LifeStep {
    /// The events in which this step consists for a machine; none if the step happens to the world around the machine.
    /// `mint` makes certificates.
    pub fn events(
        &self,
        machine: &RotationMachine,
        now: Now,
        mint: impl FnOnce(&Template, Issue) -> Arc<Certificate>,
    ) -> Vec<Event> {
        let event = match self {
            Self::Tick => Event::Tick,
            Self::Turn => Event::TurnGranted,
            Self::Template(template) => Event::TemplateChanged(template.clone().map(Arc::new)),
            Self::RotateNow => Event::RotateNow,
            Self::Signer(status) => Event::SignerChanged(*status),
            Self::Policy(policy) => Event::PolicyChanged(Arc::new(Policy::clone(policy))),
            Self::Removed => Event::CertReplaced(None),
            Self::Restored => Event::CertReplaced(machine.certificate().cloned()),
            Self::Replaced(issue) => {
                let template = machine.template().map_or_else(node, |template| Template::clone(template));
                Event::CertReplaced(Some(mint(&template, *issue)))
            }
            Self::Refused(known) => {
                let held = machine.certificate().filter(|_| *known).map(|held| held.fingerprint);
                Event::CertRefused { fingerprint: held.unwrap_or(Fingerprint([0xff; 32])) }
            }
            Self::Hint(kind) => kind.event(machine, now),
            Self::ForeignReply => {
                let id = foreign_id();
                return vec![
                    Event::CsrFailed { id, failure: Failure::Denied, retry_after: None },
                    Event::WriteFailed { id },
                    Event::CertWritten { id },
                ];
            }
            Self::ServerClock(ahead, times) => {
                let unix = UnixTime::from_millis(now.unix.as_millis().saturating_add(*ahead));
                return (0..*times).map(|_| Event::ServerDated { unix }).collect();
            }
            Self::Run(_)
            | Self::Pass(_)
            | Self::Answer(_)
            | Self::Habit(_)
            | Self::Disk(..)
            | Self::WallClock(_)
            | Self::SaveRecords(_)
            | Self::LoseRecord
            | Self::Restart
            | Self::RepeatReply(_)
            | Self::JumpMonotonic(_)
            | Self::JumpWallClock(_) => return vec![],
        };
        vec![event]
    }
}

/// Delivers a reply once more: the last one, or the one that came `back` replies before the last. Only replies of the
/// current run count, since a reply to an earlier run would not reach this process.
fn repeat_reply(world: &mut World, back: usize) {
    let run = world.trace.runs.last().expect("a world begins with a run");
    let replies = run.records.iter().filter(|r| r.replies_to().is_some() || r.reports_on().is_some());
    if let Some(event) = replies.rev().nth(back).map(|record| record.event.clone()) {
        world.handle(event);
    }
}

/// An id that no machine in a test reaches: 10,000 or more. It comes from a machine that was driven through thousands
/// of writes, at the first call.
fn foreign_id() -> RequestId {
    static FOREIGN: LazyLock<RequestId> = LazyLock::new(id_after_many_writes);
    *FOREIGN
}

fn id_after_many_writes() -> RequestId {
    let certificate = Some(Arc::new(mint::certificate(&node(), 0, mint::EPOCH, Duration::from_secs(3600))));
    let now = Now { instant: Instant::from_millis(0), unix: mint::EPOCH };
    let mut other = RotationMachine::new(Setup { certificate, ..Setup::default() }, now);
    for _ in 0..10_000 {
        for action in other.handle(Event::CertReplaced(None), now) {
            if let Action::WriteCert { id, .. } = action {
                let _ = other.handle(Event::CertWritten { id }, now);
                if id.get() >= 10_000 {
                    return id;
                }
            }
        }
    }
    unreachable!("each write has an id of its own")
}

fn node() -> Template {
    Template::node("worker-1")
}
