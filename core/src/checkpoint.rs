//! The complete state of a machine as plain data, to record and to replay from.

use crate::certificate::Certificate;
use crate::event::{RequestId, SignerStatus};
use crate::judge::rotation_point;
use crate::outcome::Slot;
use crate::pacing::RequestPacing;
use crate::pending_key::PendingKey;
use crate::policy::Policy;
use crate::server_clock::ServerClock;
use crate::state::Reason;
use crate::sync::Arc;
use crate::template::Template;
use crate::time::{Instant, UnixTime};

/// The complete state of a machine as plain data. [`RotationMachine::checkpoint`](crate::RotationMachine::checkpoint)
/// takes a checkpoint, [`RotationMachine::restore`](crate::RotationMachine::restore) rebuilds the machine. For replay,
/// not for restarts: a checkpoint has instants of a monotonic clock, which begins anew at each boot. A restart uses
/// [`Pending`](crate::Pending). The default is the state of a machine that has a signer, but no template, no
/// certificate and no deadline yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The policy in use: times, limits and submission budget.
    pub policy: Arc<Policy>,
    /// The seed of all jitter of this machine (see [`seed`](crate::seed())).
    pub seed: u64,
    /// The status of the signer: whether requests can be submitted.
    pub signer: SignerStatus,
    /// The template of the wanted certificate. `None`: there is nothing to request.
    pub template: Option<Arc<Template>>,
    /// The served certificate, expired or not.
    pub certificate: Option<Arc<Certificate>>,
    /// The waiting certificate: the successor of the served one, not valid yet.
    pub waiting: Option<Arc<Certificate>>,
    /// The rotation point of the newest certificate: the waiting one, else the served one. The epoch without a
    /// certificate.
    pub rotate_at: UnixTime,
    /// True if a hint of the signer has set the rotation point. False: it follows from the policy's window, and
    /// [`restore`](crate::RotationMachine::restore) computes it anew.
    pub hinted: bool,
    /// True if a server refused the served certificate ([`Event::CertRefused`](crate::Event::CertRefused)).
    pub refused: bool,
    /// True if a rotation was requested ([`Event::RotateNow`](crate::Event::RotateNow)) and the machine has taken no
    /// certificate since.
    pub rotate_now: bool,
    /// Why a certificate is due, as of the last event that was not ignored. `None`: no certificate is due.
    pub due: Option<Reason>,
    /// True if a request may be submitted as soon as the turn of this machine comes
    /// ([`Event::TurnGranted`](crate::Event::TurnGranted)). Always false unless the signer is
    /// [`Shared`](SignerStatus::Shared).
    pub queued: bool,
    /// The write of a certificate that is not known to be durable. `None`: the driver has confirmed every write.
    pub unwritten: Option<Unwritten>,
    /// The id of the next request or write.
    pub next_id: RequestId,
    /// The request in flight, and when it was submitted.
    pub in_flight: Option<(RequestId, Instant)>,
    /// The template for which the pending key was last used, and whether a retry may use the key again.
    pub pending_key: PendingKey,
    /// How the earlier requests of this identity delay the next one: by backoff, spacing and submission budget.
    pub pacing: RequestPacing,
    /// The API server's clock, as estimated from its responses.
    pub server_clock: ServerClock,
    /// When the next Tick is wanted. `None`: only another event can change anything.
    pub deadline: Option<Instant>,
}

impl Checkpoint {
    /// The certificate whose age decides whether a new one is due: the waiting one, else the served one.
    pub(crate) fn newest_certificate(&self) -> Option<&Arc<Certificate>> {
        self.waiting.as_ref().or(self.certificate.as_ref())
    }

    /// The rotation point by the signer's hint, if it is about this certificate; else by the policy's window.
    pub(crate) fn rotation_point_of(&self, certificate: &Certificate) -> UnixTime {
        let is_newest =
            || self.newest_certificate().is_some_and(|newest| newest.fingerprint == certificate.fingerprint);
        if self.hinted && is_newest() {
            return self.rotate_at;
        }
        rotation_point(&self.policy, self.seed, certificate)
    }
}

/// The write of a certificate that is not known to be durable. The machine repeats it until the driver confirms it, and
/// requests and serves certificates meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unwritten {
    /// The id of this write, in [`WriteCert`](crate::Action::WriteCert) and in the driver's replies.
    pub id: RequestId,
    /// The slot of the certificate to write.
    pub slot: Slot,
    /// When to order the next attempt to write.
    pub again_at: Instant,
    /// The number of attempts to write that failed.
    pub failures: u32,
    /// True if an attempt to write was ordered and the driver has not replied yet.
    pub in_flight: bool,
}
