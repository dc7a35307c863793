//! News of a rotation, for logs, metrics, reports and journals: one stream, in the order in which things happened.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Failure, Now, Outcome, Reason, RotationMachine, Slot, State};

use super::{ClockOffset, Snapshot, Transition};
use crate::progress::Progress;

/// One piece of news.
#[derive(Clone, Debug)]
pub struct Notice {
    /// When it happened.
    pub at: Now,
    /// What happened.
    pub news: News,
    /// The rotation afterwards.
    pub snapshot: Arc<Snapshot>,
}

impl Notice {
    /// True if the certificate served was valid then, by the local clock.
    pub fn has_valid_certificate(&self) -> bool {
        let held = self.snapshot.credential.as_ref().map(|held| held.chain().certificate());
        held.is_some_and(|held| !held.validity.expired(self.at.unix))
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum News {
    /// The machine handled an event. What it decided comes next.
    Stepped(Arc<Transition>),
    /// A request was begun.
    Requesting {
        /// Why a certificate is due.
        reason: Reason,
        /// The request shows the bootstrap identity.
        bootstrap: bool,
        /// The attempt before failed, for the same reason and with the same kind of identity.
        is_retry: bool,
    },
    /// The request moved on.
    Progressed(Progress),
    /// An issued certificate was accepted. It is not durable yet: [`News::Written`] follows.
    Issued {
        /// Where to. [`Slot::Waiting`]: the certificate is not valid yet, [`News::TookTurn`] follows.
        slot: Slot,
        /// The certificate served until now, valid or expired; `None` for [`Slot::Waiting`].
        replaced: Option<Arc<Certificate>>,
    },
    /// The waiting certificate is served from now on.
    TookTurn {
        /// The certificate served until now, valid or expired.
        replaced: Option<Arc<Certificate>>,
    },
    /// A certificate that another program put into the store was taken.
    TakenOver {
        /// Where to.
        slot: Slot,
        /// The certificate served until now, valid or expired; `None` for [`Slot::Waiting`].
        replaced: Option<Arc<Certificate>>,
    },
    /// An attempt to obtain a certificate came to nothing, or fell short. One for each such attempt.
    Failed {
        /// Why.
        failure: Failure,
        /// The error, for people. In a replay: what is known of the failure.
        error: Arc<str>,
    },
    /// The certificate is durable.
    Written {
        /// Which certificate.
        slot: Slot,
    },
    /// The certificate could not be written, or could not for another reason than before. It is served from memory.
    Unwritten {
        /// The error, for people.
        error: Arc<str>,
    },
    /// The record of the request could not be saved, or could not for another reason than before: a restart may submit
    /// another request.
    Unsaved {
        /// The error, for people.
        error: Arc<str>,
    },
    /// The store holds a certificate of another party, which is ignored.
    Foreign {
        /// The error, for people.
        error: Arc<str>,
    },
    /// The state has changed: scheduled, requesting, backing off, waiting for the budget, or without template, identity or
    /// signer.
    Entered(State),
    /// The certificate has expired and there is no other: at once, then after one, two, four … minutes, then each hour.
    Expired,
    /// The local clock has turned out to differ from the signer's by more than a minute.
    ClockDiffers(ClockOffset),
    /// The local clock agrees with the signer's again.
    ClockAgrees(ClockOffset),
    /// Certificates live too short for the policy. Once, until a longer one is issued.
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
    /// The rotation panicked, and goes on from the state published last. Please report this as a bug.
    Panicked {
        /// The error, for people.
        error: Arc<str>,
        /// Until then nothing is requested by itself. Doubles with each panic soon after another.
        pause: Duration,
    },
    /// The observer was too slow: this many notices in a row were dropped here. The snapshot is the one after the last of
    /// them.
    Missed {
        /// The number of notices dropped.
        count: u64,
        /// How many of them were [`News::Stepped`]: a journal lacks these.
        steps: u64,
        /// The machine after the last notice dropped.
        machine: Arc<RotationMachine>,
    },
    /// The rotation has ended. Nothing follows.
    Ended,
}

impl Transition {
    /// What the machine decided, as news: from a journal the same as when it happened, but for the words of errors.
    pub fn news(&self) -> Vec<News> {
        let outcomes = self.actions.outcomes();
        let failed = |failure: Failure| News::Failed { failure, error: failure.describe().into() };
        let of = |outcome: &Outcome| [news(outcome), outcome.failure().map(failed)];
        let state = self.after.state();
        let entered = (state != self.before.state()).then_some(News::Entered(state));
        outcomes.iter().flat_map(of).flatten().chain(entered).collect()
    }
}

/// The news of an outcome, if it is more than a failure.
fn news(outcome: &Outcome) -> Option<News> {
    Some(match outcome {
        Outcome::Accepted { slot, replaced, .. } => News::Issued { slot: *slot, replaced: replaced.clone() },
        Outcome::TookTurn { replaced } => News::TookTurn { replaced: replaced.clone() },
        Outcome::TakenOver { slot, replaced } => News::TakenOver { slot: *slot, replaced: replaced.clone() },
        Outcome::Written { slot, .. } => News::Written { slot: *slot },
        _ => return None,
    })
}
