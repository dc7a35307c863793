//! Checks the laws of fleets, and every law of machines for each member, on random hostile lives of a fleet.

use perennial_tests::fleet::FleetScript;
use perennial_tests::laws;
use perennial_tests::model::check_rules;
use perennial_tests::script::bytes;
use perennial_tests::trace::Trace;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Checks random lives of a fleet, `times` as many as a law of machines has cases.
fn lives(times: u32, check: impl Fn(&FleetScript, Vec<Trace>) -> Result<(), String>) {
    let usual = Config::default();
    let config = Config { cases: times * usual.cases, max_shrink_iters: 4096, failure_persistence: None, ..usual };
    let outcome = TestRunner::new(config).run(&bytes(60), |bytes| {
        let script = FleetScript::decode(&bytes);
        let checked = script.run().and_then(|traces| check(&script, traces));
        checked.map_err(|broken| TestCaseError::fail(format!("{broken}\n{script:?}")))
    });
    if let Err(broken) = outcome {
        panic!("{broken}");
    }
}

/// The cap, the budget of the fleet, the order of the queue, patience, withheld turns, checks of the clocks, and late
/// replies to members that were removed.
#[test]
fn fleet_keeps_its_laws_in_hostile_lives() {
    lives(12, |_, _| Ok(()));
}

#[test]
fn every_member_keeps_the_laws_of_machines() {
    lives(1, |_, traces| {
        traces.iter().try_for_each(|trace| laws::check(trace).map_err(|how| format!("{how}\n{trace}")))
    });
}

#[test]
fn every_member_agrees_with_the_model() {
    lives(2, |_, traces| {
        traces.iter().try_for_each(|trace| check_rules(trace).map_err(|how| format!("{how}\n{trace}")))
    });
}

#[test]
fn second_run_of_a_fleet_has_the_same_traces() {
    lives(1, |script, traces| if script.run()? == traces { Ok(()) } else { Err("the second run differs".into()) });
}
