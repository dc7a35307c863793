//! Checks every law on random hostile scripts.

use std::time::Duration;

use perennial::{Backoff, Budget, Policy, RotationMachine, SignerStatus, Template, Window};
use perennial_tests::laws::{Law, Verdict};
use perennial_tests::script::{Life, LifeStep, Script, scripts};
use perennial_tests::simulation::world::{Flaw, Issue};
use perennial_tests::trace::Trace;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// The greatest number of steps of a random script. A step has up to 32 events.
const STEPS: usize = 40;

/// Checks a law on random scripts. Their number is six times `PROPTEST_CASES`, or six times 256 if that is not set,
/// since scripts are short. A run in which the monotonic clock jumps is checked only if `even_if_wild`.
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
    at_most_one_request_is_in_flight,
    every_request_ends_once,
    no_request_without_template_and_signer,
    retries_reuse_the_key_until_an_answer,
    the_timer_equals_the_deadline,
    a_clone_stays_equal,
    a_valid_certificate_is_never_replaced_by_a_worse_one,
    no_certificate_of_another_name_is_taken,
    no_start_serves_another_name,
    no_early_certificate_displaces_a_valid_one,
    issued_certificates_are_written_at_once,
    only_current_certificates_are_written,
    unwritten_certificates_have_an_owed_write,
    the_served_certificate_is_stored_or_rewritten,
    hints_move_the_rotation_point,
    outcomes_report_every_change,
}

laws! {
    MONOTONIC, false, every_law_of_monotonic_clocks_is_tested:
    the_budget_holds,
    submissions_keep_the_spacing,
    normal_requests_leave_the_last_token_of_the_budget_to_urgent_ones,
    an_early_tick_changes_nothing,
    a_tick_makes_progress,
    a_tick_at_the_deadline_makes_progress,
    lost_replies_lead_to_another_request,
    many_ticks_are_one_tick,
    clock_set_back_delays_nothing,
    the_servers_clock_neither_delays_nor_expires_anything,
    owed_writes_are_repeated,
    no_wait_reaches_past_expiry,
    waiting_certificates_are_served_from_not_before,
    a_restart_continues,
    an_answering_signer_leads_to_a_good_certificate,
    a_healthy_signer_keeps_rotation_in_the_window,
}

/// Law 1: any bytes decode to a script. The script runs to its end without a panic, whatever the clocks do, and a
/// second run has the same trace.
#[test]
fn machine_never_panics_whatever_the_events_and_clocks() {
    let config = Config { failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(any::<u8>(), 0..600), |bytes| {
        let mut script = Script::decode(&bytes);
        script.life.wild = true;
        prop_assert_eq!(script.run(), script.run());
        Ok(())
    });
    if let Err(broken) = outcome {
        panic!("{broken}");
    }
}

/// The `Debug` text of `Actions` lists exactly the actions that its iterator yields; `is_empty` is true exactly if
/// there are none.
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

/// A life with short waits and a served certificate of 16 seconds, which is due within this window.
fn short_life(window: Window) -> Life {
    let millis = Duration::from_millis;
    let backoff = Backoff::new(millis(4), millis(4), Window::new(0, 1000).unwrap()).unwrap();
    let policy = Policy {
        window,
        request_timeout: millis(64),
        spacing: millis(4),
        budget: Budget::new(7, millis(32)).unwrap(),
        transient: backoff,
        refused: backoff,
        max_sleep: millis(16),
        ..Policy::default()
    };
    Life {
        policy,
        seed: 0,
        lifetime: Duration::from_secs(16),
        certificate: Some(Flaw::None),
        template: Some(Template::node("worker-1")),
        drift: 0,
        wild: false,
    }
}

/// Checks every law on these steps of a [`short_life`], which lead to a waiting certificate.
fn every_law_holds(window: Window, steps: Vec<LifeStep>) {
    let trace = Script { life: short_life(window), steps }.run();
    let mut machines = trace.steps().map(|(_, step)| &step.after);
    assert!(machines.any(|machine| machine.waiting().is_some()), "{trace}");
    for (name, law) in Law::ALWAYS.iter().chain(Law::MONOTONIC) {
        law.check(&trace).unwrap_or_else(|broken| panic!("{name}: {broken}\n{trace}"));
    }
}

/// A waiting certificate that expires while the loop sleeps leaves a served one that is not due: nothing has to be
/// requested.
#[test]
fn lost_replies_need_no_request_after_waiting_certificate_has_expired() {
    let early = Issue { life: Duration::from_secs(4), backdate: Duration::from_secs(2), flaw: Flaw::Early };
    let steps = [LifeStep::Replaced(early), LifeStep::Pass(Duration::from_millis(8_100))];
    let late = Window::new(700, 800).unwrap();
    every_law_holds(late, [&[LifeStep::Run(1)], &steps[..], &[LifeStep::Signer(SignerStatus::Ready)]].concat());
}

/// A waiting certificate whose rotation point comes with its notBefore is then due like the served one, which lives
/// longer: the served one stays.
#[test]
fn waiting_certificate_that_is_due_at_its_start_need_not_be_served() {
    let early = Issue { life: Duration::from_millis(3), backdate: Duration::ZERO, flaw: Flaw::Early };
    // A fifth of three milliseconds is no whole millisecond.
    let soon = Window::new(100, 200).unwrap();
    every_law_holds(soon, vec![LifeStep::Run(1), LifeStep::Pass(Duration::from_secs(4)), LifeStep::Replaced(early)]);
}

/// A waiting certificate that has all names, but is due from its start on, does not displace a served one that lacks a
/// name and lives longer.
#[test]
fn waiting_certificate_with_less_fault_and_shorter_life_need_not_be_served() {
    let early = Issue { life: Duration::from_millis(3), backdate: Duration::ZERO, flaw: Flaw::Early };
    let template = Template::node("worker-1").with_dns_names(["a.example"]);
    let soon = Window::new(100, 200).unwrap();
    every_law_holds(soon, vec![LifeStep::Run(1), LifeStep::Template(Some(template)), LifeStep::Replaced(early)]);
}
