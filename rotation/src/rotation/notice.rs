//! [`Notice`] and [`News`] of a rotation, for logs, metrics, reports and journals: one stream, in chronological order.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Failure, HintFault, Now, Outcome, Reason, RotationMachine, Slot, State};

use super::{ClockOffset, Snapshot, Transition};
use crate::progress::Progress;

/// One piece of news of a rotation, with its time and the state after it.
#[derive(Clone, Debug)]
pub struct Notice {
    /// When the news happened.
    pub at: Now,
    /// The news.
    pub news: News,
    /// The state of the rotation after the news.
    pub snapshot: Arc<Snapshot>,
}

impl Notice {
    /// True if the certificate served at that time had not expired, by the local clock.
    pub fn has_valid_certificate(&self) -> bool {
        let held = self.snapshot.credential.as_ref().map(|held| held.chain().certificate());
        held.is_some_and(|held| !held.validity.expired(self.at.unix))
    }
}

/// A fact about a rotation that observers may want to log, count or act on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum News {
    /// The machine handled an event. The news of the decisions that the machine made in this step follows.
    Stepped(Arc<Transition>),
    /// The rotation began a request.
    Requesting {
        /// Why a new certificate is due.
        reason: Reason,
        /// True if the request authenticates with the bootstrap identity.
        bootstrap: bool,
        /// True if the previous request had the same reason, and failed or was superseded. Always false for the first
        /// request that authenticates with the bootstrap identity after requests that did not.
        is_retry: bool,
    },
    /// The request made progress.
    Progressed(Progress),
    /// An issued certificate was accepted. It is not durable yet: [`News::Written`] follows.
    Issued {
        /// [`Slot::Served`]: the certificate is served at once. [`Slot::Waiting`]: the certificate is not valid yet,
        /// and [`News::TookTurn`] follows at its notBefore.
        slot: Slot,
        /// The certificate served until now, valid or expired; `None` for [`Slot::Waiting`].
        replaced: Option<Arc<Certificate>>,
    },
    /// The waiting certificate is served from now on.
    TookTurn {
        /// The certificate served until now, valid or expired.
        replaced: Option<Arc<Certificate>>,
    },
    /// A certificate that another program put into the store was accepted.
    TakenOver {
        /// [`Slot::Served`]: the certificate is served at once. [`Slot::Waiting`]: the certificate is served from its
        /// notBefore on.
        slot: Slot,
        /// The certificate served until now, valid or expired; `None` for [`Slot::Waiting`].
        replaced: Option<Arc<Certificate>>,
    },
    /// A request failed, or its certificate lacks requested names or is due already. Emitted once for each such
    /// request.
    Failed {
        /// Kind of the failure.
        failure: Failure,
        /// The error, for people. In a replay: the description of the failure, since journals hold no errors.
        error: Arc<str>,
    },
    /// The signer's hint when to rotate the certificate has a fault. The policy's window decides when the certificate is
    /// due.
    HintDisregarded {
        /// The fault of the hint.
        fault: HintFault,
    },
    /// The certificate is durable.
    Written {
        /// The certificate that is durable: the served or the waiting one.
        slot: Slot,
    },
    /// A new certificate is served and durable, so that programs may use it. Follows [`News::Stepped`] directly, before
    /// the other news of the step.
    InPlace {
        /// The certificate in place until now, valid or expired.
        replaced: Option<Arc<Certificate>>,
    },
    /// The certificate could not be written, and is served from memory. Emitted again only when the error changes.
    Unwritten {
        /// The error, for people.
        error: Arc<str>,
    },
    /// The pending record could not be saved, so that a restart may submit another request. Emitted again only when the
    /// error changes.
    Unsaved {
        /// The error, for people.
        error: Arc<str>,
    },
    /// The store holds a foreign certificate (of another common name), which is ignored.
    Foreign {
        /// The error, for people.
        error: Arc<str>,
    },
    /// The machine's state has changed, for example to scheduled, requesting or backing off.
    Entered(State),
    /// The certificate has expired without a successor. Emitted at expiry, then after one, two, four … minutes, then
    /// each hour.
    Expired,
    /// The local clock was found to differ from the signer's by more than a minute.
    ClockDiffers(ClockOffset),
    /// The local clock agrees with the signer's again.
    ClockAgrees(ClockOffset),
    /// The issued lifetime is too short for the policy. Not emitted again before a certificate of sufficient lifetime
    /// was issued.
    ShortLived {
        /// The error, for people.
        error: Arc<str>,
    },
    /// The first certificate issued has another lifetime than was requested.
    LifetimeDiffers {
        /// The lifetime issued.
        issued: Duration,
        /// The lifetime requested.
        requested: Duration,
    },
    /// The code of the rotation panicked; the rotation continues from its last published state. Please report this as a
    /// bug.
    Panicked {
        /// The error, for people.
        error: Arc<str>,
        /// Pause before the next request, unless a message leads to an earlier request. The first pause is 1 s. A
        /// further panic within 300 s of the end of a pause doubles the pause, up to 300 s.
        pause: Duration,
    },
    /// The observer was too slow: `count` notices in a row were dropped here. The snapshot of this notice is the one
    /// after the last dropped notice.
    Missed {
        /// The number of notices dropped.
        count: u64,
        /// The number of [`News::Stepped`] among the dropped notices: a journal lacks these steps.
        steps: u64,
        /// The machine after the last notice dropped.
        machine: Arc<RotationMachine>,
    },
    /// The rotation has ended. No further notice follows.
    Ended,
}

impl Transition {
    /// The machine's decisions in this step, as news. A step replayed from a journal yields the news of the original
    /// step, except for the texts of errors.
    pub fn news(&self) -> Vec<News> {
        let outcomes = self.actions.outcomes();
        let failed = |failure: Failure| News::Failed { failure, error: failure.describe().into() };
        let of = |outcome: &Outcome| [news(outcome), outcome.failure().map(failed)];
        let state = self.after.state();
        let entered = (state != self.before.state()).then_some(News::Entered(state));
        outcomes.iter().flat_map(of).flatten().chain(entered).collect()
    }
}

/// The news of an outcome; `None` for an outcome that reports a failure and nothing else.
fn news(outcome: &Outcome) -> Option<News> {
    Some(match outcome {
        Outcome::Accepted { slot, replaced, .. } => News::Issued { slot: *slot, replaced: replaced.clone() },
        Outcome::TookTurn { replaced } => News::TookTurn { replaced: replaced.clone() },
        Outcome::TakenOver { slot, replaced } => News::TakenOver { slot: *slot, replaced: replaced.clone() },
        Outcome::Written { slot, .. } => News::Written { slot: *slot },
        Outcome::HintDisregarded { fault } => News::HintDisregarded { fault: *fault },
        _ => return None,
    })
}
