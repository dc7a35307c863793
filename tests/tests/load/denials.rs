//! Refusals by an approver or a signer. In the last two scenarios a supervisor restarts the denied process each minute.

use perennial_tests::simulation::field::{Conduct, Happening, Scenario};

use super::{DAY, HOUR, MINUTE, REFUSED, ZERO, every, named, refusal};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        denied(),
        denied_then_allowed(),
        denied_while_valid(),
        signer_fails_while_valid(),
        denied_and_renamed(),
        restarts_after_a_denial("denied, restarted each minute", true),
        restarts_after_a_denial("denied, restarted with no record", false),
    ]
}

/// Every request is denied. client-go and others submit new requests with new keys for as long as the process lives:
/// <https://github.com/cert-manager/csi-lib/issues/30>
fn denied() -> Scenario {
    Scenario::new("denied").at(ZERO, Happening::Requests(Conduct::Denies))
}

/// The approver denies requests for three hours, then allows them. A problem of cert-manager: after many denials the
/// backoff is so long that it delays the certificate. <https://github.com/jetstack/cert-manager/issues/4539>
fn denied_then_allowed() -> Scenario {
    Scenario::new("denied for 3 h, then allowed")
        .at(ZERO, Happening::Requests(Conduct::Denies))
        .at(3 * HOUR, Happening::Requests(Conduct::WELL))
        .conceding(refusal(), REFUSED)
}

/// All requests are denied while the node's certificate is still valid. The node must keep the certificate:
/// <https://github.com/istio/istio/issues/56452>
fn denied_while_valid() -> Scenario {
    Scenario::new("renewal denied for 100 min, valid for 2 h")
        .with_certificate_of_age(22 * HOUR)
        .at(ZERO, Happening::Requests(Conduct::Denies))
        .at(100 * MINUTE, Happening::Requests(Conduct::WELL))
}

/// The signer fails requests for an hour while the node's certificate is valid. A problem of another program: one error
/// of the CA leaves its clients stuck for good. <https://github.com/RafPe/pod-certificate-signer/issues/28>
fn signer_fails_while_valid() -> Scenario {
    Scenario::new("signer fails for 1 h, valid for 2 h")
        .with_certificate_of_age(22 * HOUR)
        .at(ZERO, Happening::Requests(Conduct::Fails))
        .at(HOUR, Happening::Requests(Conduct::WELL))
}

/// Requests are denied, since the template has a wrong name. The template is corrected during a backoff. The node must
/// submit a request for the corrected template: <https://github.com/istio/ztunnel/issues/725>
fn denied_and_renamed() -> Scenario {
    Scenario::new("denied for a wrong name, set right at 30 min")
        .with_template(Some(named(&["typo.example"])))
        .at(ZERO, Happening::Requests(Conduct::Denies))
        .at(30 * MINUTE, Happening::Requests(Conduct::WELL))
        .at(30 * MINUTE, Happening::Wants(Some(named(&["node.example"]))))
}

/// A supervisor restarts the denied process each minute. Without the pending record, a restart forgets the denial. A
/// problem of another program: each restart submits a request, which exhausts a quota.
/// <https://github.com/cert-manager/csi-driver/issues/119>
fn restarts_after_a_denial(name: &'static str, remembers: bool) -> Scenario {
    let denied = Scenario::new(name).with_span(DAY).at(ZERO, Happening::Requests(Conduct::Denies));
    every(MINUTE, 2 * HOUR, denied, |_| Happening::Restart { remembers })
}
