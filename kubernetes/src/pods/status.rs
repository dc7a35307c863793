//! [`PodCertificateStatus`]: the state of one certificate of a pod.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, State, UnixTime};
use perennial_rotation::{Snapshot, Unpublished};

/// How long after its rotation point a certificate is overdue, as for kubelet.
const OVERDUE: Duration = Duration::from_secs(600);

/// The state of a pod's certificate, as kubelet's metric `kubelet_podcertificate_states` has it.
///
/// The end of the last request decides first: a certificate is `denied` or `failed` if that request was, even while an
/// earlier certificate is valid. perennial keeps the valid certificate in the volume, and requests the next one after the
/// backoff for refusals. kubelet gives the certificate up, and removes it from the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PodCertificateState {
    /// No certificate was issued yet.
    NotYetIssued,
    /// The certificate is valid, and not overdue.
    Fresh,
    /// The certificate is valid, and its rotation point has passed by more than ten minutes.
    OverdueForRefresh,
    /// The certificate has expired.
    Expired,
    /// The last request was denied, also because of the kind of its key.
    Denied,
    /// The signer failed the last request.
    Failed,
}

impl PodCertificateState {
    /// All states, for metrics with one sample per state.
    pub const ALL: [Self; 6] =
        [Self::NotYetIssued, Self::Fresh, Self::OverdueForRefresh, Self::Expired, Self::Denied, Self::Failed];

    /// The stable name in `snake_case`: the value of kubelet's label `state`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotYetIssued => "not_yet_issued",
            Self::Fresh => "fresh",
            Self::OverdueForRefresh => "overdue_for_refresh",
            Self::Expired => "expired",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }

    /// The state that a snapshot shows at `now`.
    pub fn of(snapshot: &Snapshot, now: UnixTime) -> Self {
        match snapshot.last_failure {
            Some(Failure::Denied | Failure::UnsupportedKey) => return Self::Denied,
            Some(Failure::SignerFailed) => return Self::Failed,
            _ => {}
        }
        let Some(credential) = &snapshot.credential else { return Self::NotYetIssued };
        let is_overdue = |point: UnixTime| now > point.after(OVERDUE);
        if credential.chain().certificate().validity.expired(now) {
            Self::Expired
        } else if snapshot.rotation_point.is_some_and(is_overdue) {
            Self::OverdueForRefresh
        } else {
            Self::Fresh
        }
    }
}

/// The state of one certificate of a pod at one time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PodCertificateStatus {
    /// The UID of the pod.
    pub pod_uid: String,
    /// Namespace and name of the pod.
    pub pod: String,
    /// The name of the volume.
    pub volume: String,
    /// The index of the source in the volume.
    pub source: usize,
    /// The signer of the certificate.
    pub signer_name: String,
    /// The state, as kubelet reports it.
    pub state: PodCertificateState,
    /// When the current certificate expires; `None` without a certificate.
    pub not_after: Option<UnixTime>,
    /// The rotation point of the current certificate; `None` without a certificate.
    pub rotation_point: Option<UnixTime>,
    /// The last error of a request or of a write, for people; `None` if there is none.
    pub last_error: Option<Arc<str>>,
    /// The failure to write the current certificate to the volume; `None` if the volume has the certificate, if there is no
    /// certificate, or if an earlier run has requested it for another pod or source: such a certificate is not written.
    pub unpublished: Option<Unpublished>,
    /// The state of the rotation: what it waits for, such as the rotation point, an answer, or the end of a backoff.
    pub activity: State,
}
