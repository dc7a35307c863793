//! Events: facts that the driver reports to the machine, in the past tense.

use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;

use crate::certificate::{Certificate, Fingerprint};
use crate::policy::Policy;
use crate::renewal::RenewalHint;
use crate::sync::Arc;
use crate::template::Template;
use crate::time::UnixTime;

/// Identifies one request of one machine, or one write of a certificate. Later ids are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(NonZeroU64);

impl RequestId {
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The id with this number.
    pub const fn new(number: NonZeroU64) -> Self {
        Self(number)
    }

    /// The number, for use as a key of a map or as an io_uring `user_data`.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// The first id of a machine.
impl Default for RequestId {
    fn default() -> Self {
        Self(NonZeroU64::MIN)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A fact that the driver reports. The machine accepts events in any order and at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Time passed. Send a Tick at [`RotationMachine::deadline`](crate::RotationMachine::deadline); an early or a late
    /// Tick does no harm.
    Tick,
    /// Another template is wanted from now on. `None`: there is nothing to request (yet).
    TemplateChanged(Option<Arc<Template>>),
    /// A signer was configured or removed, or the identity that authenticates requests became available or unavailable.
    /// After a change to or from [`SignerStatus::Absent`] the machine forgets its failures, since another signer caused
    /// them. Spent budget stays spent.
    SignerChanged(SignerStatus),
    /// The policy changed. The new policy applies at once, without a restart:
    ///
    /// - The rotation point moves. A request that is in flight because the old rotation point has passed goes on.
    /// - The budget keeps its tokens, at most the new size, and is refilled at the new rate. Frequent changes
    ///   of the policy yield no additional tokens.
    /// - The spacing counts from the last submission, the timeout from when the request in flight was submitted.
    /// - Failures in a row still count. A backoff under way keeps its end, unless the longest backoff of the new policy
    ///   would end earlier if it began now: then the backoff ends at that time.
    PolicyChanged(Arc<Policy>),
    /// The signer issued a certificate. The driver has checked the certificate: it is well-formed, made for the key of
    /// the request, and not expired.
    CsrIssued {
        /// The request that the certificate was issued for.
        id: RequestId,
        /// The certificate, for the pending key.
        certificate: Arc<Certificate>,
    },
    /// The signer has said when to rotate a certificate: with the certificate, or later. From now on, the rotation point
    /// follows from the hint, and not from the policy's window. Report a hint that comes with a certificate after
    /// [`CsrIssued`](Self::CsrIssued), in the same step.
    RenewalHinted {
        /// The certificate that the hint is about. The machine ignores a hint about any other than its newest one.
        fingerprint: Fingerprint,
        /// The hint.
        hint: RenewalHint,
    },
    /// The request ended without a usable certificate.
    CsrFailed {
        /// The request that failed.
        id: RequestId,
        /// Why the request failed.
        failure: Failure,
        /// The `Retry-After` of the server's answer, if there is one.
        retry_after: Option<Duration>,
    },
    /// The certificate is durable: it survives a loss of power.
    CertWritten {
        /// The id of the [`WriteCert`](crate::Action::WriteCert) that was carried out.
        id: RequestId,
    },
    /// The certificate could not be made durable. The machine keeps the certificate in memory, served or waiting, and
    /// repeats the write.
    WriteFailed {
        /// The id of the [`WriteCert`](crate::Action::WriteCert) that failed.
        id: RequestId,
    },
    /// Another program changed the store: the store now holds this certificate, or none (`None`). The machine takes the
    /// certificate over if it is no worse than the served one. Otherwise, the machine writes the served certificate
    /// again, unless no signer is configured: then another program owns the store.
    CertReplaced(Option<Arc<Certificate>>),
    /// A server refused the certificate that was presented to it (HTTP 401, TLS alert).
    CertRefused {
        /// The certificate that was presented. The machine ignores a report about any other than the served
        /// certificate.
        fingerprint: Fingerprint,
    },
    /// The turn of this machine has come to submit a request: with [`SignerStatus::Shared`], the step that handles this
    /// event may submit one. With any other status, and if no request is due, the event is no more than a
    /// [`Tick`](Self::Tick).
    TurnGranted,
    /// A person or program demanded a rotation. The machine remembers the demand until it takes a certificate, and ends
    /// a backoff; spacing and budget still apply.
    RotateNow,
    /// The API server reported its time (the `Date` of an HTTP response) over a connection whose certificate was
    /// verified. The machine uses the server's time once three readings in a row agree within ten seconds, until a
    /// later reading disagrees.
    ServerDated {
        /// The server's time now: the `Date` plus the time since the response arrived.
        unix: UnixTime,
    },
}

/// The status of the signer: whether requests can be submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SignerStatus {
    /// No signer is configured: rotation is not enabled. The machine serves its certificate, writes nothing to a store
    /// that another program changes, and withdraws a request in flight.
    Absent,
    /// A signer is configured, but the identity to authenticate with does not exist yet. The machine submits no
    /// request; that is no failure and starts no backoff. A request in flight goes on, since it was submitted with an
    /// identity. As with [`Ready`](Self::Ready), the machine owns the store: it writes its certificate again if another
    /// program puts a worse one in place.
    NotReady,
    /// A signer is configured and requests can be submitted.
    #[default]
    Ready,
    /// The signer is ready, and shared with other machines: a request is submitted only in a step that handles
    /// [`Event::TurnGranted`]. A request that is due waits for that event in [`State::Queued`](crate::State::Queued).
    /// The owner of the machines observes the clocks for all of them, so [`deadline`](crate::RotationMachine::deadline)
    /// contains no regular check of the clocks.
    Shared,
}

impl SignerStatus {
    /// Every status of a signer.
    pub const ALL: [Self; 4] = [Self::Absent, Self::NotReady, Self::Ready, Self::Shared];

