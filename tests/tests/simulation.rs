//! The simulator of fleets: its results are the same at each run, count every submission, and agree with the slower
//! simulations of these tests.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Policy, Setup, Template};
use perennial_simulation::{Outage, OutageKind, Program, Report, Scenario, Start, simulate};
use perennial_tests::simulation::field::{self, Api, Happening, run_scenario};
use perennial_tests::simulation::fleet::Fleet;
use perennial_tests::simulation::world::{Answer, Flaw, Issue};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

fn programs() -> [(&'static str, Program); 3] {
    [
        ("default", Program::Perennial(Arc::new(Policy::default()))),
        ("kubelet", Program::Perennial(Arc::new(Policy::kubelet()))),
        ("client-go", Program::ClientGo),
    ]
}

/// A fleet to which everything happens that a scenario can describe.
fn hostile(program: Program, seed: u64) -> Scenario {
    let outage = |from, lasts, kind| Outage { from, lasts, kind };
    Scenario {
        program,
        start: Start::Within(HOUR),
        approver_delay: 10 * MINUTE,
        denied: 0.05,
        outages: vec![
            outage(20 * MINUTE, 10 * MINUTE, OutageKind::Refused),
            outage(3 * DAY, 30 * HOUR, OutageKind::Undecided),
            outage(5 * DAY, 6 * HOUR, OutageKind::Unavailable { retry_after: 30 * SECOND }),
            outage(6 * DAY, 6 * HOUR, OutageKind::Refused),
        ],
        restarts: vec![30 * MINUTE, 3 * DAY + 12 * HOUR, 6 * DAY + HOUR],
        seed,
        ..Scenario::new(50, DAY, 8 * DAY)
    }
}

fn run(scenario: &Scenario) -> Report {
    simulate(scenario, |_| ())
}

#[test]
fn equal_scenarios_have_equal_reports() {
    for (name, program) in programs() {
        let report = run(&hostile(program.clone(), 7));
        assert_eq!(report, run(&hostile(program.clone(), 7)), "{name}");
        assert_ne!(report.submissions, run(&hostile(program, 8)).submissions, "{name}: another seed");
    }
}

#[test]
fn every_submission_is_answered_or_lost() {
    for (name, program) in programs() {
        let report = run(&hostile(program, 1));
        let totals = report.totals;
        let answered = totals.issued + totals.denied + totals.deleted;
        let lost = totals.unreachable + totals.throttled + totals.abandoned;
        assert_eq!(totals.submissions, answered + lost + totals.open, "{name}: {totals:?}");
        assert_eq!(report.submissions.total(), totals.submissions, "{name}");
        assert_eq!(totals.issued, totals.first_certificates + totals.rotations, "{name}: each certificate is used");
        assert_eq!(report.ages.iter().sum::<u64>(), totals.rotations, "{name}");
        for (what, number) in [
            ("issued", totals.issued),
            ("denied", totals.denied),
            ("unreachable", totals.unreachable),
            ("throttled", totals.throttled),
            ("abandoned", totals.abandoned),
        ] {
            assert!(number > 0, "{name}: the scenario has no submission that ended as {what}: {totals:?}");
        }
        assert!(report.requests.total() > totals.submissions, "{name}: watches count");
        assert!(totals.objects <= totals.submissions - totals.unreachable - totals.throttled, "{name}");
    }
}

/// The promise of `Policy::submissions_within`, for each node of a hostile fleet and spans of any length.
#[test]
fn node_submits_no_more_than_its_budget() {
    for policy in [Policy::default(), Policy::kubelet(), Policy::for_lifetime(HOUR)] {
        for seed in 0..10 {
            let scenario = hostile(Program::Perennial(Arc::new(policy.clone())), seed);
            let report = run(&Scenario { nodes: 1, lifetime: if seed % 2 == 0 { DAY } else { HOUR }, ..scenario });
            // The submissions before each second.
            let mut before = vec![0];
            before.extend(report.submissions.iter().scan(0, |sum, submissions| {
                *sum += submissions;
                Some(*sum)
            }));
            for span in [1, 10, 60, 600, 3600, 86_400] {
                let most = before.windows(span + 1).map(|window| window[span] - window[0]).max().unwrap();
                let allowed = policy.submissions_within(Duration::from_secs(span as u64));
                assert!(most <= allowed, "seed {seed}: {most} submissions in {span} s, allowed are {allowed}");
            }
        }
    }
}

/// The submissions in each second of a fleet of [`World`](perennial_tests::simulation::world::World)s, whose nodes
/// have the names of the simulator's.
fn of_worlds(scenario: &Scenario, policy: &Policy) -> Vec<u64> {
    let policy = Arc::new(policy.clone());
    let node = |number: usize| {
        let template = Template::node(&format!("worker-{}-{number}", scenario.seed));
        let seed = perennial::seed(SIGNER, template.common_name());
        Setup { policy: policy.clone(), seed, template: Some(Arc::new(template)), ..Setup::default() }
    };
    let issue = Issue { life: scenario.lifetime, backdate: scenario.backdate, flaw: Flaw::None };
    let healthy = Answer::issue(issue).after(scenario.signer_latency);
    let mut fleet = Fleet::new(scenario.nodes as usize, node, scenario.lifetime);
    fleet.each(|_, world| world.habit = healthy.clone());
    let mut now = Duration::ZERO;
    for outage in &scenario.outages {
        assert!(fleet.run_for(outage.from - now - Duration::from_millis(1), 10_000_000));
        fleet.each(|_, world| world.habit = Answer::fail(Failure::Unreachable));
        assert!(fleet.run_for(outage.lasts, 10_000_000));
        fleet.each(|_, world| world.habit = healthy.clone());
        now = outage.from + outage.lasts - Duration::from_millis(1);
    }
    assert!(fleet.run_for(scenario.span - now - Duration::from_millis(1), 10_000_000));
    let seconds = usize::try_from(scenario.span.as_secs()).unwrap();
    let mut submissions = vec![0; seconds];
    for at in fleet.submissions() {
        submissions[usize::try_from(at.as_millis() / 1000).unwrap()] += 1;
    }
    submissions
}

#[test]
fn simulated_machines_submit_when_machines_in_worlds_do() {
    for policy in [Policy::default(), Policy::kubelet()] {
        let outage = Outage { from: 17 * HOUR, lasts: 3 * HOUR, kind: OutageKind::Refused };
        let scenario = Scenario {
            program: Program::Perennial(Arc::new(policy.clone())),
            start: Start::Within(Duration::ZERO),
            outages: vec![outage],
            seed: 3,
            ..Scenario::new(30, DAY, 3 * DAY)
        };
        let report = run(&scenario);
        assert!(report.totals.unreachable > 30, "{:?}", report.totals);
        assert_eq!(report.submissions.iter().collect::<Vec<_>>(), of_worlds(&scenario, &policy));
    }
}

#[test]
fn simulated_client_go_submits_when_client_go_in_the_field_does() {
    for seed in 0..20 {
        let scenario = Scenario {
            program: Program::ClientGo,
            start: Start::Within(Duration::ZERO),
            outages: vec![Outage { from: 17 * HOUR, lasts: 3 * HOUR, kind: OutageKind::Refused }],
            seed,
            ..Scenario::new(1, DAY, 3 * DAY)
        };
        let template = Template::node(&format!("worker-{seed}-0"));
        let slow = field::Scenario::new("outage")
            .with_template(Some(template.clone()))
            .with_span(3 * DAY)
            .at(17 * HOUR, Happening::Api(Api::Down))
            .at(20 * HOUR, Happening::Api(Api::Up));
        let seed = perennial::seed(SIGNER, template.common_name());
        let tally = run_scenario(&slow, seed, field::client_go);
        let mut expected = vec![0; 3 * 86_400];
        tally.submissions.iter().for_each(|at| expected[usize::try_from(at.as_secs()).unwrap()] += 1);
        let report = run(&scenario);
        assert_eq!(report.submissions.iter().collect::<Vec<_>>(), expected, "{template:?}");
        assert_eq!(report.totals.without, tally.without, "{template:?}");
    }
}

#[test]
fn outage_longer_than_a_tenth_of_the_lifetime_costs_certificates() {
    for (name, program) in programs() {
        let outage = |lasts| Outage { from: 2 * DAY, lasts, kind: OutageKind::Refused };
        let scenario = |lasts| Scenario {
            program: program.clone(),
            outages: vec![outage(lasts)],
            ..Scenario::new(500, DAY, 4 * DAY)
        };
        assert_eq!(run(&scenario(2 * HOUR)).totals.expiries, 0, "{name}");
        let report = run(&scenario(6 * HOUR));
        assert!(report.totals.expiries > 20 && report.totals.expiries < 250, "{name}: {:?}", report.totals);
        assert!(report.totals.longest_without < 4 * HOUR, "{name}: {:?}", report.totals);
        let (minute, most) = report.without.peak();
        assert_eq!(most, report.totals.expiries, "{name}: all at the end of the outage");
        assert!((2 * 1440 + 144..2 * 1440 + 361).contains(&minute), "{name}: {minute}");
        assert!(report.without.iter().last() == Some(0), "{name}: all nodes recover");
    }
}

/// A person who approves after an hour: perennial waits with one object, client-go makes a new object every 15
/// minutes and misses the certificate of each.
#[test]
fn slow_approver_leaves_objects_of_client_go_only() {
    let [default, _, client_go] = programs()
        .map(|(_, program)| run(&Scenario { program, approver_delay: HOUR, ..Scenario::new(200, DAY, 4 * DAY) }));
    assert_eq!(default.totals.objects, default.totals.issued + default.totals.open + pending(&default));
    assert_eq!(default.totals.expiries, 0);
    assert_eq!(client_go.totals.issued, 0, "{:?}", client_go.totals);
    assert!(client_go.totals.expiries >= 200 && client_go.objects.peak().1 > 10 * default.objects.peak().1);
}

/// Objects that nodes will find again: at most one a node.
fn pending(report: &Report) -> u64 {
    let pending = report.totals.objects - report.totals.issued - report.totals.open;
    assert!(pending <= 200, "{pending}");
    pending
}
