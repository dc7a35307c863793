//! Scenarios with faults from the field. Each runs under the default policy, under [`Policy::kubelet`], and with
//! client-go. The results are the load on the control plane, and the time in which the node has no valid certificate. A
//! scenario names the issue threads that it comes from.
//!
//! `cargo test --profile proof -p perennial-tests --test load -- --nocapture` prints the table of results. To accept a
//! new table after a change of behaviour: `INSTA_UPDATE=always`, then read the difference.

mod approvals;
mod bootstraps;
mod clocks;
mod denials;
mod herds;
mod outages;
mod signers;
mod templates;

use std::sync::LazyLock;
use std::time::Duration;

use perennial::{Policy, Template};
use perennial_tests::simulation::field::{self, End, Happening, Perennial, Scenario, Tally, run_scenario};

const ZERO: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Each scenario runs once with each of these seeds. The printed table shows the results of the first seed.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;

/// The longest time from the end of an outage to the next request: one backoff, and the refill of one token of the
/// budget.
fn outage() -> Duration {
    Policy::default().transient.longest() + Policy::default().budget.refill()
}

/// The longest time from a refusal to the next request: one backoff.
fn refusal() -> Duration {
    Policy::default().refused.longest()
}

/// A reason for which a scenario allows the default policy more time without a certificate than client-go has.
const SPREAD: &str = "jitter spreads nodes that waited together";
const REFUSED: &str = "a refused request is submitted again after minutes, then after an hour";

/// Scenarios in which the default policy submits more requests than client-go, and the reason.
const SUBMITS_MORE: [(&str, &str); 7] = [
    ("clock 6 h behind", "client-go rotates by its clock: six hours late, after expiry"),
    ("clock 6 h ahead", "both rotate six hours early; jitter decides the number of rotations"),
    ("asleep from 1 h to 22 h 30 min", "client-go sleeps on, past expiry"),
    ("asleep from 1 h to 31 h", "client-go sleeps on, past expiry"),
    ("address flaps, signer slower", "client-go delays each request by its backoff, but makes a new object each time"),
    ("bootstrap credential, restarted meanwhile", "client-go keeps the bootstrap credential"),
    ("bootstrap credential, template 1 min later", "client-go keeps the bootstrap credential"),
];

fn scenarios() -> Vec<Scenario> {
    let families = [
        approvals::scenarios(),
        denials::scenarios(),
        outages::scenarios(),
        signers::scenarios(),
        clocks::scenarios(),
        templates::scenarios(),
        bootstraps::scenarios(),
    ];
    families.concat()
}

/// The seed of the `n`th node, computed from its common name as for a real node.
fn seed(n: u64) -> u64 {
    perennial::seed("kubernetes.io/kubelet-serving", &format!("system:node:worker-{n}"))
}

fn default(scenario: &Scenario, n: u64) -> Tally {
    run_scenario(scenario, seed(n), Perennial::begin(Policy::default()))
}

fn kubelet(scenario: &Scenario, n: u64) -> Tally {
    run_scenario(scenario, seed(n), Perennial::begin(Policy::kubelet()))
}

fn client_go(scenario: &Scenario, n: u64) -> Tally {
    run_scenario(scenario, seed(n), field::client_go)
}

fn named(names: &[&str]) -> Template {
    Template::node("worker-1").with_dns_names(names.iter().copied())
}

/// Adds a happening to the scenario at each multiple of `period` before `span`: first `what(0)`, then `what(1)`, and so
/// on.
fn every(period: Duration, span: Duration, scenario: Scenario, what: impl Fn(u32) -> Happening) -> Scenario {
    let times = (1..).map(|i| period * i).take_while(|at| *at < span);
    times.zip(0..).fold(scenario, |scenario, (at, i)| scenario.at(at, what(i)))
}

/// A scenario, and its results for each of [`SEEDS`].
struct ScenarioResults {
    scenario: Scenario,
    tallies: Vec<Tallies>,
}

struct Tallies {
    default: Tally,
    kubelet: Tally,
    client_go: Tally,
}

