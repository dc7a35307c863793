//! The state of the machine, for people, metrics and status pages.

use crate::event::{Failure, RequestId};
use crate::time::{Instant, UnixTime};

/// Why a certificate is due. Ordered by urgency: if several reasons apply, the machine reports the smallest, which is
/// the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// There is no certificate.
    NoCertificate,
    /// The certificate has expired.
    Expired,
    /// The certificate is a bootstrap credential, in use until a certificate is issued.
    Provisional,
    /// The certificate's rotation point has passed.
    RotationPoint,
    /// A server refused the certificate ([`Event::CertRefused`](crate::Event::CertRefused)).
    Refused,
    /// The certificate lacks names that the template requests.
    TemplateNotSatisfied,
    /// A rotation was requested ([`Event::RotateNow`](crate::Event::RotateNow)).
    RotateNow,
}

impl Reason {
    /// Every reason, the most urgent first.
    pub const ALL: [Self; 7] = [
        Self::NoCertificate,
        Self::Expired,
        Self::Provisional,
        Self::RotationPoint,
        Self::Refused,
        Self::TemplateNotSatisfied,
        Self::RotateNow,
    ];

    /// The stable name in `snake_case`, for programs: labels of metrics, JSON, journals. Never changed once released.
    pub const fn name(self) -> &'static str {
        self.words().0
    }

    /// A phrase for people, which completes "a new certificate is wanted because …".
    pub const fn describe(self) -> &'static str {
        self.words().1
    }

    /// The stable name for programs, and the phrase for people.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::NoCertificate => ("no_certificate", "there is no certificate yet"),
            Self::Expired => ("expired", "the current certificate has expired"),
            Self::Provisional => ("provisional", "the current certificate is a bootstrap certificate"),
            Self::RotationPoint => ("rotation_point", "the current certificate has passed its rotation point"),
            Self::Refused => ("refused", "the server refused the current certificate"),
            Self::TemplateNotSatisfied => ("template_not_satisfied", "the current certificate lacks requested names"),
            Self::RotateNow => ("asked", "a rotation was requested"),
        }
    }
}

/// The state of the machine, for people and metrics. The machine decides from its facts, never from a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Rotation is not enabled: there is no signer.
    NotEnabled,
    /// There is no template, so nothing to request.
    NoTemplate,
    /// A certificate is due, and the identity that would authenticate the request does not exist yet
    /// ([`SignerStatus::NotReady`](crate::SignerStatus::NotReady)).
    NoIdentity {
        /// Why a certificate is due.
        reason: Reason,
    },
    /// No certificate is due yet. The next one is due at the rotation point of the waiting certificate or, if there is
    /// none, of the served one.
    Scheduled {
        /// The rotation point.
        rotate_at: UnixTime,
    },
    /// A request is in flight.
    Requesting {
        /// The id of the request in flight.
        id: RequestId,
        /// Why a certificate is due.
        reason: Reason,
        /// When the request times out.
        until: Instant,
    },
    /// A certificate is due, and the last attempt failed.
    BackingOff {
        /// Why a certificate is due.
        reason: Reason,
        /// When the next request is submitted.
        until: Instant,
        /// The number of failures in a row that are of one kind: refusals if `last` is a refusal, otherwise failures
        /// that are no refusals.
        failures: u32,
        /// The last failure.
        last: Failure,
    },
    /// A certificate is due, and spacing or the submission budget does not allow a request yet.
    Waiting {
        /// Why a certificate is due.
        reason: Reason,
        /// When the next request is submitted.
        until: Instant,
    },
    /// A certificate is due and a request may be submitted, and the machine waits for its turn at the shared signer
    /// ([`SignerStatus::Shared`](crate::SignerStatus::Shared)).
    Queued {
        /// Why a certificate is due.
        reason: Reason,
    },
}

impl State {
    /// The [`name`](Self::name) of every state, for metrics with one sample per state.
    pub const NAMES: [&'static str; 8] =
        ["not_enabled", "no_template", "resting", "requesting", "backing_off", "waiting", "no_identity", "queued"];

    /// The stable name in `snake_case`, for programs: labels of metrics, JSON. Never changed once released.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[match self {
            Self::NotEnabled => 0,
            Self::NoTemplate => 1,
            Self::Scheduled { .. } => 2,
            Self::Requesting { .. } => 3,
            Self::BackingOff { .. } => 4,
            Self::Waiting { .. } => 5,
            Self::NoIdentity { .. } => 6,
            Self::Queued { .. } => 7,
        }]
    }
}
