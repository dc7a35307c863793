//! A state: a machine, and as much of the world around it as decides what can happen next.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Certificate, Event, Failure, Fingerprint, Instant, Key, Now, Pending, Policy, RequestId, Setup, SignerStatus,
    Template,
};

use super::obey;
use super::setting::{AHEAD, Flavour, LATE, Move, Setting, WISHES};
use super::subject::{Duties, Subject};
use crate::laws::{Bucket, ends_its_key};
use crate::mint;

pub(super) const SEED: u64 = 1;

/// One state of one world.
#[derive(Clone, Debug)]
pub(super) struct Life<S> {
    /// The machine, as shipped or broken.
    pub(super) subject: S,
    /// Both clocks.
    pub(super) now: Now,
    /// The wall clock is ahead of what it was in the beginning.
    ahead: bool,
    /// The wall clock was set since anybody looked.
    pub(super) unnoticed: bool,
    /// What is durable, and in use.
    disk: Option<Arc<Certificate>>,
    /// What is durable, and to be used later.
    later: Option<Arc<Certificate>>,
    /// The request that is out.
    pub(super) out: Option<Out>,
    pub(super) last_id: Option<RequestId>,
    /// A request that has ended.
    pub(super) ended: Option<RequestId>,
    /// A certificate that was to be written, and is not durable yet.
    pub(super) owed: Option<Owed>,
    /// Its write is under way.
    writing: bool,
    /// What the pending key may be used for once more.
    pub(super) kept: Option<Arc<Template>>,
    /// The pending record from before the last request, if that can be found again in this world.
    stale: Option<Pending>,
    /// The policy to go by. A broken machine may have its own.
    pub(super) policy: Arc<Policy>,
    pub(super) bucket: Bucket,
    pub(super) spent: Option<Instant>,
    pub(super) timer: Option<Instant>,
    serial: u64,
}

/// A write that is owed: by which name, and whether it is of the certificate to be served.
type Owed = (RequestId, bool);

/// Whether something is true of a certificate by each of the templates.
type Names = [bool; 3];

/// A request that is out.
#[derive(Clone, Debug)]
pub(super) struct Out {
    pub(super) id: RequestId,
    pub(super) template: Arc<Template>,
    pub(super) since: Instant,
}

impl<S: Subject> Life<S> {
    /// Without a certificate, with one, or with a bootstrap credential.
    pub(super) fn beginnings(setting: &Setting) -> Vec<Self> {
        let now = Now { instant: Instant::from_millis(1_000), unix: mint::EPOCH };
        let template = WISHES[0].clone();
        let first = |flavour| setting.mint(&template, flavour, 1, now);
        let certificates = [None, Some(first(Flavour::Good)), Some(first(Flavour::Provisional))];
        let begin = |certificate: Option<Arc<Certificate>>| Self {
            subject: S::start(
                Setup {
                    policy: setting.policy.clone(),
                    seed: SEED,
                    signer: SignerStatus::Ready,
                    template: Some(template.clone()),
                    certificate: certificate.clone(),
                    waiting: None,
                    unwritten: false,
                    rotate_now: false,
                    pending: None,
                },
                now,
            ),
            now,
            ahead: false,
            unnoticed: false,
            disk: certificate,
            later: None,
            out: None,
            last_id: None,
            ended: None,
            owed: None,
            writing: false,
            kept: None,
            stale: None,
            policy: setting.policy.clone(),
            bucket: Bucket::full(&setting.policy),
            spent: None,
            timer: Some(now.instant),
            serial: 1,
        };
        certificates.map(begin).into()
    }

    /// Whether this can happen now.
    pub(super) fn allows(&self, what: Move) -> bool {
        let machine = self.subject.machine();
        let deadline = machine.deadline();
        match what {
            Move::Pass => deadline.is_none_or(|at| self.now.instant < later(at, LATE)),
            Move::Alarm => deadline.is_some_and(|at| at > self.now.instant),
            Move::Sleep(_) => deadline.is_some_and(|at| self.now.instant <= at),
            Move::Issue(_) | Move::Fail(..) => self.out.is_some(),
            Move::Written | Move::WriteFailed => self.writing,
            Move::Refused | Move::FoundOurs => machine.certificate().is_some(),
            Move::RestartAhead => !self.ahead,
            Move::Signer(status) => machine.signer() != status,
            Move::Tick
            | Move::WallClock
            | Move::ServerDated(_)
            | Move::Template(_)
            | Move::RotateNow
            | Move::Policy
            | Move::Found(_)
            | Move::Restart
            | Move::RestartBlank
            | Move::RestartStale => true,
        }
    }

