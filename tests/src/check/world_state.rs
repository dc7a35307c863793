//! A state of the model checker: a machine, and the part of the world that decides which moves are possible.

mod key;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Certificate, Event, Failure, Fingerprint, Instant, Now, Pending, Renewal, RenewalHint, RequestId, Setup,
    SignerStatus, Template,
};

use super::setting::{AHEAD, Flavour, LATE, Move, Setting, TEMPLATES};
use crate::laws::{DriverState, InFlight, Law, Moment, Step, Verdict, spacing};
use crate::mint;
use crate::subject::{Duties, Subject};

pub(super) const SEED: u64 = 1;

/// A state in the search of the model checker: a machine, and the part of its world that decides which moves are
/// possible.
#[derive(Clone, Debug)]
pub(super) struct WorldState<S> {
    /// The machine, as shipped or broken.
    pub(super) subject: S,
    /// The time by the monotonic and by the wall clock.
    pub(super) now: Now,
    /// True while the wall clock is ahead of the true time.
    ahead: bool,
    /// True if the wall clock was set since the machine last read it.
    unnoticed: bool,
    /// The durable certificate that a restart serves.
    disk: Option<Arc<Certificate>>,
    /// The durable certificate that waits for its notBefore. A restart gets it as its waiting certificate.
    later: Option<Arc<Certificate>>,
    /// The driver's state: requests, writes and budget.
    driver: DriverState,
    /// The last request that ended. `late_reports` sends replies to it, which must change nothing.
    ended: Option<RequestId>,
    /// True while the driver carries out the owed write.
    writing: bool,
    /// The pending record from before the last request, in worlds where a restart may find it ([`Move::RestartStale`]).
    stale_record: Option<Pending>,
    serial: u64,
}

impl<S: Subject> WorldState<S> {
    /// The initial states: without a certificate, with a good one, and with a bootstrap credential.
    pub(super) fn initial_states(setting: &Setting) -> Vec<Self> {
        let now = Now { instant: Instant::from_millis(1_000), unix: mint::EPOCH };
        let template = TEMPLATES[0].clone();
        let first = |flavour| setting.mint(&template, flavour, 1, now);
        let certificates = [None, Some(first(Flavour::Good)), Some(first(Flavour::Provisional))];
        let begin = |certificate: Option<Arc<Certificate>>| {
            let subject = S::start(
                Setup {
                    policy: setting.policy.clone(),
                    seed: SEED,
                    signer: SignerStatus::Ready,
                    template: Some(template.clone()),
                    certificate: certificate.clone(),
                    waiting: None,
                    rotate_now: false,
                    pending: None,
                    renewal: None,
                },
                now,
            );
            let driver = DriverState::start(setting.policy.clone(), subject.machine(), None, now.instant);
            Self {
                subject,
                now,
                ahead: false,
                unnoticed: false,
                disk: certificate,
                later: None,
                driver,
                ended: None,
                writing: false,
                stale_record: None,
                serial: 1,
            }
        };
        certificates.map(begin).into()
    }

