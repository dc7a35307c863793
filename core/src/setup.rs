//! The initial state of a machine, and the record of the last request that a restart continues from.

use crate::action::Key;
use crate::certificate::Certificate;
use crate::event::{Failure, SignerStatus};
use crate::policy::Policy;
use crate::renewal::Renewal;
use crate::sync::Arc;
use crate::template::Template;
use crate::time::UnixTime;

/// The initial state of a machine. The default is the default policy, a signer that is ready, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The policy to apply: times, limits and submission budget.
    pub policy: Arc<Policy>,
    /// The seed of all jitter. Different for each machine of a fleet, the same at every start (see
    /// [`seed`](crate::seed())).
    pub seed: u64,
    /// The status of the signer: whether requests can be submitted.
    pub signer: SignerStatus,
    /// The template of the wanted certificate. `None`: there is nothing to request yet.
    pub template: Option<Arc<Template>>,
    /// The certificate found in the store. With a signer, the machine neither serves nor authenticates with a
    /// certificate whose common name differs from the template's, unless the certificate is provisional.
    pub certificate: Option<Arc<Certificate>>,
    /// The successor of [`certificate`](Self::certificate), durable and not valid yet.
    pub waiting: Option<Arc<Certificate>>,
    /// True if a rotation was requested ([`RotateNow`](crate::Event::RotateNow)) and the machine has taken no
    /// certificate since.
    pub rotate_now: bool,
    /// The record of the last request of an earlier run. The driver has loaded the record's key as the pending key.
    pub pending: Option<Pending>,
    /// The rotation point that a hint of the signer has set in an earlier run
    /// ([`RotationMachine::renewal`](crate::RotationMachine::renewal)). Disregarded if it is not that of the newest
    /// certificate.
    pub renewal: Option<Renewal>,
}

/// The record of the last request, from which a restart continues. The driver stores it beside the pending key and
/// makes it durable before each submission. Times are by the wall clock, since monotonic clocks end with a boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// The template of the last request.
    pub template: Arc<Template>,
    /// The key for a retry: [`Key::New`] if the pending key may not be used again.
    pub key: Key,
    /// When the last request was submitted.
    pub submitted: UnixTime,
    /// When the submission budget is full again.
    pub budget_whole: UnixTime,
    /// The refusal of the last request; `None` if that request was not refused. A restart continues the backoff after
    /// the refusal.
    pub refusal: Option<Refusal>,
}

impl Pending {
    /// When the recorded submission budget allows the next request that is not urgent, such as a rotation on demand.
    pub fn on_demand_at(&self, policy: &Policy) -> UnixTime {
        self.budget_whole.before(policy.budget.time_to_fill_from(2))
    }
}

/// A refusal that is remembered across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Why the request was refused.
    pub failure: Failure,
    /// The number of refusals in a row.
    pub failures: u32,
    /// When the backoff after the refusal ends.
    pub retry_at: UnixTime,
}