    /// The state after this has happened.
    ///
    /// # Errors
    /// The law that was broken.
    pub(super) fn after(&self, setting: &Setting, what: Move) -> Result<Self, String> {
        let mut life = self.clone();
        if let Some(event) = life.happen(setting, what) {
            let duties = life.handle(setting, &event);
            obey::step(self, &mut life, &event, &duties)?;
        }
        Ok(life)
    }

    /// The same, to be told: whatever the laws say of it.
    pub(super) fn retrace(&self, setting: &Setting, what: Move) -> (Self, Option<(Event, Duties)>) {
        let mut life = self.clone();
        let Some(event) = life.happen(setting, what) else { return (life, None) };
        let duties = life.handle(setting, &event);
        life.note(&event, &duties);
        (life, Some((event, duties)))
    }

    fn handle(&mut self, setting: &Setting, event: &Event) -> Duties {
        let record = self.subject.pending(self.now);
        let duties = self.subject.handle(event.clone(), self.now);
        if duties.submit.is_some() && setting.moves.contains(&Move::RestartStale) {
            self.stale = record;
        }
        duties
    }

    /// What happens in the world, and what the machine is told of it.
    fn happen(&mut self, setting: &Setting, what: Move) -> Option<Event> {
        let machine = self.subject.machine();
        let held = machine.certificate().cloned();
        match what {
            Move::Pass => self.pass(1),
            Move::Sleep(millis) => self.pass(millis),
            Move::WallClock => self.set_wall_clock(!self.ahead),
            Move::Restart => self.restart(self.subject.pending(self.now)),
            Move::RestartAhead => {
                let pending = self.subject.pending(self.now);
                self.set_wall_clock(true);
                // What was spent seems to be long ago.
                (self.bucket, self.spent) = (Bucket::full(&self.policy), None);
                self.restart(pending);
            }
            Move::RestartBlank => self.restart_at_a_loss(None),
            Move::RestartStale => self.restart_at_a_loss(self.stale.clone()),
            Move::Alarm => {
                let sleep = machine.deadline()?.since(self.now.instant);
                self.pass(u64::try_from(sleep.as_millis()).unwrap_or(u64::MAX));
                return Some(Event::Tick);
            }
            Move::Tick => return Some(Event::Tick),
            Move::Template(wish) => {
                return Some(Event::TemplateChanged(wish.map(|wish| WISHES[wish as usize].clone())));
            }
            Move::Policy => {
                let is_first = self.policy == setting.policy;
                let policy = if is_first { &setting.other } else { &setting.policy };
                return Some(Event::PolicyChanged(policy.clone()));
            }
            Move::Signer(status) => return Some(Event::SignerChanged(status)),
            Move::RotateNow => return Some(Event::RotateNow),
            Move::ServerDated(ahead) => {
                let truth = self.now.unix.before(if self.ahead { AHEAD } else { Duration::ZERO });
                return Some(Event::ServerDated { unix: truth.after(Duration::from_millis(ahead)) });
            }
            Move::Refused => return Some(Event::CertRefused { fingerprint: held?.fingerprint }),
            Move::Issue(flavour) => {
                let Out { id, template, .. } = self.out.clone()?;
                return Some(Event::CsrIssued { id, certificate: self.mint(setting, &template, flavour) });
            }
            Move::Fail(failure, patience) => {
                let retry_after = patience.map(Duration::from_millis);
                return Some(Event::CsrFailed { id: self.out.clone()?.id, failure, retry_after });
            }
            Move::Written => {
                let (id, serve) = self.owed?;
                if serve {
                    self.later.take_if(|later| held.as_ref() == Some(later));
                    self.disk = held;
                } else {
                    self.later = machine.waiting().cloned();
                }
                return Some(Event::CertWritten { id });
            }
            Move::WriteFailed => return Some(Event::WriteFailed { id: self.owed?.0 }),
            Move::Found(flavour) => {
                let template = machine.template().cloned().unwrap_or_else(|| WISHES[0].clone());
                self.disk = flavour.map(|flavour| self.mint(setting, &template, flavour));
                return Some(Event::CertReplaced(self.disk.clone()));
            }
            Move::FoundOurs => {
                self.disk = held;
                return Some(Event::CertReplaced(self.disk.clone()));
            }
        }
        None
    }

    fn mint(&mut self, setting: &Setting, template: &Template, flavour: Flavour) -> Arc<Certificate> {
        self.serial += 1;
        setting.mint(template, flavour, self.serial, self.now)
    }

    pub(super) fn pass(&mut self, millis: u64) {
        let span = Duration::from_millis(millis);
        self.now = Now { instant: self.now.instant.after(span), unix: self.now.unix.after(span) };
    }

