//! Actions: work that the machine returns for its driver, in the imperative.

use core::fmt;

use crate::certificate::Certificate;
use crate::event::RequestId;
use crate::outcome::{Outcome, Outcomes};
use crate::sync::Arc;
use crate::template::Template;
use crate::time::Instant;

/// The key that a request is signed with. The driver holds the keys; the machine only chooses between a new key and the
/// pending one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Generate a key, which becomes the pending key in place of the earlier one.
    New,
    /// Use the pending key again, so that the retry finds the request object of the earlier attempt: the name of a
    /// request object is derived from the key.
    Pending,
}

/// Work for the driver. Exhaustive on purpose: a new kind of action must break a driver's build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop working on this request, but keep the pending key. A driver may be slow to stop: the machine ignores a late
    /// reply.
    CancelRequest {
        /// The id of the request to cancel.
        id: RequestId,
    },
    /// Make this certificate durable, with the key that it was issued for, and report
    /// [`CertWritten`](crate::Event::CertWritten) or [`WriteFailed`](crate::Event::WriteFailed). Must be idempotent:
    /// the machine repeats the action until the certificate is written.
    WriteCert {
        /// Identifies the write; the reply carries the same id.
        id: RequestId,
        /// The certificate to write.
        certificate: Arc<Certificate>,
        /// True: serve the certificate from now on, in place of the certificate that was served before. False: the
        /// certificate is not valid yet. Keep its key: when the certificate takes its turn, another `WriteCert` orders
        /// to serve it.
        serve: bool,
    },
    /// Submit a request to the signer, and report one `CsrIssued` or `CsrFailed` unless
    /// [`CancelRequest`](Action::CancelRequest) comes first.
    SubmitCsr {
        /// Identifies the request; the reply carries the same id.
        id: RequestId,
        /// The identity to request.
        template: Arc<Template>,
        /// The key to sign the request with.
        key: Key,
    },
    /// Send the next [`Tick`](crate::Event::Tick) at this instant; replaces the previous timer. `None`: cancel the
    /// timer.
    SetTimer(Option<Instant>),
}

/// The actions that follow from one event: at most one of each kind, in the order in which the driver carries them out.
/// The [outcomes](Self::outcomes) report decisions and need no work.
#[must_use = "the driver must carry out every action"]
#[derive(Clone, PartialEq, Eq)]
pub struct Actions {
    cancel: Option<RequestId>,
    pub(crate) write: Option<(RequestId, Arc<Certificate>, bool)>,
    pub(crate) submit: Option<(RequestId, Arc<Template>, Key)>,
    /// `None`: the driver's timer stays as it is. `Some(None)`: the driver cancels the timer.
    pub(crate) timer: Option<Option<Instant>>,
    pub(crate) outcomes: Outcomes,
}

impl Actions {
    /// Makes a list without actions. `event` is the outcome of the event that the machine has just absorbed.
    pub(crate) const fn after(event: Outcome) -> Self {
        let outcomes = Outcomes { event, ended: None, turn: None, due: None };
        Self { cancel: None, write: None, submit: None, timer: None, outcomes }
    }

    /// Adds the action that cancels the request in flight, and the outcome that gives the reason.
    pub(crate) fn cancel(&mut self, id: RequestId, why: Outcome) {
        self.cancel = Some(id);
        self.outcomes.ended = Some(why);
    }

    /// The decisions of the machine about this event. Iterating over the actions does not consume the decisions.
    pub const fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// True if no action is left to carry out.
    pub const fn is_empty(&self) -> bool {
        self.cancel.is_none() && self.write.is_none() && self.submit.is_none() && self.timer.is_none()
    }
}

impl Iterator for Actions {
    type Item = Action;

    fn next(&mut self) -> Option<Action> {
        // Cancel before submit, so that a driver never has two requests in flight.
        if let Some(id) = self.cancel.take() {
            Some(Action::CancelRequest { id })
        } else if self.write.is_some() {
            self.write.take().map(|(id, certificate, serve)| Action::WriteCert { id, certificate, serve })
        } else if self.submit.is_some() {
            self.submit.take().map(|(id, template, key)| Action::SubmitCsr { id, template, key })
        } else {
            self.timer.take().map(Action::SetTimer)
        }
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
