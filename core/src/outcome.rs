//! Decisions of the machine, for observers. Logs, metrics and reports need not compare the machine before and after an
//! event.

use crate::certificate::Certificate;
use crate::event::{Failure, RequestId};
use crate::renewal::HintFault;
use crate::state::Reason;
use crate::sync::Arc;
use crate::time::UnixTime;

/// The place of a certificate in the machine: served, or waiting for its notBefore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The certificate that is served: [`RotationMachine::certificate`](crate::RotationMachine::certificate).
    Served,
    /// The successor of the served certificate, not valid yet:
    /// [`RotationMachine::waiting`](crate::RotationMachine::waiting).
    Waiting,
}

/// A decision that the machine has taken, for logs and metrics. It needs no work of the driver: all work is in the
/// [`Action`](crate::Action)s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The event was late, repeated, or about another request, write or certificate. The machine is unchanged.
    #[default]
    Ignored,
    /// The machine has taken note of the event. Further outcomes follow if the event led to a decision.
    Noted,
    /// The issued certificate was taken. Ends the request.
    Accepted {
        /// The id of the request.
        id: RequestId,
        /// The slot of the certificate: [`Slot::Waiting`] if it is not valid yet.
        slot: Slot,
        /// The certificate that was served until now, valid or expired. Always `None` for [`Slot::Waiting`].
        replaced: Option<Arc<Certificate>>,
        /// The fault of a certificate that was taken nevertheless, since it is no worse than the certificate served
        /// until now. `None`: no fault. With a fault, the request counts as failed.
        shortfall: Option<Failure>,
    },
    /// The issued certificate was not taken because of a fault. Ends the request as failed.
    Rejected {
        /// The id of the request.
        id: RequestId,
        /// The fault of the certificate.
        failure: Failure,
    },
    /// The issued certificate was as requested, but the machine did not take it: the template has changed since. Ends
    /// the request without a failure.
    Unwanted {
        /// The id of the request.
        id: RequestId,
    },
    /// The signer or the driver reported a failure. Ends the request.
    Failed {
        /// The id of the request.
        id: RequestId,
        /// The reported failure.
        failure: Failure,
    },
    /// The request was cancelled after [`Policy::request_timeout`](crate::Policy::request_timeout). Counts as
    /// [`Failure::TimedOut`].
    TimedOut {
        /// The id of the request.
        id: RequestId,
    },
    /// The request was cancelled in favour of one for the new template. Counts as no failure.
    Superseded {
        /// The id of the request.
        id: RequestId,
    },
    /// The request was cancelled because no certificate is due any more, or template or signer is gone. Counts as no
    /// failure.
    Withdrawn {
        /// The id of the request.
        id: RequestId,
    },
    /// The rotation point follows from the signer's hint.
    Hinted {
        /// The rotation point.
        rotate_at: UnixTime,
    },
    /// The signer's hint when to rotate the certificate has a fault. The policy's window decides.
    HintDisregarded {
        /// The fault of the hint.
        fault: HintFault,
    },
    /// The certificate is durable.
    Written {
        /// The id of the write. Writes and requests share one sequence of ids.
        id: RequestId,
        /// The slot of the certificate.
        slot: Slot,
    },
    /// The certificate could not be made durable. It stays in use; the write is repeated.
    WriteFailed {
        /// The id of the write. Writes and requests share one sequence of ids.
        id: RequestId,
        /// The slot of the certificate.
        slot: Slot,
    },
    /// The machine took a certificate that another program put into the store.
    TakenOver {
        /// The slot of the certificate.
        slot: Slot,
        /// The certificate that was served until now, valid or expired. Always `None` for [`Slot::Waiting`].
        replaced: Option<Arc<Certificate>>,
    },
    /// The store lost the served certificate, or holds a worse one. The served certificate is written again.
    Reinstated,
    /// The waiting certificate is served from now on.
    TookTurn {
        /// The certificate that was served until now, valid or expired.
        replaced: Option<Arc<Certificate>>,
    },
    /// The waiting certificate was dropped: it has expired, or is worse than the served one, as after a change of the
    /// template.
    Dropped,
    /// A certificate became due, or is due for another reason than before.
    BecameDue(Reason),
    /// No certificate is due any more: a good one was taken, or there is no template or no signer to request one with.
    NoLongerDue,
}

impl Outcome {
    /// Why the request that this outcome ends has failed: no certificate was issued, or the issued certificate has a
    /// fault. `None` if the outcome ends no request, or one that did not fail. At most one outcome of a request has a
    /// failure.
    pub const fn failure(&self) -> Option<Failure> {
        match self {
            Self::Accepted { shortfall, .. } => *shortfall,
            Self::Rejected { failure, .. } | Self::Failed { failure, .. } => Some(*failure),
            Self::TimedOut { .. } => Some(Failure::TimedOut),
            _ => None,
        }
    }

    /// The request that this outcome ends; `None` if it ends no request. Exactly one outcome ends each request.
    pub const fn ended(&self) -> Option<RequestId> {
        match self {
            Self::Accepted { id, .. }
            | Self::Rejected { id, .. }
            | Self::Unwanted { id }
            | Self::Failed { id, .. }
            | Self::TimedOut { id }
            | Self::Superseded { id }
            | Self::Withdrawn { id } => Some(*id),
            _ => None,
        }
    }
}

/// The decisions that one event led to: the outcome of the event itself, then those that followed, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The outcome of the event itself.
    pub(crate) event: Outcome,
    /// Set if the request in flight was cancelled: timed out, superseded or withdrawn.
    pub(crate) ended: Option<Outcome>,
    /// Set if the waiting certificate took its turn, or was dropped.
    pub(crate) turn: Option<Outcome>,
    /// Set if the reason why a certificate is due has changed.
    pub(crate) due: Option<Outcome>,
}

impl Outcomes {
    /// Every outcome, the one of the event itself first.
    pub fn iter(&self) -> impl Iterator<Item = &Outcome> {
        let Self { event, ended, turn, due } = self;
        core::iter::once(event).chain([ended, turn, due].into_iter().flatten())
    }

    /// True if the event was late, repeated, or about another request, write or certificate: nothing has changed.
    pub const fn is_ignored(&self) -> bool {
        matches!(self.event, Outcome::Ignored)
    }

    /// Why the request that this event ended has failed: no certificate was issued, or the issued certificate has a
    /// fault. `None` if no request failed. One event ends at most one request.
    pub fn failure(&self) -> Option<Failure> {
        self.iter().find_map(Outcome::failure)
    }
}