static ALL: LazyLock<Vec<ScenarioResults>> = LazyLock::new(|| {
    let run_all = |scenario: Scenario| {
        let tallies = SEEDS.map(|n| Tallies {
            default: default(&scenario, n),
            kubelet: kubelet(&scenario, n),
            client_go: client_go(&scenario, n),
        });
        ScenarioResults { tallies: tallies.collect(), scenario }
    };
    scenarios().into_iter().map(run_all).collect()
});

#[test]
fn load_of_each_scenario_equals_the_snapshot() {
    let mut table = String::from(HEAD);
    for ScenarioResults { scenario, tallies } in ALL.iter() {
        let Tallies { default, kubelet, client_go } = &tallies[0];
        let cells = [default, kubelet, client_go].map(cells).join(" || ");
        table += &format!("| {:<44} | {:>4} || {cells} |\n", scenario.name, span(scenario.span));
    }
    println!("{table}");
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("load", table);
    });
}

const HEAD: &str = "\
Sent: submissions. Made: request objects. Most: request objects in the cluster at one time. Without: time awake
without a valid certificate. End: the certificate at the end; `lacks`: valid, without a name that is wanted; `boot`: the
bootstrap credential.

|                                              |      || Policy::default()                       || Policy::kubelet()                       || client-go                               |
| scenario                                     | span || sent  | made  | most | without   | end   || sent  | made  | most | without   | end   || sent  | made  | most | without   | end   |
|----------------------------------------------|------||-------|-------|------|-----------|-------||-------|-------|------|-----------|-------||-------|-------|------|-----------|-------|
";

fn cells(tally: &Tally) -> String {
    let end = match tally.end {
        End::Good => "good",
        End::Unsatisfying => "lacks",
        End::Bootstrap => "boot",
        End::None => "none",
    };
    let Tally { submissions, objects, most, without, .. } = tally;
    format!("{:>5} | {objects:>5} | {most:>4} | {:>9} | {end:<5}", submissions.len(), span(*without))
}

/// A duration in hours, minutes and seconds, without parts that are zero; `-` for no time.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let text = units
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .fold(String::new(), |text, (n, unit)| format!("{text}{n}{unit}"));
    if text.is_empty() { "-".into() } else { text }
}

/// Checks that the submissions of no span of time exceed the budget. A span may contain restarts that keep the pending
/// record, but none that loses it.
#[test]
fn default_policy_stays_within_its_submission_budget() {
    let policy = Policy::default();
    for ScenarioResults { scenario, tallies } in ALL.iter() {
        let forgets = |(at, what): &(Duration, Happening)| match what {
            Happening::Restart { remembers: false } => Some(*at),
            _ => None,
        };
        let lives: Vec<Duration> = scenario.events.iter().filter_map(forgets).collect();
        let life = |at: Duration| lives.partition_point(|restart| *restart <= at);
        for Tallies { default, .. } in tallies {
            for chain in default.submissions.chunk_by(|a, b| life(*a) == life(*b)) {
                for (i, first) in chain.iter().enumerate() {
                    for (made, last) in (1..).zip(&chain[i..]) {
                        let most = policy.submissions_within(*last - *first);
                        assert!(made <= most, "{}: {made} from {first:?} to {last:?}, not {most}", scenario.name);
                    }
                }
            }
        }
    }
}

/// Under the default policy, the time without a certificate exceeds client-go's by no more than the scenario concedes.
/// A scenario that needs no concession must not make one.
#[test]
fn time_without_certificate_exceeds_client_gos_at_most_as_conceded() {
    for ScenarioResults { scenario, tallies } in ALL.iter() {
        let (most, why) = scenario.concedes;
        for Tallies { default: Tally { without: ours, .. }, client_go: Tally { without: theirs, .. }, .. } in tallies {
            assert!(*ours <= *theirs + most, "{}: {ours:?}, client-go {theirs:?} ({why})", scenario.name);
        }
        let needed = tallies.iter().any(|tallies| tallies.default.without > tallies.client_go.without);
        assert!(needed || most.is_zero(), "{}: {most:?} are conceded for nothing", scenario.name);
    }
}

