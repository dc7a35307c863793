//! The initial state of a machine, and the record that an earlier run leaves.

use alloc::sync::Arc;

use crate::action::Key;
use crate::certificate::Certificate;
use crate::event::{Failure, SignerStatus};
use crate::policy::Policy;
use crate::template::Template;
use crate::time::UnixTime;

/// The initial state of a machine: by default the default policy, a signer that is ready, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The numbers to go by.
    pub policy: Arc<Policy>,
    /// Spreads this machine among others; the same at every start (see [`seed`](crate::seed())).
    pub seed: u64,
    /// Whether requests can be submitted.
    pub signer: SignerStatus,
    /// The identity wanted.
    pub template: Option<Arc<Template>>,
    /// The certificate found in the store. With a signer, a certificate whose common name differs from the template's is
    /// neither served nor used to submit requests, unless it is provisional.
    pub certificate: Option<Arc<Certificate>>,
    /// The successor of [`certificate`](Self::certificate), durable and not valid yet.
    pub waiting: Option<Arc<Certificate>>,
    /// True if a rotation was requested ([`RotateNow`](crate::Event::RotateNow)) and no certificate has been accepted since.
    pub rotate_now: bool,
    /// The record that an earlier run left behind, with its key in the pending slot.
    pub pending: Option<Pending>,
}

/// Record of the last request, so that a restart goes on where the run before was: kept by the driver, durable before each
/// submission, beside the pending key. Times are wall-clock, since monotonic clocks end with a boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// The identity that the last request was for.
    pub template: Arc<Template>,
    /// Whether the key in the pending slot may be used once more, or is spent.
    pub key: Key,
    /// When it was submitted.
    pub submitted: UnixTime,
    /// When the submission budget is whole again.
    pub budget_whole: UnixTime,
    /// The answer, if it was a refusal: the next attempt has to wait.
    pub refusal: Option<Refusal>,
}

impl Pending {
    /// When the submission budget, as recorded here, allows the next request that is not urgent, such as one on demand.
    pub fn on_demand_at(&self, policy: &Policy) -> UnixTime {
        self.budget_whole.before(policy.budget.refill_of(policy.budget.size().saturating_sub(2)))
    }
}

/// A refusal to be remembered across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// The failure.
    pub failure: Failure,
    /// How many in a row.
    pub failures: u32,
    /// When to submit the next request.
    pub retry_at: UnixTime,
}
