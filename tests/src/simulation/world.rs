//! A world in virtual time: one machine with a scripted signer and disk, and clocks that misbehave on demand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Action, Actions, Certificate, Event, Failure, Instant, Now, Pending, Renewal, RequestId};
use perennial::{RotationMachine, Setup, Template};

use super::{Agenda, Clocks, Member};
use crate::mint;
use crate::trace::{Record, Run, Trace, submitted};

/// The signer's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The kind of answer.
    pub outcome: Outcome,
    /// The time from the submission to the answer.
    pub delay: Duration,
    /// True if the answer arrives twice.
    pub repeated: bool,
}

/// The kind of the signer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A certificate.
    Issue(Issue),
    /// A failure, with the server's `Retry-After`, if there is one.
    Fail(Failure, Option<Duration>),
    /// No answer, ever.
    Lose,
}

/// The kind of certificate that is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The time from issue to notAfter.
    pub life: Duration,
    /// The time from notBefore to issue.
    pub backdate: Duration,
    /// The fault of the certificate.
    pub flaw: Flaw,
}

/// The fault of an issued certificate, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No fault.
    None,
    /// A requested name is missing.
    Trimmed,
    /// The common name is another party's.
    Foreign,
    /// Nearly all of the lifetime is over.
    AlreadyDue,
    /// All of the lifetime is over.
    Expired,
    /// The certificate is a bootstrap credential.
    Provisional,
    /// The certificate is not valid yet: its notBefore is a third of its lifetime away.
    Early,
}

impl Answer {
    /// Issues a flawless certificate of this lifetime at once.
    pub const fn healthy(life: Duration) -> Self {
        Self::issue(Issue { life, backdate: Duration::ZERO, flaw: Flaw::None })
    }

    /// Issues a certificate of this kind at once.
    pub const fn issue(issue: Issue) -> Self {
        Self { outcome: Outcome::Issue(issue), delay: Duration::ZERO, repeated: false }
    }

    /// Answers with this failure at once.
    pub const fn fail(failure: Failure) -> Self {
        Self { outcome: Outcome::Fail(failure, None), delay: Duration::ZERO, repeated: false }
    }

    /// Never answers.
    pub const fn lose() -> Self {
        Self { outcome: Outcome::Lose, delay: Duration::ZERO, repeated: false }
    }

    /// Delays the answer by `delay`.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// The outcome of a write of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskHabit {
    /// The write succeeds.
    Works,
    /// The write fails: the disk is full.
    Full,
    /// The write succeeds, but its report is lost.
    Silent,
}

/// One machine with its clocks, signer and disk.
#[derive(Clone, Debug)]
pub struct World {
    /// The machine.
    pub machine: RotationMachine,
    /// The clocks.
    pub clocks: Clocks,
    /// The signer's answer to each request for which `next_answers` has no answer.
    pub habit: Answer,
    /// The signer's answers to the next requests, one for each request. Once the queue is empty, the signer answers as
    /// `habit`.
    pub next_answers: VecDeque<Answer>,
    /// The outcome of each write from now on, and the time that a write takes.
    pub disk: (DiskHabit, Duration),
    /// True if the pending record can be saved.
    pub records: bool,
    /// The current certificate on disk.
    pub stored: Option<Arc<Certificate>>,
    /// The waiting certificate on disk.
    pub stored_waiting: Option<Arc<Certificate>>,
    /// The trace so far.
    pub trace: Trace,

    /// The setup from which a restart makes the machine. The certificates and the pending record come from the disk
    /// instead.
    pub setup: Setup,
    /// The pending record on disk, if there is one.
    saved: Option<Saved>,
    arrivals: Agenda<Arriving>,
    serial: u64,
}

/// A pending record on disk.
#[derive(Clone, Debug)]
struct Saved {
    pending: Pending,
    renewal: Option<Renewal>,
    /// The lead of the wall clock over the monotonic clock when the record was made, in milliseconds.
    ahead: i64,
    /// False if saving a later record failed.
    newest: bool,
}

/// A reply on its way to the machine.
#[derive(Clone, Debug)]
enum Arriving {
    /// A certificate. The signer makes the certificate at the arrival, not at the submission, so that the lifetime
    /// counts from the arrival.
    Issued { id: RequestId, template: Arc<Template>, issue: Issue, repeated: bool },
    /// An event for the machine.
    Reply(Event),
    /// The report of a finished write. At the arrival, the certificate becomes durable: as the current certificate if
    /// the flag is true, else as the waiting one.
    Written(RequestId, Arc<Certificate>, bool),
}

