//! Outages of the API, throttling, and restarts.

use perennial_tests::simulation::field::{Api, Conduct, Happening, Scenario};

use super::{DAY, HOUR, MINUTE, SPREAD, ZERO, every, outage};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        down_for_six_hours(),
        up_after_five_minutes(),
        down_over_the_rotation_point(),
        down_past_expiry(),
        throttled(),
        flapping(),
        restarts_while_unapproved(),
        restarts_with_a_valid_certificate(),
    ]
}

/// The API is down for six hours. A problem of cert-manager: after many failures the backoff is so long that it delays
/// the certificate. <https://github.com/jetstack/cert-manager/issues/4539>
fn down_for_six_hours() -> Scenario {
    Scenario::new("API down for 6 h")
        .at(ZERO, Happening::Api(Api::Down))
        .at(6 * HOUR + MINUTE / 2, Happening::Api(Api::Up))
        .conceding(outage(), SPREAD)
}

/// The control plane starts after its nodes. A problem of Kubernetes: nodes waited for long, since their attempts were
/// 128 s apart. <https://github.com/kubernetes/kubernetes/pull/55356>
fn up_after_five_minutes() -> Scenario {
    Scenario::new("API up after 5 min")
        .at(ZERO, Happening::Api(Api::Down))
        .at(5 * MINUTE, Happening::Api(Api::Up))
        .conceding(outage(), SPREAD)
}

/// The API is down while the certificate is due, and up again before it expires. The node must keep the certificate
/// meanwhile: <https://github.com/istio/istio/issues/56452>
fn down_over_the_rotation_point() -> Scenario {
    Scenario::new("API down for 110 min, valid for 2 h")
        .with_certificate_of_age(22 * HOUR)
        .at(ZERO, Happening::Api(Api::Down))
        .at(110 * MINUTE, Happening::Api(Api::Up))
}

/// The API is down past expiry. A problem of other programs: a client is stuck afterwards.
/// <https://github.com/spiffe/spire/issues/1562>, <https://github.com/spiffe/spire/issues/2061>,
/// <https://github.com/kubernetes/kubernetes/issues/65991>
fn down_past_expiry() -> Scenario {
    Scenario::new("API down for 4 h, valid for 2 h")
        .with_certificate_of_age(22 * HOUR)
        .at(ZERO, Happening::Api(Api::Down))
        .at(4 * HOUR + MINUTE / 2, Happening::Api(Api::Up))
        .conceding(outage(), SPREAD)
}

/// The server answers each request with 429 and a `Retry-After` of a minute, for two hours:
/// <https://github.com/agent-substrate/substrate/pull/1421>
fn throttled() -> Scenario {
    Scenario::new("429, Retry-After: 60, for 2 h")
        .at(ZERO, Happening::Api(Api::Throttles(MINUTE)))
        .at(2 * HOUR, Happening::Api(Api::Up))
        .conceding(outage() + MINUTE, SPREAD)
}

/// The API goes down and comes up again every three minutes while a request is in flight. The request is approved after
/// two hours: <https://github.com/linkerd/linkerd2/issues/13136>
fn flapping() -> Scenario {
    let ignored = Scenario::new("API up and down, approved after 2 h").at(ZERO, Happening::Requests(Conduct::Ignores));
    let flaps = every(3 * MINUTE, 2 * HOUR, ignored, |i| Happening::Api(if i % 2 == 0 { Api::Down } else { Api::Up }));
    flaps.at(2 * HOUR, Happening::Api(Api::Up)).at(2 * HOUR, Happening::Requests(Conduct::WELL))
}

/// The process restarts while its request is not approved. A problem of another program: each restart makes another
/// request. <https://github.com/cert-manager/csi-driver/issues/119>
fn restarts_while_unapproved() -> Scenario {
    let ignored = Scenario::new("never approved, restarted each minute")
        .with_span(4 * HOUR)
        .at(ZERO, Happening::Requests(Conduct::Ignores));
    every(MINUTE, 2 * HOUR, ignored, |_| Happening::Restart { remembers: true })
        .at(2 * HOUR, Happening::Requests(Conduct::WELL))
}

/// A restart with a good certificate must not lead to a request:
/// <https://github.com/cert-manager/csi-driver/issues/119>
fn restarts_with_a_valid_certificate() -> Scenario {
    let holding = Scenario::new("valid, restarted each minute")
        .with_certificate_of_age(HOUR)
        .with_lifetime(DAY)
        .with_span(12 * HOUR);
    every(MINUTE, 12 * HOUR, holding, |_| Happening::Restart { remembers: true })
}
