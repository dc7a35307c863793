//! Requests that are approved late or never.

use perennial_tests::simulation::field::{Conduct, Happening, Scenario};

use super::{HOUR, MINUTE, ZERO};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![all_goes_well(), never_approved(), slow_signer(), approved_after_an_hour(), approved_during_a_restart()]
}

/// The cluster is healthy. Other scenarios are compared with this one, which shows how long a node waits for its first
/// certificate, the subject of <https://github.com/kubernetes/kubernetes/issues/112170>
fn all_goes_well() -> Scenario {
    Scenario::new("all goes well").with_span(72 * HOUR)
}

/// No request is approved. Problems of other programs: requests pile up, or the caller waits for ever
/// (<https://github.com/kubernetes/kubernetes/issues/51966>, <https://github.com/cert-manager/csi-lib/issues/45>); half
/// a million request objects exist, since each node creates one every 15 minutes
/// (<https://github.com/kubernetes/kubernetes/issues/132947>); serving certificates are not approved by default
/// (<https://github.com/kubernetes/kubeadm/issues/591>).
fn never_approved() -> Scenario {
    Scenario::new("never approved").at(ZERO, Happening::Requests(Conduct::Ignores))
}

/// Each signature takes longer than the request timeout. A client that submits a new request object after each timeout
/// never gets a certificate: <https://github.com/cert-manager/csi-lib/issues/47>
fn slow_signer() -> Scenario {
    Scenario::new("each signature takes 20 min").at(ZERO, Happening::Requests(Conduct::signs_after(20 * MINUTE)))
}

/// No request is approved for an hour; then a person approves all of them. By then, client-go has given up its first
/// three requests. A client that has not given up its request gets its certificate at once:
/// <https://github.com/kubernetes/kubernetes/issues/51966>
fn approved_after_an_hour() -> Scenario {
    Scenario::new("approved after an hour")
        .at(ZERO, Happening::Requests(Conduct::Ignores))
        .at(HOUR, Happening::Requests(Conduct::WELL))
}

/// The process restarts while its request is in flight, and the request is approved a minute later. The certificate is
/// issued for the key from before the restart, so that the process must still have that key:
/// <https://github.com/cert-manager/csi-driver/issues/33>
fn approved_during_a_restart() -> Scenario {
    Scenario::new("restarted while waiting, then approved")
        .at(ZERO, Happening::Requests(Conduct::Ignores))
        .at(10 * MINUTE, Happening::Restart { remembers: true })
        .at(11 * MINUTE, Happening::Requests(Conduct::WELL))
}