    fn set_wall_clock(&mut self, ahead: bool) {
        self.now.unix = if ahead { self.now.unix.after(AHEAD) } else { self.now.unix.before(AHEAD) };
        (self.ahead, self.unnoticed) = (ahead, true);
    }

    fn restart(&mut self, pending: Option<Pending>) {
        let machine = self.subject.machine();
        let setup = Setup {
            policy: self.policy.clone(),
            seed: SEED,
            signer: machine.signer(),
            template: machine.template().cloned(),
            certificate: self.disk.clone(),
            waiting: self.later.clone().filter(|later| later.validity.not_before() > self.now.unix),
            unwritten: false,
            rotate_now: false,
            pending,
        };
        self.subject = S::start(setup, self.now);
        self.timer = Some(self.now.instant);
        (self.out, self.last_id, self.ended, self.owed, self.writing) = (None, None, None, None, false);
    }

    /// With this record, or without one: of what was spent since, nobody knows.
    fn restart_at_a_loss(&mut self, pending: Option<Pending>) {
        (self.bucket, self.spent) = (Bucket::full(&self.policy), None);
        self.kept = pending.as_ref().filter(|pending| pending.key == Key::Pending).map(|found| found.template.clone());
        self.stale.clone_from(&pending);
        self.restart(pending);
    }

    /// Takes note of what was done. The laws have been checked.
    pub(super) fn note(&mut self, event: &Event, duties: &Duties) {
        let now = self.now.instant;
        self.bucket.change(event, now);
        if let Event::PolicyChanged(policy) = event {
            self.policy.clone_from(policy);
        }
        let keeps_keys = !self.policy.new_key_per_attempt;
        self.kept.take_if(|_| !keeps_keys);
        self.unnoticed &= !self.has_looked(event, duties);
        let replied = |id: RequestId| self.out.as_ref().is_some_and(|out| out.id == id);
        match event {
            Event::CsrIssued { id, .. } | Event::CsrFailed { id, .. } if replied(*id) => {
                self.kept = self.kept.take().filter(|_| !ends_its_key(event));
                self.ended = self.out.take().map(|out| out.id);
            }
            Event::CertWritten { .. } => (self.owed, self.writing) = (None, false),
            Event::WriteFailed { .. } => self.writing = false,
            // A store does one thing after the other: what was being written is overwritten, or never will be.
            Event::CertReplaced(found) => {
                self.writing = false;
                if found.is_some() && found.as_ref() == self.subject.machine().certificate() {
                    self.owed.take_if(|(_, serve)| *serve);
                }
            }
            _ => {}
        }
        if let Some(id) = duties.cancel {
            (self.out, self.ended) = (None, Some(id));
        }
        // What no longer waits need not be written.
        if self.subject.machine().waiting().is_none() {
            let dropped = self.owed.take_if(|(_, serve)| !*serve);
            self.writing &= dropped.is_none();
        }
        if let Some((id, _, serve)) = duties.write {
            self.last_id = self.last_id.max(Some(id));
            (self.owed, self.writing) = (Some((id, serve)), true);
        }
        if let Some((id, template, _)) = &duties.submit {
            let template = template.clone();
            self.kept = Some(template.clone()).filter(|_| keeps_keys);
            self.out = Some(Out { id: *id, template, since: now });
            self.last_id = Some(*id);
            let _ = self.bucket.take(now);
            self.spent = Some(now);
        }
        self.timer = duties.timer.unwrap_or(self.timer);
    }

    /// Events that are no news make nobody look at the clocks.
    fn has_looked(&self, event: &Event, duties: &Duties) -> bool {
        *event == Event::Tick || *duties != Duties::default()
    }