/// The extra time that a scenario concedes is at most one wait. The wait after an outage is a backoff, the refill of a
/// token and a `Retry-After`; the wait after a refusal is a backoff. No scenario ends with a worse certificate than
/// with client-go.
#[test]
fn no_scenario_concedes_more_than_one_wait_without_certificate() {
    let retry_after = MINUTE;
    for ScenarioResults { scenario, tallies } in ALL.iter() {
        let one_wait = if scenario.concedes.1 == SPREAD { outage() + retry_after } else { refusal() };
        assert!(scenario.concedes.0 <= one_wait, "{}", scenario.name);
        for Tallies { default, client_go, .. } in tallies {
            assert!(
                default.end <= client_go.end,
                "{}: {:?}, client-go {:?}",
                scenario.name,
                default.end,
                client_go.end
            );
        }
    }
}

/// The default policy makes no more submissions and objects than client-go, except in [`SUBMITS_MORE`].
#[test]
fn default_policy_submits_no_more_than_client_go_except_where_listed() {
    for ScenarioResults { scenario, tallies } in ALL.iter() {
        let sum = |cost: fn(&Tallies) -> usize| tallies.iter().map(cost).sum::<usize>();
        let asked = (sum(|all| all.default.submissions.len()), sum(|all| all.client_go.submissions.len()));
        let made = (sum(|all| all.default.objects), sum(|all| all.client_go.objects));
        if let Some((name, why)) = SUBMITS_MORE.iter().find(|(name, _)| *name == scenario.name) {
            assert!(asked.0 > asked.1, "{name}: {asked:?}: no more that {why}");
            continue;
        }
        // Rotation points are random, so that the sums differ a little.
        for (ours, theirs) in [asked, made] {
            assert!(ours <= theirs + theirs / 50, "{}: {ours}, client-go {theirs}", scenario.name);
        }
    }
}

/// With client-go's timing (`Policy::kubelet`), perennial submits as many requests as client-go, although perennial and
/// the port of client-go share no code.
#[test]
fn kubelet_policy_submits_as_often_as_client_go() {
    for name in ["never approved", "denied", "API down for 6 h", "API up after 5 min", "lifetimes of 10 min"] {
        let results = ALL.iter().find(|results| results.scenario.name == name).expect("it is in the table");
        for Tallies { kubelet, client_go, .. } in &results.tallies {
            let (ours, theirs) = (kubelet.submissions.len(), client_go.submissions.len());
            assert!(ours.abs_diff(theirs) <= 1 + theirs / 50, "{name}: {ours}, client-go {theirs}");
        }
    }
}

/// In these scenarios, client-go takes the bootstrap credential for the node's own certificate, and keeps it. perennial
/// never does so, and replaces the bootstrap credential.
#[test]
fn bootstrap_credential_is_replaced_unlike_in_client_go() {
    for name in ["bootstrap credential, restarted meanwhile", "bootstrap credential, template 1 min later"] {
        let results = ALL.iter().find(|results| results.scenario.name == name).expect("it is in the table");
        for Tallies { default, kubelet, client_go } in &results.tallies {
            assert_eq!([default.end, kubelet.end, client_go.end], [End::Good, End::Good, End::Bootstrap], "{name}");
        }
    }
}

/// Under the default policy, each scenario ends with a good certificate if the cluster works at its end.
#[test]
fn default_policy_ends_with_good_certificate_once_cluster_works() {
    for ScenarioResults { scenario, tallies } in ALL.iter() {
        let expected = match scenario.name {
            "signer drops a SAN" => End::Unsatisfying,
            "never approved" | "denied" | "denied, restarted each minute" | "denied, restarted with no record" => {
                End::None
            }
            _ => End::Good,
        };
        assert!(tallies.iter().all(|tallies| tallies.default.end == expected), "{}", scenario.name);
    }
}
