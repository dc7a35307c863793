//! Model checking: explores the states of the shipped machine in small worlds, and checks the laws in each state.
//!
//! `cargo test --profile proof -p perennial-tests --test model_check -- --nocapture` prints a table of worlds and a
//! summary. All worlds but the last are explored completely, which shows that no run in those worlds, however long,
//! breaks a law. A debug build explores only the nearest states of each world. With `PERENNIAL_CHECK=full` certificates
//! live twice as long, and the last world is explored one step deeper, for which 16 GB of memory are needed.

use std::time::Instant;

use perennial::{Fleet, RotationMachine};
use perennial_tests::check::broken::{self, Broken, Fault};
use perennial_tests::check::broken_fleets::{self, BrokenFleet, FleetFault};
use perennial_tests::check::{
    Counterexample, FleetSetting, Setting, check_keys, fleet_moves, fleet_settings, search, search_fleets, settings,
};

/// Changes the size of a setting: certificates live twice as long with `PERENNIAL_CHECK=full`, and a debug build
/// explores at most 15 000 states.
fn sized(setting: Setting) -> Setting {
    match std::env::var("PERENNIAL_CHECK").as_deref() {
        Ok("full") => Setting { life: setting.life * 2, most: setting.most.saturating_mul(8), ..setting },
        // Without optimisation every state costs ten times as much.
        _ if cfg!(debug_assertions) => Setting { most: setting.most.min(15_000), ..setting },
        _ => setting,
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn no_state_of_a_small_world_breaks_a_law() {
    let (mut states, mut depth, mut violations) = (0, 0, Vec::new());
    println!("{:12} {:>10} {:>11} {:>6} {:>8}  gone through", "world", "states", "steps", "depth", "seconds");
    for setting in settings().into_iter().map(sized) {
        let began = Instant::now();
        let found = search::<RotationMachine>(&setting, threads());
        let extent = if found.closed { "completely" } else { "in part" };
        let seconds = began.elapsed().as_secs_f32();
        println!("{setting:12} {:>10} {:>11} {:>6} {seconds:>8.1}  {extent}", found.states, found.steps, found.depth);
        (states, depth) = (states + found.states, depth.max(found.depth));
        let never = setting.moves.iter().zip(&found.taken).find(|(_, taken)| **taken == 0);
        assert_eq!(never, None, "in {setting} something never happens");
        assert!(found.closed || setting.most < usize::MAX, "{setting} has an end");
        violations.extend(found.broken);
    }
    println!("unique states: {states} depth: {depth} violations: {}", violations.len());
    assert!(violations.is_empty(), "{}", violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"));
}

/// Checks that two states of the model checker with equal keys behave alike, so that exploring one of them is enough.
#[test]
fn states_with_equal_keys_behave_alike() {
    let most = if cfg!(debug_assertions) { 2_000 } else { 20_000 };
    for setting in settings() {
        let compared = check_keys::<RotationMachine>(&setting, most).unwrap_or_else(|broken| panic!("{broken}"));
        assert!(compared > most / 2, "in {setting} only {compared} pairs were compared");
    }
}

/// The shortest counterexample that the model checker finds for the fault `F`, in the setting with the name `world`.
fn found<F: Fault>(world: &str) -> Counterexample {
    let setting = settings().into_iter().find(|setting| setting.name == world).expect("there is such a world");
    search::<Broken<F>>(&setting, threads()).broken.expect("the fault is found")
}

#[test]
fn model_checker_finds_a_counterexample_for_each_broken_machine() {
    let cases = [
        (found::<broken::OmitsCancel>("replies"), "the machine has none in flight, the driver #1"),
        (found::<broken::SubmitsTwice>("templates"), "a second request is submitted while one is in flight"),
        (found::<broken::Overspends>("templates"), "a request is submitted with a budget of"),
        (found::<broken::AcceptsAnyReply>("replies"), "is stale, but is not ignored"),
        (found::<broken::TakesAnyFoundCertificate>("the store"), "which is not valid yet, displaces"),
        (found::<broken::ServesAnyName>("replies"), "a certificate of another common name is taken"),
        (found::<broken::OmitsTimer>("replies"), "the timer is set to"),
        (found::<broken::LosesPendingRecord>("kubelet"), "after the last one"),
        (
            found::<broken::ForgetsFailedWrite>("replies"),
            "the driver owes the write #1, but the machine reports unwritten as false",
        ),
        (found::<broken::IgnoresTicksAfterRefusal>("replies"), "the deadline after a Tick at the deadline"),
        (found::<broken::WaitsTooLong>("replies"), "no request is submitted"),
        (found::<broken::RefillsOnPolicyChange>("policies"), "a request is submitted with a budget of"),
        (found::<broken::HidesFailures>("replies"), "the first outcome does not fit the event"),
    ];
    for (counterexample, expected) in cases {
        assert!(counterexample.law.contains(expected), "not \"{expected}\":\n{counterexample}");
    }
}

/// The snapshot is the transcript of a counterexample.
#[test]
fn counterexample_is_shown_as_transcript() {
    let counterexample = found::<broken::LosesPendingRecord>("kubelet").to_string();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "snapshots" }, {
        insta::assert_snapshot!(counterexample);
    });
}

/// Explores a fleet of three members that share a signer.
#[test]
fn no_state_of_a_fleet_of_three_breaks_a_law() {
    let most = if cfg!(debug_assertions) { 3_000 } else { 200_000 };
    for setting in fleet_settings() {
        let found = search_fleets::<Fleet>(&FleetSetting { most, ..setting.clone() });
        println!("fleet, {}: {} states, {} steps, depth {}", setting.name, found.states, found.steps, found.depth);
        assert!(found.broken.is_none(), "{}", found.broken.expect("a law is broken"));
        let never = fleet_moves().into_iter().zip(&found.taken).find(|(_, taken)| **taken == 0);
        assert_eq!(never, None, "in the world \"{}\" something never happens", setting.name);
    }
}

/// The shortest path to a broken law of a fleet with the fault `F`, in the world of this name.
fn found_in_fleet<F: FleetFault>(world: &str) -> Counterexample {
    let setting = fleet_settings().into_iter().find(|setting| setting.name == world).expect("there is such a world");
    search_fleets::<BrokenFleet<F>>(&FleetSetting { most: 20_000, ..setting }).broken.expect("the fault is found")
}

#[test]
fn model_checker_finds_a_counterexample_for_each_broken_fleet() {
    use broken_fleets::{
        IgnoresBudget, IgnoresExpiry, IgnoresLimit, IgnoresWallClock, MissesDeadlines, MixesMembers,
        SubmitsWithoutTurn, WithholdsTurns,
    };
    let cases = [
        (found_in_fleet::<IgnoresLimit>("one at a time"), "requests are in flight, the limit is 1"),
        (found_in_fleet::<IgnoresBudget>("budget"), "without a token in the budget of the fleet"),
        (found_in_fleet::<IgnoresExpiry>("one at a time"), "goes before"),
        (found_in_fleet::<IgnoresWallClock>("one at a time"), "the wall clock has moved by 5s"),
        (found_in_fleet::<MissesDeadlines>("one at a time"), "a Tick for"),
        (found_in_fleet::<MixesMembers>("one at a time"), "the reply to a removed member"),
        (found_in_fleet::<SubmitsWithoutTurn>("one at a time"), "a request is submitted that was not queued"),
        (found_in_fleet::<WithholdsTurns>("budget"), "a turn is withheld"),
    ];
    for (counterexample, expected) in cases {
        assert!(counterexample.law.contains(expected), "not \"{expected}\":\n{counterexample}");
    }
}
