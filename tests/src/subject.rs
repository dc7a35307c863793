//! The subject of the laws: the machine as shipped, or one that breaks a rule.

use std::hash::Hasher;
use std::sync::Arc;

use perennial::{Action, Actions, Certificate, Event, Instant, Key, Now, Outcomes, Pending, RequestId};
use perennial::{RotationMachine, Setup, Template};

/// A machine that is checked by the laws: the shipped machine, or a wrapper that breaks a rule.
pub trait Subject: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {
    /// Starts a machine from this setup.
    fn start(setup: Setup, now: Now) -> Self;

    /// Lets the machine handle an event, and returns its actions and outcomes.
    fn handle(&mut self, event: Event, now: Now) -> Duties;

    /// The shipped machine: the subject itself, or the machine that the subject wraps.
    fn machine(&self) -> &RotationMachine;

    /// The pending record that a restart gets.
    fn pending(&self, now: Now) -> Option<Pending> {
        self.machine().pending(now)
    }

    /// Hashes every fact that decides what the subject does from `now` on, except the facts of its certificates, which
    /// the caller hashes.
    fn hash_at<H: Hasher>(&self, now: Now, state: &mut H) {
        self.machine().hash_at(now, state);
    }
}

impl Subject for RotationMachine {
    fn start(setup: Setup, now: Now) -> Self {
        Self::new(setup, now)
    }

    fn handle(&mut self, event: Event, now: Now) -> Duties {
        Self::handle(self, event, now).into()
    }

    fn machine(&self) -> &RotationMachine {
        self
    }
}

/// The actions and outcomes of one event: like [`Actions`], but with public fields, which tests can change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    /// The request to cancel.
    pub cancel: Option<RequestId>,
    /// The certificate to write under this id. True if the certificate is served from now on, false if it waits.
    pub write: Option<(RequestId, Arc<Certificate>, bool)>,
    /// The request to submit.
    pub submit: Option<(RequestId, Arc<Template>, Key)>,
    /// The new time of the timer. `Some(None)` cancels the timer. `None` does not change the timer.
    pub timer: Option<Option<Instant>>,
    /// The outcomes: the machine's decisions.
    pub outcomes: Outcomes,
}

impl Duties {
    /// True if there is no action, whatever the outcomes.
    pub fn is_empty(&self) -> bool {
        let Self { cancel, write, submit, timer, outcomes: _ } = self;
        cancel.is_none() && write.is_none() && submit.is_none() && timer.is_none()
    }
}

impl From<Actions> for Duties {
    fn from(actions: Actions) -> Self {
        let mut duties = Self { outcomes: actions.outcomes().clone(), ..Self::default() };
        for action in actions {
            match action {
                Action::CancelRequest { id } => duties.cancel = Some(id),
                Action::WriteCert { id, certificate, serve } => duties.write = Some((id, certificate, serve)),
                Action::SubmitCsr { id, template, key } => duties.submit = Some((id, template, key)),
                Action::SetTimer(at) => duties.timer = Some(at),
            }
        }
        duties
    }
}

impl std::fmt::Display for Duties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cancel, write, submit, timer, outcomes: _ } = self.clone();
        let actions = [
            cancel.map(|id| Action::CancelRequest { id }),
            write.map(|(id, certificate, serve)| Action::WriteCert { id, certificate, serve }),
            submit.map(|(id, template, key)| Action::SubmitCsr { id, template, key }),
            timer.map(Action::SetTimer),
        ];
        let actions: Vec<_> = actions.into_iter().flatten().map(|action| action.to_string()).collect();
        f.write_str(if actions.is_empty() { "nothing" } else { "" })?;
        f.write_str(&actions.join(", "))
    }
}
