//! Checks every law on random hostile lives.

use perennial::RotationMachine;
use perennial_tests::laws::{Law, Verdict};
use perennial_tests::script::scripts;
use perennial_tests::trace::Trace;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Lives of up to this many steps, each of up to 32 events.
const STEPS: usize = 40;

/// Checks a law on six times the usual number of lives (`PROPTEST_CASES`, 256 if not set): they are short.
fn holds(law: &Law<RotationMachine>, even_if_wild: bool) {
    let usual = Config::default();
    let config = Config { cases: 6 * usual.cases, max_shrink_iters: 4096, failure_persistence: None, ..usual };
    let outcome = TestRunner::new(config).run(&scripts(STEPS), |script| {
        let trace = script.run();
        if trace.wild && !even_if_wild {
            return Ok(());
        }
        law.check(&trace).map_err(|broken| TestCaseError::fail(format!("{broken}\n{trace}")))
    });
    if let Err(broken) = outcome {
        panic!("{broken}");
    }
}

macro_rules! laws {
    ($list:ident, $even_if_wild:expr, $every_one_is_tested:ident: $($law:ident,)*) => {
        $(#[test]
        fn $law() {
            let named = |name: &str| name.to_lowercase().replace(' ', "_") == stringify!($law);
            let (_, law) = Law::$list.iter().find(|(name, _)| named(name)).expect("there is such a law");
            holds(law, $even_if_wild);
        })*

        #[test]
        fn $every_one_is_tested() {
            let tested = [$(stringify!($law)),*].map(|name| name.replace('_', " "));
            assert_eq!(Law::<RotationMachine>::$list.iter().map(|(name, _)| name.to_lowercase()).collect::<Vec<_>>(), tested);
        }
    };
}

laws! {
    ALWAYS, true, every_law_that_always_holds_is_tested:
    stale_replies_change_nothing,
    at_most_one_request_is_out,
    every_request_is_closed_once,
    nothing_is_asked_without_a_template_and_a_signer,
    keys_are_kept_or_changed,
    the_timer_is_the_deadline,
    a_clone_stays_equal,
    a_valid_certificate_is_never_given_up,
    only_the_wanted_party_is_served,
    no_start_serves_another_party,
    nothing_early_displaces_a_valid_certificate,
    what_is_issued_is_written_at_once,
    what_is_written_is_held,
    what_is_not_durable_is_owed,
    what_is_served_is_stored_or_written,
    what_was_decided_is_said,
}

laws! {
    MONOTONIC, false, every_law_of_monotonic_clocks_is_tested:
    the_budget_holds,
    requests_keep_their_distance,
    churn_never_spends_the_last_token,
    an_early_tick_changes_nothing,
    a_tick_makes_progress,
    a_tick_at_the_deadline_makes_progress,
    lost_replies_are_survived,
    many_ticks_are_one_tick,
    setting_the_clock_back_delays_nothing,
    the_servers_clock_delays_nothing_and_expires_nothing,
    every_issued_certificate_gets_written,
    no_wait_reaches_past_expiry,
    what_waits_takes_its_turn,
    a_restart_goes_on,
    a_signer_that_answers_is_enough,
    a_healthy_signer_is_enough,
}

/// Law 1: any bytes decode to a life, which runs to its end without a panic and repeatably, whatever the clocks do.
#[test]
fn machine_never_panics_in_any_life() {
    let config = Config { failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(any::<u8>(), 0..600), |bytes| {
        let mut script = perennial_tests::script::Script::decode(&bytes);
        script.life.wild = true;
        prop_assert_eq!(script.run(), script.run());
        Ok(())
    });
    if let Err(broken) = outcome {
        panic!("{broken}");
    }
}

/// `Actions` shows exactly the actions that it yields, and is empty exactly if it yields none.
#[test]
fn actions_debug_lists_every_action() {
    fn shown(trace: &Trace) -> Verdict {
        for (_, record) in trace.steps() {
            let all: Vec<_> = record.actions.clone().collect();
            if record.actions.is_empty() != all.is_empty() || format!("{:?}", record.actions) != format!("{all:?}") {
                return Err(format!("{:?} is not {all:?}", record.actions));
            }
        }
        Ok(())
    }
    holds(&Law::Trace(shown), true);
}
