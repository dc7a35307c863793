//! All that a machine is, as plain data: to be written down, and to go on from exactly there.

use alloc::sync::Arc;

use crate::certificate::Certificate;
use crate::event::{Failure, RequestId};
use crate::policy::Policy;
use crate::setup::SignerStatus;
use crate::state::Reason;
use crate::template::Template;
use crate::time::{Instant, UnixTime};

/// All that a machine is, as plain data: [`RotationMachine::checkpoint`](crate::RotationMachine::checkpoint) takes it,
/// [`RotationMachine::restore`](crate::RotationMachine::restore) goes on from it. Unlike [`Pending`](crate::Pending), which is for
/// the next start, it counts by the monotonic clock of this boot: it is for replay, not for restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The numbers to go by.
    pub policy: Arc<Policy>,
    /// Spreads this machine among others.
    pub seed: u64,
    /// Whether requests can be submitted.
    pub signer: SignerStatus,
    /// The identity wanted.
    pub template: Option<Arc<Template>>,
    /// The certificate held.
    pub certificate: Option<Arc<Certificate>>,
    /// The successor of the held certificate, not valid yet.
    pub waiting: Option<Arc<Certificate>>,
    /// The server it is meant for refused it.
    pub refused: bool,
    /// Somebody asked for a new one.
    pub rotate_now: bool,
    /// Why a certificate was due when last looked at.
    pub due: Option<Reason>,
    /// The write of a certificate that is not known to be durable.
    pub unwritten: Option<Unwritten>,
    /// The name of the next request.
    pub next_id: RequestId,
    /// The request that is out, and since when.
    pub live: Option<(RequestId, Instant)>,
    /// What the pending key was last used to ask for.
    pub asked: Option<Arc<Template>>,
    /// The pending key may be used once more.
    pub reusable: bool,
    /// Failures of the same kind in a row.
    pub failures: u32,
    /// The last failure.
    pub last_failure: Option<Failure>,
    /// Backoff: no attempt before.
    pub retry_at: Instant,
    /// Spacing: no submission before.
    pub spaced_at: Instant,
    /// When the submission budget is whole again.
    pub budget_whole_at: Instant,
    /// What the API server's clock showed at the origin of the monotonic clock, by the last reading.
    pub server_origin: UnixTime,
    /// Readings of the API server's clock in a row that agree, up to three, which are believed.
    pub server_agreeing: u8,
    /// When the next Tick is wanted.
    pub deadline: Option<Instant>,
}

/// A certificate that is yet to be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritten {
    /// As in the [`WriteCert`](crate::Action::WriteCert).
    pub id: RequestId,
    /// When to try again.
    pub again_at: Instant,
    /// Attempts that failed.
    pub failures: u32,
    /// An attempt has not been answered.
    pub out: bool,
    /// True for the held certificate, false for the waiting one.
    pub serve: bool,
}
