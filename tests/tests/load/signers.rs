//! Signers that issue other certificates than requested.

use perennial_tests::simulation::field::{Conduct, Happening, Scenario};

use super::{DAY, HOUR, MINUTE, ZERO, named};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![drops_a_name(), authority_in_its_last_minutes(), short_lifetimes()]
}

/// The signer omits a requested name. client-go submits a new request every second, for ever:
/// <https://github.com/awslabs/amazon-eks-ami/issues/244>
fn drops_a_name() -> Scenario {
    Scenario::new("signer drops a SAN")
        .with_template(Some(named(&["node.example", "node.local"])))
        .at(ZERO, Happening::Requests(Conduct::Signs { after: ZERO, trims: true }))
}

/// A CA issues no certificate that is valid longer than the CA, and backdates each by five minutes. Shortly before its
/// end, it issues certificates that are past their rotation points already. After its end it signs nothing, until
/// another CA replaces it. All certificates of the first CA expire at the same time:
/// <https://github.com/smallstep/certificates/issues/350>
fn authority_in_its_last_minutes() -> Scenario {
    Scenario::new("CA in its last 20 min, replaced 10 min later")
        .with_certificate_of_age(23 * HOUR)
        .at(ZERO, Happening::Requests(Conduct::signs_after(ZERO)))
        .at(ZERO, Happening::Authority(20 * MINUTE))
        .at(30 * MINUTE, Happening::Authority(100 * DAY))
}

/// Certificates of ten minutes, the shortest lifetime that Kubernetes grants.
fn short_lifetimes() -> Scenario {
    Scenario::new("lifetimes of 10 min").with_lifetime(10 * MINUTE)
}
