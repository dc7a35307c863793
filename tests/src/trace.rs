//! What happened in a world, with a snapshot of the machine after every step.

use std::fmt;
use std::sync::Arc;

use perennial::{Action, Actions, Certificate, Event, Key, Now, Pending, Policy, RequestId, RotationMachine, State};
use perennial::{Template, TraceLine};

/// One life, from the first start through every restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The policy, the same at every start.
    pub policy: Arc<Policy>,
    /// The seed, the same at every start.
    pub seed: u64,
    /// The monotonic clock went wherever it liked. Only the laws that hold even then apply.
    pub wild: bool,
    /// From start to restart, the first one first.
    pub runs: Vec<Run>,
}

/// From one start to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// When it started.
    pub started: Now,
    /// What an earlier run left to it.
    pub pending: Option<Pending>,
    /// The budget survived: a pending record was handed back, and the wall clock gained nothing since it was made.
    pub remembers: bool,
    /// The machine as started.
    pub first: RotationMachine,
    /// Everything it handled.
    pub records: Vec<Record>,
}

/// One event handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub now: Now,
    /// What was handled.
    pub event: Event,
    /// What it led to.
    pub actions: Actions,
    /// The machine afterwards.
    pub after: RotationMachine,
}

impl Trace {
    /// Every step of every run: the machine before, and what was handled.
    pub fn steps(&self) -> impl Iterator<Item = (&RotationMachine, &Record)> {
        self.runs.iter().flat_map(Run::steps)
    }
}

impl Run {
    /// Every step: the machine before, and what was handled.
    pub fn steps(&self) -> impl Iterator<Item = (&RotationMachine, &Record)> {
        let before = std::iter::once(&self.first).chain(self.records.iter().map(|record| &record.after));
        before.zip(&self.records)
    }
}

impl Record {
    /// The request made, if one was.
    pub fn submitted(&self) -> Option<(RequestId, Arc<Template>, Key)> {
        submitted(&self.actions)
    }

    /// The request given up, if one was.
    pub fn cancelled(&self) -> Option<RequestId> {
        self.actions.clone().find_map(|action| match action {
            Action::CancelRequest { id } => Some(id),
            Action::WriteCert { .. } | Action::SubmitCsr { .. } | Action::SetTimer(_) => None,
        })
    }

    /// The certificate to be written, if one is, and whether it is to be served.
    pub fn written(&self) -> Option<(RequestId, Arc<Certificate>, bool)> {
        self.actions.clone().find_map(|action| match action {
            Action::WriteCert { id, certificate, serve } => Some((id, certificate, serve)),
            Action::CancelRequest { .. } | Action::SubmitCsr { .. } | Action::SetTimer(_) => None,
        })
    }

    /// The request this is a reply to, if it is one.
    pub fn replies_to(&self) -> Option<RequestId> {
        if let Event::CsrIssued { id, .. } | Event::CsrFailed { id, .. } = self.event { Some(id) } else { None }
    }

    /// The write this is a reply to, if it is one.
    pub fn reports_on(&self) -> Option<RequestId> {
        if let Event::CertWritten { id } | Event::WriteFailed { id } = self.event { Some(id) } else { None }
    }
}

/// The request among these actions.
pub fn submitted(actions: &Actions) -> Option<(RequestId, Arc<Template>, Key)> {
    actions.clone().find_map(|action| match action {
        Action::SubmitCsr { id, template, key } => Some((id, template, key)),
        Action::CancelRequest { .. } | Action::WriteCert { .. } | Action::SetTimer(_) => None,
    })
}

/// Whether these actions ask the driver to do anything but look again later.
pub fn has_duty(actions: &Actions) -> bool {
    actions.clone().any(|action| !matches!(action, Action::SetTimer(_)))
}

/// The request that is out.
pub fn live(machine: &RotationMachine) -> Option<RequestId> {
    if let State::Requesting { id, .. } = machine.state() { Some(id) } else { None }
}

/// Whether there is something to ask for and somebody to ask.
pub fn can_ask(machine: &RotationMachine) -> bool {
    machine.template().is_some() && machine.signer().is_ready()
}

/// A transcript: one line a step.
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
