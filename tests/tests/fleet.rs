//! Many machines that share the time. Each machine keeps every law, and the submissions of the machines are spread.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Event, Failure, Setup, Template};
use perennial_tests::laws;
use perennial_tests::script::{LifeStep, Script, bytes};
use perennial_tests::simulation::Member as _;
use perennial_tests::simulation::fleet::{Fleet, worst};
use perennial_tests::simulation::world::{Answer, World};
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

fn node(i: usize) -> Setup {
    let template = Template::node(&format!("worker-{i}"));
    let seed = perennial::seed(SIGNER, template.common_name());
    Setup { seed, template: Some(Arc::new(template)), ..Setup::default() }
}

fn has_a_certificate(world: &World) -> bool {
    world.machine.certificate_at(world.now().unix).is_some()
}

fn lawful(fleet: &Fleet) {
    for world in fleet.worlds() {
        laws::check(&world.trace).unwrap_or_else(|broken| panic!("{broken}"));
    }
}

#[test]
fn certificates_issued_in_one_second_rotate_spread_over_the_window() {
    let mut fleet = Fleet::new(1000, node, HOUR);
    assert!(fleet.run_for(Duration::from_secs(1), 10_000));
    let first = fleet.submissions().len();
    assert_eq!(first, 1000, "first certificates are requested at once");
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
fn fleet_submits_spread_after_outage_and_loses_no_certificate() {
    let life = 24 * HOUR;
    let mut fleet = Fleet::new(300, node, life);
    // Run into the rotation window, so that many certificates are due.
    assert!(fleet.run_for(18 * HOUR, 1_000_000));
    fleet.each(|_, world| world.habit = Answer::fail(Failure::Unreachable));
    assert!(fleet.run_for(4 * HOUR, 1_000_000));
    let before = fleet.submissions().len();
    fleet.each(|_, world| world.habit = Answer::healthy(life));
    assert!(fleet.run_for(Duration::from_secs(150), 1_000_000));
    let back = &fleet.submissions()[before..];
    let worst = worst(back, Duration::from_secs(10));
    println!("came back: {} worst ten seconds: {worst}", back.len());
    // All nodes return within two minutes: fewer than a quarter of them in any ten seconds.
    assert!(back.len() > 100 && worst * 4 < back.len(), "{worst} of {}", back.len());
    assert!(fleet.worlds().iter().all(has_a_certificate));
    lawful(&fleet);
}

#[test]
fn fleet_run_ends_all_worlds_at_the_same_instant() {
    let mut fleet = Fleet::new(2, node, 24 * HOUR);
    assert!(fleet.run_for(Duration::from_secs(1), 100));
    let planned = |fleet: &Fleet| fleet.worlds().iter().map(|world| world.next_at().unwrap()).collect::<Vec<_>>();
    let next = planned(&fleet);
    let (first, later) = if next[0] < next[1] { (0, 1) } else { (1, 0) };
    assert!(next[first] < next[later], "the worlds check their clocks at different times");
    fleet.each(|i, world| {
        if i == first {
            world.handle(Event::TemplateChanged(None));
        }
    });
    let end = next[first];
    let span = end.since(fleet.worlds()[0].now().instant);
    assert!(fleet.run_for(span, 100));
    assert!(fleet.worlds().iter().all(|world| world.now().instant == end), "all worlds are at {end}");
    assert_eq!(fleet.worlds()[later].next_at(), Some(next[later]), "a later step has not happened yet");
}

/// True if the step takes no virtual time. Only such a step can happen to one world of a fleet, since the worlds share
/// the time.
fn happens_at_once(step: &LifeStep) -> bool {
    !matches!(step, LifeStep::Run(_) | LifeStep::Pass(_) | LifeStep::JumpMonotonic(_) | LifeStep::JumpWallClock(_))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Each machine of a fleet follows a random hostile script. Its transcript must be the one that the machine has
    /// outside of the fleet, and it must keep every law.
    #[test]
    fn fleet_member_behaves_as_if_alone(lives in prop::collection::vec(bytes(24), 1..6)) {
        let scripts: Vec<Script> = lives.iter().map(|bytes| Script::decode(bytes)).collect();
        let begin = || scripts.iter().map(|script| script.life.begin()).collect::<Vec<_>>();
        let rounds = scripts.iter().map(|script| script.steps.len()).max().unwrap_or(0);
        let happens = |round: usize, i: usize, world: &mut World| {
            if let Some(step) = scripts[i].steps.get(round).filter(|step| happens_at_once(step)) {
                scripts[i].life.apply(world, step);
            }
        };
        let beat = |round: usize| Duration::from_millis(7 << (round % 12));
        let (mut fleet, mut alone) = (Fleet::of(begin()), begin());
        let mut end = perennial::Instant::default();
        for round in 0..rounds {
            end = end.after(beat(round));
            fleet.each(|i, world| happens(round, i, world));
            prop_assert!(fleet.run_for(beat(round), 100_000));
            for (i, world) in alone.iter_mut().enumerate() {
                happens(round, i, world);
                prop_assert!(world.run_for(beat(round), 100_000));
            }
            prop_assert!(fleet.worlds().iter().all(|world| world.now().instant == end));
        }
        for (together, alone) in fleet.worlds().iter().zip(&alone) {
            prop_assert_eq!(together.transcript(), alone.transcript());
            laws::check(&together.trace).map_err(|broken| TestCaseError::fail(format!("{broken}\n{}", together.trace)))?;
        }
    }
}
