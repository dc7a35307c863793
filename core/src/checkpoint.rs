//! All that a machine is, as plain data: to be written down, and to go on from exactly there.

use alloc::sync::Arc;

use crate::certificate::Certificate;
use crate::event::{RequestId, SignerStatus};
use crate::outcome::Slot;
use crate::pacing::RequestPacing;
use crate::pending_key::PendingKey;
use crate::policy::Policy;
use crate::server_clock::ServerClock;
use crate::state::Reason;
use crate::template::Template;
use crate::time::Instant;

/// All that a machine is, as plain data: [`RotationMachine::checkpoint`](crate::RotationMachine::checkpoint) takes it,
/// [`RotationMachine::restore`](crate::RotationMachine::restore) goes on from it. Unlike [`Pending`](crate::Pending), which is for
/// the next start, it counts by the monotonic clock of this boot: it is for replay, not for restarts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The numbers to go by.
    pub policy: Arc<Policy>,
    /// Spreads this machine among others.
    pub seed: u64,
    /// Whether requests can be submitted.
    pub signer: SignerStatus,
    /// The identity wanted.
    pub template: Option<Arc<Template>>,
    /// The certificate that is served.
    pub certificate: Option<Arc<Certificate>>,
    /// The successor of the certificate that is served, not valid yet.
    pub waiting: Option<Arc<Certificate>>,
    /// The server that the served certificate is meant for refused it.
    pub refused: bool,
    /// A rotation was requested ([`Event::RotateNow`](crate::Event::RotateNow)) and no certificate has been accepted since.
    pub rotate_now: bool,
    /// Why a certificate was due at the last settled event.
    pub due: Option<Reason>,
    /// The write of a certificate that is not known to be durable.
    pub unwritten: Option<Unwritten>,
    /// The name of the next request or write.
    pub next_id: RequestId,
    /// The request in flight, and when it was submitted.
    pub in_flight: Option<(RequestId, Instant)>,
    /// The key in the pending slot, and what it may still be used for.
    pub pending_key: PendingKey,
    /// The past of this identity's requests, as far as it slows the next one down.
    pub pacing: RequestPacing,
    /// The API server's clock.
    pub server_clock: ServerClock,
    /// When the next Tick is wanted.
    pub deadline: Option<Instant>,
}

/// A certificate that is not known to be durable. Its write is repeated until it is, beside everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unwritten {
    /// As in the [`WriteCert`](crate::Action::WriteCert).
    pub id: RequestId,
    /// Which certificate.
    pub slot: Slot,
    /// When to write it, again if it was tried before.
    pub again_at: Instant,
    /// Attempts that failed.
    pub failures: u32,
    /// An attempt was ordered and has not been answered.
    pub in_flight: bool,
}