    /// The stable name in `snake_case`, for programs. Never changed once released.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::NotReady => "not_ready",
            Self::Ready => "ready",
            Self::Shared => "shared",
        }
    }

    /// Whether a signer is configured, ready or not.
    pub const fn is_configured(self) -> bool {
        matches!(self, Self::NotReady | Self::Ready | Self::Shared)
    }

    /// Whether requests can be submitted, at once or in turn: a signer is configured, and its identity exists.
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Shared)
    }

    /// Whether the machine waits for [`Event::TurnGranted`] before it submits a request.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Shared)
    }
}

/// Why a request ended without a usable certificate. Holds only the kind of failure; the driver logs the signer's
/// message.
///
/// `Denied` to `AlreadyDue` are refusals: the machine backs off by [`Policy::refused`](crate::Policy::refused), which is
/// minutes by default. After every other failure it backs off by [`Policy::transient`](crate::Policy::transient), at
/// first about a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// An approver denied the request (condition `Denied`).
    Denied,
    /// The signer refused the request (condition `Failed`).
    SignerFailed,
    /// The API refused the request as invalid (HTTP 400, 422 and other 4xx).
    Rejected,
    /// The issued certificate is unusable: another common name or key, wrong usage, expired, not valid soon enough,
    /// unreadable.
    BadCertificate,
    /// The issued certificate lacks names that the template requests.
    Unsatisfying,
    /// The issued certificate is due already: its rotation point has passed, or the signer has returned a bootstrap
    /// credential.
    AlreadyDue,
    /// The server did not accept the credential of the request (HTTP 401, TLS alert).
    Unauthorized,
    /// The credential lacks the permission to submit the request (HTTP 403).
    Forbidden,
    /// The server throttles requests (HTTP 429).
    Throttled,
    /// The server could not be reached or failed (network, TLS, HTTP 5xx).
    Unreachable,
    /// The request was not answered within [`Policy::request_timeout`](crate::Policy::request_timeout).
    TimedOut,
    /// The request object was deleted.
    Deleted,
    /// The API server already has a request object of this name, from an earlier run, and the certificate in that
    /// object has expired.
    Outdated,
    /// The signer refuses keys of this kind, and accepts keys of another kind, which the next request has. If the driver
    /// has no such key for the next request, it reports [`Denied`](Self::Denied) instead.
    UnsupportedKey,
    /// A problem on the side of the driver, not of a server: no key, or no credential to authenticate with.
    Local,
}

impl Failure {
    /// Every failure, for metrics that show a counter of each from the start.
    pub const ALL: [Self; 15] = [
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
        Self::UnsupportedKey,
        Self::Local,
    ];

    /// The stable name in `snake_case`, for programs: labels of metrics, JSON, journals, records. Never changed once
    /// released.
    pub const fn name(self) -> &'static str {
        self.words().0
    }

    /// True for a refusal: a failure that the same request would meet again if repeated soon. The machine backs off by
    /// [`Policy::refused`](crate::Policy::refused).
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

    /// True if the next request after this failure needs a new key. With the old key, the next request would have the
    /// name of the old request object, whose outcome is decided already, or the kind of key that the signer refuses.
    pub(crate) const fn spends_key(self) -> bool {
        self.is_refusal() || matches!(self, Self::Outdated | Self::UnsupportedKey)
    }

    /// A phrase for people, which completes "the last request failed: …".
    pub const fn describe(self) -> &'static str {
        self.words().1
    }

    /// The stable name for programs, and the phrase for people.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Denied => ("denied", "denied by an approver"),
            Self::SignerFailed => ("signer_failed", "refused by the signer"),
            Self::Rejected => ("rejected", "rejected as invalid by the API"),
            Self::BadCertificate => ("bad_certificate", "an unusable certificate was issued"),
            Self::Unsatisfying => ("unsatisfying", "the issued certificate lacks requested names"),
            Self::AlreadyDue => ("already_due", "the issued certificate is already due for rotation"),
            Self::Unauthorized => ("unauthorized", "the server refused the credential of the request"),
            Self::Forbidden => ("forbidden", "the credential of the request lacks the permission"),
            Self::Throttled => ("throttled", "the server throttles requests"),
            Self::Unreachable => ("unreachable", "the server cannot be reached or failed"),
            Self::TimedOut => ("timed_out", "no certificate within the request timeout"),
            Self::Deleted => ("deleted", "the request was deleted"),
            Self::Outdated => ("outdated", "an earlier request of this name exists, and its certificate has expired"),
            Self::UnsupportedKey => ("unsupported_key", "the signer accepts keys of another kind only"),
            Self::Local => ("local", "a problem on this machine"),
        }
    }
}
