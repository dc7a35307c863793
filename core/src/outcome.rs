//! Decisions of the machine, for observers: no log, metric or report has to compare machines before and after an event.

use alloc::sync::Arc;

use crate::certificate::Certificate;
use crate::event::{Failure, RequestId};
use crate::state::Reason;

/// Which certificate a decision is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The certificate that is served: [`RotationMachine::certificate`](crate::RotationMachine::certificate).
    Served,
    /// Its successor, not valid yet: [`RotationMachine::waiting`](crate::RotationMachine::waiting).
    Waiting,
}

/// One decision. The machine has carried it out already: nothing is left to do but what the
/// [`Action`](crate::Action)s say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The event was late, repeated, or about another request, write or certificate. The machine is unchanged.
    #[default]
    Ignored,
    /// The event was taken in. Further outcomes follow if it led to a decision.
    Noted,
    /// The issued certificate was taken. Ends the request.
    Accepted {
        /// The request.
        id: RequestId,
        /// Its slot: [`Slot::Waiting`] if the certificate is not valid yet.
        slot: Slot,
        /// The certificate that was served until now, valid or expired. Always `None` for [`Slot::Waiting`].
        replaced: Option<Arc<Certificate>>,
        /// The fault of a certificate that was taken because it is no worse than the one before. The attempt counts as failed.
        shortfall: Option<Failure>,
    },
    /// The issued certificate was not taken, because of this fault. Ends the request as failed.
    Rejected {
        /// The request.
        id: RequestId,
        /// The fault.
        failure: Failure,
    },
    /// The issued certificate was as requested, but not taken: the template has changed since. Ends the request, no failure.
    Unwanted {
        /// The request.
        id: RequestId,
    },
    /// The signer or the driver reported a failure. Ends the request.
    Failed {
        /// The request.
        id: RequestId,
        /// The failure.
        failure: Failure,
    },
    /// The request was given up after [`Policy::request_timeout`](crate::Policy::request_timeout). Counts as
    /// [`Failure::TimedOut`].
    TimedOut {
        /// The request.
        id: RequestId,
    },
    /// The request was given up for another one with the template that is wanted now. No failure.
    Superseded {
        /// The request.
        id: RequestId,
    },
    /// The request was given up because no certificate is due any more, or there is no template or no signer. No failure.
    Withdrawn {
        /// The request.
        id: RequestId,
    },
    /// The certificate is durable.
    Written {
        /// The write.
        id: RequestId,
        /// Which certificate.
        slot: Slot,
    },
    /// The certificate could not be made durable. It stays in use; the write is repeated.
    WriteFailed {
        /// The write.
        id: RequestId,
        /// Which certificate.
        slot: Slot,
    },
    /// A certificate that another program put into the store was taken.
    TakenOver {
        /// Its slot.
        slot: Slot,
        /// The certificate that was served until now, valid or expired. Always `None` for [`Slot::Waiting`].
        replaced: Option<Arc<Certificate>>,
    },
    /// The store lost the current certificate, or holds a worse one. The current certificate is written again.
    Reinstated,
    /// The waiting certificate is served from now on.
    TookTurn {
        /// The certificate that was served until now, valid or expired.
        replaced: Option<Arc<Certificate>>,
    },
    /// The waiting certificate was dropped: it has expired or, after a change of the template, is worse than the one served.
    Dropped,
    /// A certificate became due, or is due for another reason now.
    BecameDue(Reason),
    /// No certificate is due any more: a good one was taken, or there is no template or no signer to request one with.
    NoLongerDue,
}

impl Outcome {
    /// The failure, if an attempt to obtain a certificate came to nothing or fell short. Each attempt fails at most once.
    pub const fn failure(&self) -> Option<Failure> {
        match self {
            Self::Accepted { shortfall, .. } => *shortfall,
            Self::Rejected { failure, .. } | Self::Failed { failure, .. } => Some(*failure),
            Self::TimedOut { .. } => Some(Failure::TimedOut),
            _ => None,
        }
    }

    /// The request that this outcome ends, if it ends one. Each request is ended by exactly one outcome.
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

/// The decisions about one event: one outcome of the event itself, then those that followed, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The outcome of the event itself.
    pub(crate) event: Outcome,
    /// The request in flight ended by itself: timed out, superseded or withdrawn.
    pub(crate) ended: Option<Outcome>,
    /// The waiting certificate took its turn, or was dropped.
    pub(crate) turn: Option<Outcome>,
    /// The reason for which a certificate is due has changed.
    pub(crate) due: Option<Outcome>,
}

impl Outcomes {
    /// Every outcome, the one of the event itself first.
    pub fn iter(&self) -> impl Iterator<Item = &Outcome> {
        let Self { event, ended, turn, due } = self;
        core::iter::once(event).chain([ended, turn, due].into_iter().flatten())
    }

    /// True if the event was late, repeated, or about something else: nothing has changed.
    pub const fn is_ignored(&self) -> bool {
        matches!(self.event, Outcome::Ignored)
    }

    /// The failure of the attempt that came to nothing or fell short, if one did. One event ends at most one attempt.
    pub fn failure(&self) -> Option<Failure> {
        self.iter().find_map(Outcome::failure)
    }
}
