//! Many machines at once: each keeps every law, and together they are no crowd.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Setup, Template};
use perennial_tests::fleet::{Fleet, worst};
use perennial_tests::laws;
use perennial_tests::world::{Answer, World};

const HOUR: Duration = Duration::from_secs(3600);
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

fn node(i: usize) -> Setup {
    let template = Template::node(&format!("worker-{i}"));
    let seed = perennial::seed(SIGNER, template.common_name());
    Setup { seed, template: Some(Arc::new(template)), ..Setup::default() }
}

fn has_a_certificate(world: &World) -> bool {
    world.machine.certificate_at(world.now.unix).is_some()
}

fn lawful(fleet: &Fleet) {
    for world in fleet.worlds() {
        for (name, law) in laws::ALWAYS.iter().chain(laws::MONOTONIC) {
            law(&world.trace).unwrap_or_else(|broken| panic!("{name}: {broken}"));
        }
    }
}

#[test]
fn a_thousand_certificates_issued_in_the_same_second_are_renewed_all_over_the_window() {
    let mut fleet = Fleet::new(1000, node, HOUR);
    assert!(fleet.run_for(Duration::from_secs(1), 10_000));
    let first = fleet.submissions().len();
    assert_eq!(first, 1000, "nobody waits for a first certificate");
    assert!(fleet.run_for(HOUR - Duration::from_secs(2), 200_000));
    let renewals = &fleet.submissions()[first..];
    assert_eq!(renewals.len(), 1000);
    // 20 % of an hour: 72 spans of ten seconds, so fourteen renewals in each if they were spread evenly.
    let worst = worst(renewals, Duration::from_secs(10));
    println!("renewals: {} worst ten seconds: {worst}", renewals.len());
    assert!((14..=40).contains(&worst), "{worst}");
    assert!(fleet.worlds().iter().all(has_a_certificate));
    lawful(&fleet);
}

#[test]
fn an_outage_of_hours_ends_without_a_crowd_and_without_a_certificate_lost() {
    let life = 24 * HOUR;
    let mut fleet = Fleet::new(300, node, life);
    // Into the window, so that a good part of them is due.
    assert!(fleet.run_for(18 * HOUR, 1_000_000));
    fleet.each(|world| world.habit = Answer::fail(Failure::Unreachable));
    assert!(fleet.run_for(4 * HOUR, 1_000_000));
    let before = fleet.submissions().len();
    fleet.each(|world| world.habit = Answer::healthy(life));
    assert!(fleet.run_for(Duration::from_secs(150), 1_000_000));
    let back = &fleet.submissions()[before..];
    let worst = worst(back, Duration::from_secs(10));
    println!("came back: {} worst ten seconds: {worst}", back.len());
    // All of them are back in two minutes: a tenth of that time is not for half of them.
    assert!(back.len() > 100 && worst * 4 < back.len(), "{worst} of {}", back.len());
    assert!(fleet.worlds().iter().all(has_a_certificate));
    lawful(&fleet);
}