impl World {
    /// A world in which a machine starts from `setup` at [`mint::EPOCH`]. The signer issues certificates of lifetime
    /// `life` at once, until [`habit`](Self::habit) changes.
    pub fn new(setup: Setup, life: Duration) -> Self {
        let now = Now { instant: Instant::from_millis(0), unix: mint::EPOCH };
        Self::at(setup, life, now)
    }

    /// A world in which a machine starts from `setup` at this time. The signer issues certificates of lifetime `life`
    /// at once.
    pub fn at(setup: Setup, life: Duration, now: Now) -> Self {
        let machine = RotationMachine::new(setup.clone(), now);
        Self::around(machine, setup, life, now)
    }

    /// A world around an existing machine, which may be in any state. Signer and disk are healthy. A restart makes a
    /// new machine from `setup`.
    pub fn around(machine: RotationMachine, setup: Setup, life: Duration, now: Now) -> Self {
        let first = machine.clone();
        let first = Run { started: now, pending: None, renewal: None, remembers: false, first, records: vec![] };
        Self {
            clocks: Clocks::at(now),
            habit: Answer::healthy(life),
            next_answers: VecDeque::new(),
            disk: (DiskHabit::Works, Duration::ZERO),
            records: true,
            stored: setup.certificate.clone(),
            stored_waiting: setup.waiting.clone(),
            trace: Trace { policy: setup.policy.clone(), seed: setup.seed, wild: false, runs: vec![first] },
            saved: None,
            arrivals: Agenda::default(),
            serial: 1_000_000 * u64::from(setup.certificate.is_some()),
            machine,
            setup,
        }
    }

    /// Takes the next reply that has arrived by now.
    pub fn arrived(&mut self) -> Option<Event> {
        let (at, _) = self.arrivals.first()?;
        if at > self.now().instant {
            return None;
        }
        let what = self.arrivals.take_first()?;
        Some(self.arrive(what))
    }

    /// Lets the machine handle an event now, and carries out the actions that follow.
    pub fn handle(&mut self, event: Event) {
        match &event {
            Event::TemplateChanged(template) => self.setup.template.clone_from(template),
            Event::SignerChanged(status) => self.setup.signer = *status,
            Event::PolicyChanged(policy) => self.setup.policy.clone_from(policy),
            Event::CertReplaced(found) => self.stored.clone_from(found),
            _ => {}
        }
        let actions = self.machine.handle(event.clone(), self.now());
        self.save_pending(&event, &actions);
        for action in actions.clone() {
            match action {
                Action::SubmitCsr { id, template, .. } => self.answer(id, template),
                Action::WriteCert { id, certificate, serve } => self.write(id, certificate, serve),
                Action::CancelRequest { .. } | Action::SetTimer(_) => {}
            }
        }
        let record = Record { now: self.now(), event, actions, after: self.machine.clone() };
        self.run().records.push(record);
    }

    /// Ends the process in the middle of its work, and at once starts a new process from what the disk holds.
    pub fn restart(&mut self) {
        self.arrivals.clear();
        let saved = self.saved.as_ref();
        let remembers = saved.is_some_and(|saved| saved.newest && ahead(self.now()) <= saved.ahead);
        let (pending, renewal) = (saved.map(|saved| saved.pending.clone()), saved.and_then(|saved| saved.renewal));
        // The waiting certificate on disk still waits, unless its time has come or it is in use.
        let newer = |waiting: &Arc<Certificate>| {
            waiting.validity.not_before() > self.now().unix && Some(waiting) != self.stored.as_ref()
        };
        let waiting = self.stored_waiting.clone().filter(newer);
        let certificate = self.stored.clone();
        let setup = Setup { certificate, waiting, pending: pending.clone(), renewal, ..self.setup.clone() };
        self.machine = RotationMachine::new(setup, self.now());
        let first = self.machine.clone();
        self.trace.runs.push(Run { started: self.now(), pending, renewal, remembers, first, records: vec![] });
    }

    /// Removes the pending record.
    pub fn lose_record(&mut self) {
        self.saved = None;
    }

    /// Makes the certificate that the signer would issue now for this template, of the kind `issue`.
    pub fn mint(&mut self, template: &Template, issue: Issue) -> Certificate {
        self.serial += 1;
        let Issue { life, backdate, flaw } = issue;
        let whole = life.saturating_add(backdate);
        let begins = match flaw {
            Flaw::None | Flaw::Trimmed | Flaw::Foreign | Flaw::Provisional => backdate,
            Flaw::AlreadyDue => backdate + life.mul_f64(0.99),
            Flaw::Expired => whole.saturating_add(Duration::from_secs(1)),
            Flaw::Early => Duration::ZERO,
        };
        let early = if flaw == Flaw::Early { whole / 3 } else { Duration::ZERO };
        let not_before = self.now().unix.before(begins).after(early);
        let certificate = mint::certificate(template, self.serial, not_before, whole);
        match flaw {
            Flaw::None | Flaw::AlreadyDue | Flaw::Expired | Flaw::Early => certificate,
            Flaw::Trimmed => mint::trimmed(certificate),
            Flaw::Foreign => mint::foreign(certificate),
            Flaw::Provisional => mint::provisional(certificate),
        }
    }

