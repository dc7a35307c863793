//! Nodes whose wall clock is wrong or is stepped, or whose timers stand still in suspend. The clocks of signers and
//! peers are right.

use perennial_tests::simulation::field::{Conduct, Happening, Scenario};

use super::{HOUR, MINUTE, ZERO};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        ahead_past_the_rotation_point(),
        ahead_past_expiry(),
        behind_not_before(),
        set_right_from_ahead(),
        set_back_wrongly(),
        always_behind(),
        always_ahead(),
        asleep_over_the_rotation_point(),
        asleep_past_expiry(),
    ]
}

/// The node's clock is so far ahead that a fresh certificate is already past its rotation point. client-go submits a
/// request each second. <https://github.com/istio/istio/pull/32176>, <https://github.com/linkerd/linkerd2/issues/3980>
fn ahead_past_the_rotation_point() -> Scenario {
    Scenario::new("clock 22 h ahead")
        .at(ZERO, Happening::ClockAhead(22 * 3600))
        .at(ZERO, Happening::Requests(Conduct::signs_after(ZERO)))
}

/// The node's clock is so far ahead that a fresh certificate has already expired. After two hours the clock is
/// corrected. <https://github.com/kubernetes/client-go/issues/592>
fn ahead_past_expiry() -> Scenario {
    Scenario::new("clock 2 d ahead for 2 h")
        .at(ZERO, Happening::ClockAhead(48 * 3600))
        .at(ZERO, Happening::Requests(Conduct::signs_after(ZERO)))
        .at(2 * HOUR, Happening::ClockAhead(0))
}

/// The node's clock is so far behind that a fresh certificate is not valid yet, although it is backdated by five
/// minutes. The node serves the certificate anyway, since peers verify it by the true time. After an hour the clock is
/// corrected. <https://github.com/kubernetes/kubernetes/pull/97680>, <https://github.com/vmware/pinniped/pull/849>
fn behind_not_before() -> Scenario {
    Scenario::new("clock 10 min behind for 1 h")
        .at(ZERO, Happening::ClockAhead(-600))
        .at(HOUR, Happening::ClockAhead(0))
}

/// The node's clock is ahead when the certificate is issued, and is corrected two hours later.
fn set_right_from_ahead() -> Scenario {
    Scenario::new("clock 6 h ahead, set right at 2 h")
        .at(ZERO, Happening::ClockAhead(6 * 3600))
        .at(2 * HOUR, Happening::ClockAhead(0))
        .with_span(48 * HOUR)
}

/// The node's clock is right when the certificate is issued, and is later set back by six hours, for good. By that
/// clock the rotation would come six hours late, which is too late. perennial rotates in time by the API server's
/// `Date`. client-go rotates in time, too, but only since it set its timer before the step, and does not restart.
fn set_back_wrongly() -> Scenario {
    Scenario::new("clock set back 6 h at 2 h")
        .with_certificate_of_age(ZERO)
        .at(2 * HOUR, Happening::ClockAhead(-6 * 3600))
        .with_span(36 * HOUR)
}

/// The node's clock is always six hours behind. The API server's `Date` shows the true time.
fn always_behind() -> Scenario {
    Scenario::new("clock 6 h behind").at(ZERO, Happening::ClockAhead(-6 * 3600)).with_span(96 * HOUR)
}

/// The node's clock is always six hours ahead, so that the rotation point of each certificate comes six hours early.
fn always_ahead() -> Scenario {
    Scenario::new("clock 6 h ahead").at(ZERO, Happening::ClockAhead(6 * 3600)).with_span(96 * HOUR)
}

/// The node is suspended from before the rotation point until after it. Its timers stand still in suspend:
/// <https://github.com/golang/go/issues/35012>, <https://github.com/taskcluster/taskcluster/issues/5269>,
/// <https://github.com/ltratt/pizauth/pull/48>, <https://github.com/BloopAI/bloop/pull/1027>,
/// <https://github.com/kubernetes/kubernetes/issues/111501>, <https://github.com/kubernetes/kubernetes/issues/115648>
fn asleep_over_the_rotation_point() -> Scenario {
    Scenario::new("asleep from 1 h to 22 h 30 min")
        .with_certificate_of_age(ZERO)
        .at(HOUR, Happening::Suspend(21 * HOUR + 30 * MINUTE))
        .with_span(36 * HOUR)
}

/// The node is suspended past expiry. A problem of other programs: a client that was suspended or offline past expiry
/// is stuck afterwards. <https://github.com/kubernetes/kubernetes/issues/65991>,
/// <https://github.com/kubernetes/kubernetes/issues/92676>, <https://github.com/kubernetes/kubernetes/issues/96256>,
/// <https://github.com/kubernetes/kubernetes/issues/78758>, <https://github.com/rossoctl/rossoctl/issues/1899>,
/// <https://github.com/linkerd/linkerd2/issues/13136>
fn asleep_past_expiry() -> Scenario {
    Scenario::new("asleep from 1 h to 31 h")
        .with_certificate_of_age(ZERO)
        .at(HOUR, Happening::Suspend(30 * HOUR))
        .with_span(72 * HOUR)
}
