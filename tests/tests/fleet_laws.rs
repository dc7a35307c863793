//! Checks the laws of fleets, and every law of machines for each member, on random hostile lives of a fleet.

use std::time::Duration;

use perennial::{Checkpoint, Event, Instant, RotationMachine, SignerStatus};
use perennial_tests::fleet::FleetScript;
use perennial_tests::laws;
use perennial_tests::model::check_rules;
use perennial_tests::script::{LifeStep, bytes, scripts};
use perennial_tests::subject::Duties;
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

/// Both clocks jump to any time.
#[test]
fn fleet_never_panics_whatever_the_events_and_clocks() {
    let config = Config { failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&bytes(60), |mut bytes| {
        // The byte of the header that makes a life wild.
        bytes[6] = 255;
        let script = FleetScript::decode(&bytes);
        prop_assert!(script.script.life.wild);
        prop_assert_eq!(script.run(), Ok(vec![]));
        Ok(())
    });
    if let Err(broken) = outcome {
        panic!("{broken}");
    }
}

/// The only difference is the deadline, which for a member of a fleet contains no check of the clocks.
#[test]
fn machine_whose_turns_come_at_once_acts_like_one_of_its_own() {
    let config = Config { failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&scripts(40), |mut script| {
        script.steps.retain(|step| *step != LifeStep::Signer(SignerStatus::Shared));
        for run in &script.run().runs {
            let mut member = RotationMachine::restore(shared(&run.first));
            for record in &run.records {
                let event = match record.event.clone() {
                    Event::SignerChanged(SignerStatus::Ready) => Event::SignerChanged(SignerStatus::Shared),
                    event => event,
                };
                let mut duties = Duties::from(member.handle(event, record.now));
                if member.checkpoint().queued {
                    let turn = Duties::from(member.handle(Event::TurnGranted, record.now));
                    // At the end of the monotonic clock no wait can be planned, so that each step repeats the write.
                    let is_last = record.now.instant.after(Duration::from_secs(60)) == Instant::from_millis(u64::MAX);
                    prop_assert!(turn.submit.is_some() && (turn.write.is_none() || is_last));
                    duties = Duties { submit: turn.submit, cancel: duties.cancel.or(turn.cancel), ..duties };
                }
                let alone = Duties::from(record.actions.clone());
                prop_assert_eq!(
                    (duties.cancel, duties.write, duties.submit),
                    (alone.cancel, alone.write, alone.submit)
                );
                let deadline = record.after.deadline();
                prop_assert!(member.deadline().is_none_or(|at| deadline.is_some_and(|alone| alone <= at)));
                prop_assert_eq!(Checkpoint { deadline, ..member.checkpoint() }, shared(&record.after));
            }
        }
        Ok(())
    });
    if let Err(broken) = outcome {
        panic!("{broken}");
    }
}

/// The state of a machine, with a shared signer instead of one of its own.
fn shared(machine: &RotationMachine) -> Checkpoint {
    let signer = if machine.signer().is_ready() { SignerStatus::Shared } else { machine.signer() };
    Checkpoint { signer, ..machine.checkpoint() }
}