    /// What has to be equal for two states to be one. All times count from now.
    pub(super) fn key(&self, setting: &Setting) -> u64 {
        let mut state = DefaultHasher::new();
        let now = self.now;
        let held = self.subject.machine().certificate();
        self.subject.hash_at(now, &mut state);
        held.map(|held| self.facts(setting, held)).hash(&mut state);
        let other = self.disk.as_ref().filter(|disk| held.is_none_or(|held| held.fingerprint != disk.fingerprint));
        (self.disk.is_some(), other.map(|other| self.facts(setting, other))).hash(&mut state);
        let waiting = self.subject.machine().waiting();
        waiting.map(|waiting| self.facts(setting, waiting)).hash(&mut state);
        let later = self.later.as_ref().filter(|later| later.validity.not_before() > self.earliest());
        // Which of them are the same one, for that may come to be held.
        let (disk_waits, disk_later) = (self.disk.as_ref() == waiting, self.disk.as_ref() == later);
        (disk_waits, disk_later).hash(&mut state);
        let is_waiting = later.is_some() && later == waiting;
        // It may come to be held.
        (self.disk.is_some() && self.disk.as_ref() == waiting).hash(&mut state);
        (is_waiting, later.filter(|_| !is_waiting).map(|later| self.facts(setting, later))).hash(&mut state);
        self.owed.map(|(_, serve)| serve).hash(&mut state);
        (self.ahead, self.unnoticed, self.writing, &self.kept).hash(&mut state);
        let spacing = setting.policies().map(|policy| policy.spacing.max(Duration::from_millis(1))).max();
        let spacing = spacing.unwrap_or_default();
        self.stale.as_ref().map(|record| self.told(spacing, record)).hash(&mut state);
        let spaced = self.spent.map_or(Duration::ZERO, |at| at.after(spacing).since(now.instant));
        (self.bucket.level(now.instant), spaced).hash(&mut state);
        (self.policy == setting.policy).hash(&mut state);
        // Nobody comes later than that.
        let late = self.subject.machine().deadline().map(|at| now.instant.since(at));
        late.map(|late| late.min(Duration::from_millis(LATE))).hash(&mut state);
        state.finish()
    }

    /// What a certificate still is: whose it is, when it is due and when it expires, and for whom it is. No more than
    /// whose, once it has expired for good, that is, even if the wall clock is set back.
    fn facts(&self, setting: &Setting, certificate: &Certificate) -> (Names, Option<([i64; 4], Names, bool)>) {
        let earliest = self.earliest();
        let ahead = |at: perennial::UnixTime| at.max(earliest).as_millis() - self.now.unix.as_millis();
        let validity = certificate.validity;
        let due = [&setting.policy, &setting.other].map(|policy| perennial::rotation_point(policy, SEED, certificate));
        let named = WISHES.each_ref().map(|wish| wish.is_named_by(certificate));
        let fits = WISHES.each_ref().map(|wish| wish.satisfied_by(certificate));
        let times = [validity.not_before(), due[0], due[1], validity.not_after()].map(ahead);
        (named, (!validity.expired(earliest)).then_some((times, fits, certificate.provisional)))
    }

    /// What the wall clock may be set back to.
    fn earliest(&self) -> perennial::UnixTime {
        self.now.unix.before(if self.ahead { AHEAD } else { Duration::ZERO })
    }

    /// What a record still tells the next run.
    fn told<'a>(&self, spacing: Duration, record: &'a Pending) -> (&'a Template, Key, [i64; 2], Option<(u32, i64)>) {
        let Pending { template, key, submitted, budget_whole, refusal } = record;
        let back = if self.ahead { AHEAD } else { Duration::ZERO };
        // No policy here waits longer than for so many failures.
        let (earliest, enough) = (self.now.unix.before(back), 3);
        let ahead = |at: perennial::UnixTime| at.max(earliest).as_millis() - self.now.unix.as_millis();
        let refusal = refusal.map(|refusal| (refusal.failures.min(enough), ahead(refusal.retry_at)));
        (template, *key, [submitted.after(spacing), *budget_whole].map(ahead), refusal)
    }

    /// Reports that nobody waits for.
    pub(super) fn stale(&self) -> Vec<Event> {
        let mut stale = vec![Event::CertRefused { fingerprint: Fingerprint([0xff; 32]) }];
        if let Some(id) = self.ended {
            stale.push(Event::CsrFailed { id, failure: Failure::Denied, retry_after: None });
            if self.owed.is_none_or(|(owed, _)| owed != id) {
                stale.extend([Event::CertWritten { id }, Event::WriteFailed { id }]);
            }
        }
        stale
    }

    /// The key a request for this has to be made with.
    pub(super) fn key_for(&self, template: &Arc<Template>) -> Key {
        if self.kept.as_ref() == Some(template) { Key::Pending } else { Key::New }
    }
}

fn later(at: Instant, millis: u64) -> Instant {
    at.after(Duration::from_millis(millis))
}

/// The move as a reader would say it, when no event tells.
impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("a millisecond passes"),
            Self::Sleep(millis) => write!(f, "asleep for {millis} ms"),
            Self::WallClock => f.write_str("somebody sets the wall clock"),
            Self::Restart => f.write_str("restart"),
            Self::RestartBlank => f.write_str("restart, the pending record is lost"),
            Self::RestartStale => f.write_str("restart, the last pending record was not saved"),
            Self::RestartAhead => f.write_str("restart, the wall clock is set ahead"),
            event => write!(f, "{event:?}"),
        }
    }
}
