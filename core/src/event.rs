//! Facts the driver reports, in the past tense.

use alloc::sync::Arc;
use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;

use crate::certificate::{Certificate, Fingerprint};
use crate::policy::Policy;
use crate::template::Template;
use crate::time::UnixTime;

/// Names one request of one machine, and the certificate that came of it. Strictly increasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(NonZeroU64);

impl RequestId {
    pub(crate) const FIRST: Self = Self(NonZeroU64::MIN);

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The request of this number.
    pub const fn new(number: NonZeroU64) -> Self {
        Self(number)
    }

    /// The number itself: a map key, an io_uring `user_data`.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Something that happened. Order does not matter for safety: any event is welcome at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Time passed. Always safe, never required to be punctual.
    Tick,
    /// The wanted identity is now this; `None`: there is nothing to request (yet).
    TemplateChanged(Option<Arc<Template>>),
    /// A signer was configured or removed, or the identity to authenticate with came or went. To [`SignerStatus::Absent`]
    /// and back, failures are forgotten: they were another signer's. What was spent of the budget is not.
    SignerChanged(SignerStatus),
    /// The numbers to go by are now these. They hold at once and need no new start:
    ///
    /// - The rotation point moves. A request in flight because the old one has passed goes on.
    /// - The budget keeps the tokens it has, but no more than the new size; from then on tokens come at the new rate. So no
    ///   change, and no number of changes, grants more than the old and the new policy would.
    /// - The spacing counts from the last submission, the timeout from when the request in flight was submitted.
    /// - Failures in a row still count. A wait under way is not drawn anew, but ends no later than the longest wait of the
    ///   new policy would if it began now.
    PolicyChanged(Arc<Policy>),
    /// The signer issued a certificate and the edge found it usable (ours, intact, in time).
    CsrIssued {
        /// The request it answers.
        id: RequestId,
        /// The certificate, for the key in the pending slot.
        certificate: Arc<Certificate>,
    },
    /// The request came to nothing.
    CsrFailed {
        /// The request it answers.
        id: RequestId,
        /// Why.
        failure: Failure,
        /// The server's `Retry-After`, if it sent one.
        retry_after: Option<Duration>,
    },
    /// The certificate is durable: a crash would find it.
    CertWritten {
        /// As in the [`WriteCert`](crate::Action::WriteCert) it answers.
        id: RequestId,
    },
    /// The certificate could not be made durable. It is still served from memory.
    WriteFailed {
        /// As in the [`WriteCert`](crate::Action::WriteCert) it answers.
        id: RequestId,
    },
    /// Another program changed the store; this is the certificate that it holds now. A better one is taken over, and a worse
    /// one is overwritten; without a signer it is left alone, since another program owns the store then.
    CertReplaced(Option<Arc<Certificate>>),
    /// The server this certificate is meant for refused it (HTTP 401, TLS alert).
    CertRefused {
        /// The certificate presented, so that a late report cannot condemn its successor.
        fingerprint: Fingerprint,
    },
    /// A person or program requests a rotation. Remembered until a certificate is accepted. Ends a backoff, but does not
    /// overrule spacing and budget.
    RotateNow,
    /// The API server, over a connection whose certificate was verified, reported the time (the `Date` of an HTTP answer).
    /// Three readings in a row that agree within ten seconds are believed, until one does not.
    ServerDated {
        /// The server's time now: the `Date`, and the time since the answer came.
        unix: UnixTime,
    },
}

/// Whether requests can be submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SignerStatus {
    /// No signer is configured: rotation is not enabled. The certificate is served, the store is left to other programs,
    /// and a request in flight is withdrawn.
    Absent,
    /// A signer is configured, but the identity to authenticate with does not exist yet. No request is submitted; that is
    /// no failure and starts no backoff. A request in flight goes on, since it has its identity. The store is ours.
    NotReady,
    /// A signer is configured and requests can be submitted.
    #[default]
    Ready,
}

impl SignerStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Absent, Self::NotReady, Self::Ready];

    /// The stable name in `snake_case`, for programs. Never changed once released.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::NotReady => "not_ready",
            Self::Ready => "ready",
        }
    }

    /// Whether a signer is configured, ready or not.
    pub const fn is_configured(self) -> bool {
        matches!(self, Self::NotReady | Self::Ready)
    }

    /// Whether requests can be submitted.
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready)
    }
}

/// Why a request came to nothing. Prose stays at the edge; this is what the machine needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// An approver said no (condition `Denied`).
    Denied,
    /// The signer refused (condition `Failed`).
    SignerFailed,
    /// The API refused the request as invalid (HTTP 400, 422 and other 4xx).
    Rejected,
    /// The issued certificate is unusable: another common name or key, wrong usage, expired, unreadable.
    BadCertificate,
    /// The issued certificate lacks names that the template requests.
    Unsatisfying,
    /// The issued certificate is already past its rotation point.
    AlreadyDue,
    /// The server did not accept our credential (HTTP 401, TLS alert).
    Unauthorized,
    /// Our credential may not do this (HTTP 403).
    Forbidden,
    /// The server throttles requests (HTTP 429).
    Throttled,
    /// The server could not be reached or broke down (network, TLS, HTTP 5xx).
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The request object vanished.
    Deleted,
    /// The request object found under our name is an old one: its certificate has expired since.
    Outdated,
    /// A problem on our side: no key, no credential to authenticate with.
    Local,
}

impl Failure {
    /// Every failure, for counters that begin at zero.
    pub const ALL: [Self; 14] = [
        Self::Denied,
        Self::SignerFailed,
        Self::Rejected,
        Self::BadCertificate,
        Self::Unsatisfying,
        Self::AlreadyDue,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Throttled,
        Self::Unreachable,
        Self::TimedOut,
        Self::Deleted,
        Self::Outdated,
        Self::Local,
    ];

    /// The stable name in `snake_case`, for programs: labels of metrics, JSON, journals, records. Never changed once released.
    pub const fn name(self) -> &'static str {
        self.words().0
    }

    /// A considered no: asking the same again soon is pointless, and impolite.
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::SignerFailed
                | Self::Rejected
                | Self::BadCertificate
                | Self::Unsatisfying
                | Self::AlreadyDue
        )
    }

    /// Whether asking with the same key again would only give the same answer again.
    pub(crate) const fn spends_key(self) -> bool {
        self.is_refusal() || matches!(self, Self::Outdated)
    }

    /// For people: a phrase that completes "the last request failed: …".
    pub const fn describe(self) -> &'static str {
        self.words().1
    }

    /// Its name for programs, and what people read.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Denied => ("denied", "denied by an approver"),
            Self::SignerFailed => ("signer_failed", "refused by the signer"),
            Self::Rejected => ("rejected", "rejected as invalid by the API"),
            Self::BadCertificate => ("bad_certificate", "an unusable certificate was issued"),
            Self::Unsatisfying => ("unsatisfying", "the issued certificate lacks names that were asked for"),
            Self::AlreadyDue => ("already_due", "the issued certificate is already due for rotation"),
            Self::Unauthorized => ("unauthorized", "our credential was not accepted"),
            Self::Forbidden => ("forbidden", "our credential lacks the permission"),
            Self::Throttled => ("throttled", "the server asked for patience"),
            Self::Unreachable => ("unreachable", "the server could not be reached"),
            Self::TimedOut => ("timed_out", "no answer in time"),
            Self::Deleted => ("deleted", "the request was deleted"),
            Self::Outdated => ("outdated", "the request found is an old one, its certificate has expired"),
            Self::Local => ("local", "a problem on this machine"),
        }
    }
}
