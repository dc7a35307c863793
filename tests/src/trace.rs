//! Traces. A trace contains every event that a machine handled, the actions that followed, and a copy of the machine
//! after every step. It continues through restarts.

use std::fmt;
use std::sync::Arc;

use perennial::{Action, Actions, Certificate, Event, Key, Now, Pending, Policy, RequestId, RotationMachine, State};
use perennial::{Renewal, Template, TraceLine};

/// The steps of one machine, from its first start through every restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The policy at the first start.
    pub policy: Arc<Policy>,
    /// The seed, the same at every start.
    pub seed: u64,
    /// True if the monotonic clock jumped. Then only the laws apply that hold whatever the clocks do.
    pub wild: bool,
    /// The runs of the process, each from one start to the next, in order.
    pub runs: Vec<Run>,
}

/// The steps of a machine from one start of its process to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The time of the start.
    pub started: Now,
    /// The pending record with which the machine started, from an earlier run; `None` if there was no record.
    pub pending: Option<Pending>,
    /// The rotation point that a hint has set in an earlier run, with which the machine started.
    pub renewal: Option<Renewal>,
    /// True if the submission budget of the run before still counts in this run. That needs two things: the newest
    /// pending record was there at the start, and the wall clock was not set ahead after the record was made.
    pub remembers: bool,
    /// The machine at the start of the run, before its first event.
    pub first: RotationMachine,
    /// Every event that the machine handled.
    pub records: Vec<Record>,
}

/// One step: an event that the machine handled, with the actions that followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the machine handled the event.
    pub now: Now,
    /// The event.
    pub event: Event,
    /// The actions that followed.
    pub actions: Actions,
    /// The machine after the event.
    pub after: RotationMachine,
}

impl Trace {
    /// Every step of every run: the machine before the event, and the record.
    pub fn steps(&self) -> impl Iterator<Item = (&RotationMachine, &Record)> {
        self.runs.iter().flat_map(Run::steps)
    }
}

impl Run {
    /// Every step of this run: the machine before the event, and the record.
    pub fn steps(&self) -> impl Iterator<Item = (&RotationMachine, &Record)> {
        let before = std::iter::once(&self.first).chain(self.records.iter().map(|record| &record.after));
        before.zip(&self.records)
    }
}

impl Record {
    /// The request that was submitted, if there was one.
    pub fn submitted(&self) -> Option<(RequestId, Arc<Template>, Key)> {
        submitted(&self.actions)
    }

    /// The request that was cancelled, if there was one.
    pub fn cancelled(&self) -> Option<RequestId> {
        self.actions.clone().find_map(|action| match action {
            Action::CancelRequest { id } => Some(id),
            Action::WriteCert { .. } | Action::SubmitCsr { .. } | Action::SetTimer(_) => None,
        })
    }

    /// The write that was ordered, if there was one. True if its certificate is served from now on, false if the
    /// certificate waits.
    pub fn written(&self) -> Option<(RequestId, Arc<Certificate>, bool)> {
        self.actions.clone().find_map(|action| match action {
            Action::WriteCert { id, certificate, serve } => Some((id, certificate, serve)),
            Action::CancelRequest { .. } | Action::SubmitCsr { .. } | Action::SetTimer(_) => None,
        })
    }

    /// The request to which the event is a reply; `None` for other events.
    pub fn replies_to(&self) -> Option<RequestId> {
        if let Event::CsrIssued { id, .. } | Event::CsrFailed { id, .. } = self.event { Some(id) } else { None }
    }

    /// The write that the event reports as done or failed; `None` for other events.
    pub fn reports_on(&self) -> Option<RequestId> {
        if let Event::CertWritten { id } | Event::WriteFailed { id } = self.event { Some(id) } else { None }
    }
}

/// The request to submit among these actions, if there is one.
pub fn submitted(actions: &Actions) -> Option<(RequestId, Arc<Template>, Key)> {
    actions.clone().find_map(|action| match action {
        Action::SubmitCsr { id, template, key } => Some((id, template, key)),
        Action::CancelRequest { .. } | Action::WriteCert { .. } | Action::SetTimer(_) => None,
    })
}

/// Whether there is any action besides `SetTimer`.
pub fn has_duty(actions: &Actions) -> bool {
    actions.clone().any(|action| !matches!(action, Action::SetTimer(_)))
}

/// The request in flight, if there is one.
pub fn in_flight(machine: &RotationMachine) -> Option<RequestId> {
    if let State::Requesting { id, .. } = machine.state() { Some(id) } else { None }
}

/// The certificate whose rotation point counts: the waiting one, else the served one.
pub fn newest(machine: &RotationMachine) -> Option<&Arc<Certificate>> {
    machine.waiting().or_else(|| machine.certificate())
}

/// Whether requests can be submitted: there is a template, and the signer is ready.
pub fn can_submit(machine: &RotationMachine) -> bool {
    machine.template().is_some() && machine.signer().is_ready()
}

/// Shows a transcript: one line per step.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, run) in self.runs.iter().enumerate() {
            if i > 0 {
                let record = if run.pending.is_some() { "with" } else { "without" };
                writeln!(f, "{} | restart {record} a pending record | {}", run.started, run.first)?;
            }
            for Record { now, event, actions, after } in &run.records {
                writeln!(f, "{}", TraceLine { event, now: *now, actions, machine: after })?;
            }
        }
        Ok(())
    }
}