    /// Whether this move is possible now.
    pub(super) fn allows(&self, what: Move) -> bool {
        let machine = self.subject.machine();
        let deadline = machine.deadline();
        match what {
            Move::Pass => deadline.is_none_or(|at| self.now.instant < later(at, LATE)),
            Move::Alarm => deadline.is_some_and(|at| at > self.now.instant),
            Move::Sleep(_) => deadline.is_some_and(|at| self.now.instant <= at),
            Move::Issue(_) | Move::Fail(..) => self.driver.in_flight.is_some(),
            Move::Written | Move::WriteFailed => self.writing,
            Move::Refused | Move::FoundOurs | Move::Hint(_) => machine.certificate().is_some(),
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

    /// The state after this move.
    ///
    /// # Errors
    /// How the step breaks a law.
    pub(super) fn after(&self, setting: &Setting, what: Move) -> Result<Self, String> {
        let mut state = self.clone();
        if let Some(event) = state.apply(setting, what) {
            let duties = state.handle(setting, &event);
            state.note(&event, &duties);
            state.check_step(self, &event, &duties)?;
        }
        Ok(state)
    }

    /// Checks the step from the state `before` to this state by the laws of steps.
    fn check_step(&self, before: &Self, event: &Event, duties: &Duties) -> Verdict {
        let (driver, driver_after) = (&before.driver, &self.driver);
        let (before, after) = (before.subject.machine(), self.subject.machine());
        let step = Step { seed: SEED, now: self.now, before, event, duties, after, driver, driver_after };
        laws::<S>().try_for_each(|law| if let Law::Step(law) = law { law(&step) } else { Ok(()) })
    }

    /// Checks this state by the laws of states, and checks that replies that come too late change nothing.
    ///
    /// # Errors
    /// How the state, or the step of a late reply, breaks a law.
    pub(super) fn check_state(&self) -> Verdict {
        for event in self.late_reports() {
            let mut state = self.clone();
            let duties = state.subject.handle(event.clone(), self.now);
            state.note(&event, &duties);
            state.check_step(self, &event, &duties)?;
        }
        let fresh = !self.unnoticed;
        let moment = Moment { policy: &self.driver.policy, seed: SEED, subject: &self.subject, now: self.now, fresh };
        laws().try_for_each(|law| match law {
            Law::State(law) => law(&moment),
            Law::Fresh(law) if fresh => law(&moment),
            Law::Fresh(_) | Law::Step(_) | Law::Trace(_) => Ok(()),
        })
    }

    /// Makes this move without checking a law. Returns the next state. For a move with an event, also returns the event
    /// and the machine's actions.
    pub(super) fn retrace(&self, setting: &Setting, what: Move) -> (Self, Option<(Event, Duties)>) {
        let mut state = self.clone();
        let Some(event) = state.apply(setting, what) else { return (state, None) };
        let duties = state.handle(setting, &event);
        state.note(&event, &duties);
        (state, Some((event, duties)))
    }

    fn handle(&mut self, setting: &Setting, event: &Event) -> Duties {
        let record = self.subject.pending(self.now);
        let duties = self.subject.handle(event.clone(), self.now);
        if duties.submit.is_some() && setting.moves.contains(&Move::RestartStale) {
            self.stale_record = record;
        }
        duties
    }

    /// Changes the world by this move. Returns the event for the machine to handle; `None` for a move without an event.
    fn apply(&mut self, setting: &Setting, what: Move) -> Option<Event> {
        let machine = self.subject.machine();
        let held = machine.certificate().cloned();
        match what {
            Move::Pass => self.pass(1),
            Move::Sleep(millis) => self.pass(millis),
            Move::WallClock => self.set_wall_clock(!self.ahead),
            Move::Restart => {
                let kept = self.driver.reusable_key_for.clone();
                self.restart(self.subject.pending(self.now), machine.renewal(), true);
                self.driver.reusable_key_for = kept;
            }
            Move::RestartAhead => {
                let (pending, renewal) = (self.subject.pending(self.now), machine.renewal());
                self.set_wall_clock(true);
                let kept = self.driver.reusable_key_for.clone();
                // By the clock that was set ahead, the budget has been refilled.
                self.restart(pending, renewal, false);
                self.driver.reusable_key_for = kept;
            }
            Move::RestartBlank => self.restart_with_lost_submissions(None),
            Move::RestartStale => self.restart_with_lost_submissions(self.stale_record.clone()),
            Move::Alarm => {
                let sleep = machine.deadline()?.since(self.now.instant);
                self.pass(u64::try_from(sleep.as_millis()).unwrap_or(u64::MAX));
                return Some(Event::Tick);
            }
            Move::Tick => return Some(Event::Tick),
            Move::Template(choice) => {
                return Some(Event::TemplateChanged(choice.map(|choice| TEMPLATES[choice as usize].clone())));
            }
            Move::Policy => {
                let is_first = self.driver.policy == setting.policy;
                let policy = if is_first { &setting.other } else { &setting.policy };
                return Some(Event::PolicyChanged(policy.clone()));
            }
            Move::Signer(status) => return Some(Event::SignerChanged(status)),
            Move::RotateNow => return Some(Event::RotateNow),
            Move::ServerDated(ahead) => {
                let truth = self.now.unix.before(if self.ahead { AHEAD } else { Duration::ZERO });
                return Some(Event::ServerDated { unix: truth.after(Duration::from_millis(ahead)) });
            }
            Move::Hint(at) => {
                let about = machine.waiting().or_else(|| machine.certificate())?;
                let (begin, end) = (about.validity.not_before(), about.validity.not_after());
                let at =
                    at.map_or_else(|| end.after(Duration::from_millis(1)), |at| begin.after(Duration::from_millis(at)));
                let hint = RenewalHint::after(at);
                return Some(Event::RenewalHinted { fingerprint: about.fingerprint, hint });
            }
            Move::Refused => return Some(Event::CertRefused { fingerprint: held?.fingerprint }),
            Move::Issue(flavour) => {
                let InFlight { id, template, .. } = self.driver.in_flight.clone()?;
                let issued = Arc::unwrap_or_clone(self.mint(setting, &template, flavour)).sharing_names(&template);
                return Some(Event::CsrIssued { id, certificate: Arc::new(issued) });
            }
            Move::Fail(failure, patience) => {
                let retry_after = patience.map(Duration::from_millis);
                return Some(Event::CsrFailed { id: self.driver.in_flight.as_ref()?.id, failure, retry_after });
            }
            Move::Written => {
                let (id, serve) = self.driver.owed?;
                if serve {
                    self.later.take_if(|later| held.as_ref() == Some(later));
                    self.disk = held;
                } else {
                    self.later = machine.waiting().cloned();
                }
                return Some(Event::CertWritten { id });
            }
            Move::WriteFailed => return Some(Event::WriteFailed { id: self.driver.owed?.0 }),
            Move::Found(flavour) => {
                let template = machine.template().cloned().unwrap_or_else(|| TEMPLATES[0].clone());
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

    fn restart(&mut self, pending: Option<Pending>, renewal: Option<Renewal>, remembers: bool) {
        let machine = self.subject.machine();
        let setup = Setup {
            policy: self.driver.policy.clone(),
            seed: SEED,
            signer: machine.signer(),
            template: machine.template().cloned(),
            certificate: self.disk.clone(),
            waiting: self.later.clone().filter(|later| later.validity.not_before() > self.now.unix),
            rotate_now: false,
            pending: pending.clone(),
            renewal,
        };
        self.subject = S::start(setup, self.now);
        self.driver = self.driver.restart(self.subject.machine(), pending.as_ref(), remembers, self.now.instant);
        (self.ended, self.writing) = (None, false);
    }

    /// Restarts with this pending record, or without one. The record is from before the last submissions, so that the
    /// new run does not know of them.
    fn restart_with_lost_submissions(&mut self, pending: Option<Pending>) {
        self.stale_record.clone_from(&pending);
        self.restart(pending, None, false);
    }

    /// Updates the world and the driver's state after the machine has handled an event.
    fn note(&mut self, event: &Event, duties: &Duties) {
        self.unnoticed &= !self.reads_clocks(event, duties);
        if duties.cancel.is_some() || self.driver.is_answer(event) {
            self.ended = self.driver.in_flight.as_ref().map(|request| request.id);
        }
        self.driver.update(event, duties, self.subject.machine(), self.now.instant);
        // A store does one write at a time: a new write replaces the one under way.
        let reported = matches!(event, Event::CertWritten { .. } | Event::WriteFailed { .. } | Event::CertReplaced(_));
        self.writing = duties.write.is_some() || (self.writing && !reported && self.driver.owed.is_some());
    }

    /// Whether the machine has read the clocks in this step. The machine reads the clocks for every event that it does
    /// not ignore.
    fn reads_clocks(&self, event: &Event, duties: &Duties) -> bool {
        *event == Event::Tick || *duties != Duties::default()
    }

    /// The true time, which is the earliest to which the wall clock may be set.
    fn earliest(&self) -> perennial::UnixTime {
        self.now.unix.before(if self.ahead { AHEAD } else { Duration::ZERO })
    }

    /// Events that must change nothing: late replies to a request that has ended, and the refusal of a certificate that
    /// the machine does not serve.
    pub(super) fn late_reports(&self) -> Vec<Event> {
        let mut stale = vec![
            Event::CertRefused { fingerprint: Fingerprint([0xff; 32]) },
            Event::RenewalHinted { fingerprint: Fingerprint([0xff; 32]), hint: RenewalHint::after(self.now.unix) },
        ];
        if let Some(id) = self.ended {
            stale.push(Event::CsrFailed { id, failure: Failure::Denied, retry_after: None });
            if self.driver.owed.is_none_or(|(owed, _)| owed != id) {
                stale.extend([Event::CertWritten { id }, Event::WriteFailed { id }]);
            }
        }
        stale
    }
}

/// Every law, including those that hold only for a monotonic clock.
fn laws<S: Subject>() -> impl Iterator<Item = &'static Law<S>> {
    Law::ALWAYS.iter().chain(Law::MONOTONIC).map(|(_, law)| law)
}

fn later(at: Instant, millis: u64) -> Instant {
    at.after(Duration::from_millis(millis))
}

/// Shows a move without an event in words, such as `restart`, and any other move as `Debug` does.
impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("a millisecond passes"),
            Self::Sleep(millis) => write!(f, "asleep for {millis} ms"),
            Self::WallClock => f.write_str("the wall clock is set"),
            Self::Restart => f.write_str("restart"),
            Self::RestartBlank => f.write_str("restart, the pending record is lost"),
            Self::RestartStale => f.write_str("restart, the last pending record was not saved"),
            Self::RestartAhead => f.write_str("restart, the wall clock is set ahead"),
            event => write!(f, "{event:?}"),
        }
    }
}
