//! A node starts with a bootstrap credential, and must replace it by its own certificate, since a bootstrap credential
//! may grant more rights.

use perennial::Template;
use perennial_tests::simulation::field::{Conduct, Happening, Scenario};

use super::{DAY, HOUR, MINUTE, ZERO};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![restarted_before_approval(), without_a_template_at_first(), expired()]
}

/// The process restarts before its request is approved. client-go has written the bootstrap credential to its store.
/// After the restart, client-go takes it for the node's own certificate, and keeps it until its rotation point
/// (`getCurrentCertificateOrBootstrap`).
fn restarted_before_approval() -> Scenario {
    Scenario::new("bootstrap credential, restarted meanwhile")
        .with_certificate_of_age(HOUR)
        .with_bootstrap_credential()
        .with_span(12 * HOUR)
        .at(ZERO, Happening::Requests(Conduct::Ignores))
        .at(5 * MINUTE, Happening::Restart { remembers: true })
        .at(10 * MINUTE, Happening::Requests(Conduct::WELL))
}

/// The template is set a minute after the start. client-go would replace the bootstrap credential at its first rotation
/// check, but does not, since there is no template at that time.
fn without_a_template_at_first() -> Scenario {
    Scenario::new("bootstrap credential, template 1 min later")
        .with_certificate_of_age(HOUR)
        .with_bootstrap_credential()
        .with_span(12 * HOUR)
        .with_template(None)
        .at(MINUTE, Happening::Wants(Some(Template::node("worker-1"))))
}

/// An expired bootstrap credential is useless, but must do no harm.
fn expired() -> Scenario {
    Scenario::new("bootstrap credential, expired")
        .with_certificate_of_age(DAY + HOUR)
        .with_bootstrap_credential()
        .with_span(12 * HOUR)
}
