//! Many nodes that have an outage at the same time, or whose certificates were issued in the same second.

use std::time::Duration;

use perennial_tests::simulation::field::{Api, Happening, Scenario, Tally};

use super::{HOUR, SECOND, ZERO, client_go, default};

const NODES: u64 = 200;

/// The most submissions of all [`NODES`] nodes in any ten seconds after `from`; `node` runs the scenario for one node.
fn peak(scenario: &Scenario, from: Duration, node: fn(&Scenario, u64) -> Tally) -> usize {
    let mut all: Vec<Duration> =
        (0..NODES).flat_map(|n| node(scenario, n).submissions).filter(|at| *at >= from).collect();
    all.sort_unstable();
    let within =
        |first: &Duration| all.partition_point(|at| *at < *first + 10 * SECOND) - all.partition_point(|at| at < first);
    all.iter().map(within).max().unwrap_or(0)
}

/// A problem of other programs: after an outage all clients return at the same time.
/// <https://github.com/istio/ztunnel/issues/334>, <https://github.com/smallstep/certificates/issues/350>. client-go
/// retries every 32 s without jitter. perennial's nodes return spread, although all of them started at the same time
/// and have spent their budgets.
#[test]
fn nodes_started_together_submit_spread_after_outage() {
    let down = Scenario::new("down").with_span(8 * HOUR).at(ZERO, Happening::Api(Api::Down));
    let scenario = down.at(6 * HOUR, Happening::Api(Api::Up));
    let (ours, theirs) = (peak(&scenario, 6 * HOUR, default), peak(&scenario, 6 * HOUR, client_go));
    println!(
        "{NODES} nodes that began together, 6 h without an API, the most submissions in 10 s afterwards: {ours}, client-go {theirs}"
    );
    assert!(ours <= NODES as usize / 4 && ours < theirs / 2, "{ours}, client-go {theirs}");
}

/// During the outage, the certificates of the nodes become due one after another. After the outage, the submissions are
/// spread, too.
#[test]
fn nodes_that_became_due_apart_submit_spread_after_outage() {
    let down = Scenario::new("down")
        .with_certificate_of_age(14 * HOUR)
        .with_span(9 * HOUR)
        .at(ZERO, Happening::Api(Api::Down));
    let scenario = down.at(8 * HOUR, Happening::Api(Api::Up));
    let (ours, theirs) = (peak(&scenario, 8 * HOUR, default), peak(&scenario, 8 * HOUR, client_go));
    println!("{NODES} nodes, 8 h without an API, the most submissions in 10 s afterwards: {ours}, client-go {theirs}");
    assert!(ours <= NODES as usize / 5 && ours < theirs, "{ours}, client-go {theirs}");
}

/// Certificates that were issued in the same second are rotated at points spread over a fifth of the lifetime:
/// <https://github.com/istio/istio/pull/52102>. Jitter applies to each certificate, not just to some:
/// <https://github.com/istio/istio/pull/52638>
#[test]
fn certificates_issued_in_one_second_rotate_over_a_fifth_of_lifetime() {
    let scenario = Scenario::new("born").with_certificate_of_age(ZERO);
    let mut points: Vec<Duration> = (0..NODES).flat_map(|n| default(&scenario, n).submissions).collect();
    points.sort_unstable();
    assert_eq!(points.len(), NODES as usize);
    let (first, last) = (points[0], points[points.len() - 1]);
    assert!(last - first > 4 * HOUR, "from {first:?} to {last:?}");
    let peak = peak(&scenario, ZERO, default);
    println!("{NODES} nodes born in the same second, the most rotations in 10 s: {peak}");
    assert!(peak <= 3, "{peak}");
}