    /// The last step of the machine; `None` if it made none since the last start.
    pub fn last(&self) -> Option<&Record> {
        self.trace.runs.last().and_then(|run| run.records.last())
    }

    /// The transcript so far.
    pub fn transcript(&self) -> String {
        self.trace.to_string()
    }

    fn answer(&mut self, id: RequestId, template: Arc<Template>) {
        let Answer { outcome, delay, repeated } = self.next_answers.pop_front().unwrap_or_else(|| self.habit.clone());
        match outcome {
            Outcome::Lose => {}
            Outcome::Issue(issue) => self.send(delay, Arriving::Issued { id, template, issue, repeated }),
            Outcome::Fail(failure, retry_after) => {
                for _ in 0..=u8::from(repeated) {
                    self.send(delay, Arriving::Reply(Event::CsrFailed { id, failure, retry_after }));
                }
            }
        }
    }

    fn write(&mut self, id: RequestId, certificate: Arc<Certificate>, serve: bool) {
        let (disk, delay) = self.disk;
        match disk {
            DiskHabit::Works => self.send(delay, Arriving::Written(id, certificate, serve)),
            DiskHabit::Full => self.send(delay, Arriving::Reply(Event::WriteFailed { id })),
            DiskHabit::Silent => self.store(certificate, serve),
        }
    }

    fn store(&mut self, certificate: Arc<Certificate>, serve: bool) {
        match serve {
            true => self.stored = Some(certificate),
            false => self.stored_waiting = Some(certificate),
        }
    }

    fn send(&mut self, delay: Duration, what: Arriving) {
        self.arrivals.note(self.now().instant.after(delay), what);
    }

    fn arrive(&mut self, what: Arriving) -> Event {
        match what {
            Arriving::Reply(event) => event,
            Arriving::Written(id, certificate, serve) => {
                self.store(certificate, serve);
                Event::CertWritten { id }
            }
            Arriving::Issued { id, template, issue, repeated } => {
                let certificate = Arc::new(self.mint(&template, issue).sharing_names(&template));
                let event = Event::CsrIssued { id, certificate };
                if repeated {
                    self.send(Duration::ZERO, Arriving::Reply(event.clone()));
                }
                event
            }
        }
    }

    /// Saves the pending record as a driver does: before each submission, after a refusal, once a certificate is
    /// durable, and after a change of the policy.
    fn save_pending(&mut self, event: &Event, actions: &Actions) {
        let Some(pending) = self.machine.pending(self.now()) else { return };
        let answered = matches!(event, Event::CsrIssued { .. } | Event::CsrFailed { .. });
        let refused = answered && pending.refusal.is_some();
        if submitted(actions).is_some()
            || refused
            || matches!(event, Event::CertWritten { .. } | Event::PolicyChanged(_))
        {
            if self.records {
                let renewal = self.machine.renewal();
                self.saved = Some(Saved { pending, renewal, ahead: ahead(self.now()), newest: true });
            } else if let Some(saved) = &mut self.saved {
                saved.newest = false;
            }
        }
    }

    fn run(&mut self) -> &mut Run {
        self.trace.runs.last_mut().expect("a world begins with a run")
    }
}

impl Member for World {
    fn now(&self) -> Now {
        self.clocks.now
    }

    /// The arrival of the next reply or the machine's deadline, whichever is earlier.
    fn next_at(&self) -> Option<Instant> {
        let arrival = self.arrivals.first().map(|(at, _)| at);
        arrival.into_iter().chain(self.machine.deadline()).min()
    }

    fn pass(&mut self, span: Duration) {
        self.clocks.pass(span);
    }

    /// Handles one event: the earliest reply on its way, or a Tick if the deadline comes first.
    fn act(&mut self) {
        let (now, deadline) = (self.now().instant, self.machine.deadline());
        let replied = self.arrivals.first().is_some_and(|(at, _)| at <= now && deadline.is_none_or(|due| at <= due));
        if replied {
            let event = self.arrived().expect("a reply has arrived");
            self.handle(event);
        } else if deadline.is_some_and(|due| due <= now) {
            self.handle(Event::Tick);
        }
    }
}

/// The lead of the wall clock over the monotonic clock, in milliseconds.
fn ahead(now: Now) -> i64 {
    now.unix.as_millis().saturating_sub_unsigned(now.instant.as_millis())
}
