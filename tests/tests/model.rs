//! The machine and the model of its rules agree at every step of random hostile scripts.

use std::time::Duration;

use perennial::{Backoff, Budget, Failure, Policy, Template, Window};
use perennial_tests::model::check_rules;
use perennial_tests::script::{Life, LifeStep, Script, scripts};
use perennial_tests::simulation::world::Answer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Lets `change` change each of many random scripts, and checks that machine and model agree in every step. There are
/// as many scripts as for a law.
fn agree(change: fn(&mut Script)) {
    let usual = Config::default();
    let config = Config { cases: 6 * usual.cases, max_shrink_iters: 4096, failure_persistence: None, ..usual };
    let outcome = TestRunner::new(config).run(&scripts(40), |mut script| {
        change(&mut script);
        let trace = script.run();
        if trace.wild {
            return Ok(());
        }
        check_rules(&trace).map_err(|broken| TestCaseError::fail(format!("{broken}\n{trace}")))
    });
    if let Err(broken) = outcome {
        panic!("{broken}");
    }
}

#[test]
fn machine_agrees_with_model_on_random_scripts() {
    agree(|_| ());
}

/// Without jitter, the model allows each action at one millisecond only. With jitter, it allows the action in an
/// interval.
#[test]
fn machine_agrees_with_model_to_the_millisecond_without_jitter() {
    agree(|script| {
        let later = script.steps.iter_mut().filter_map(|step| match step {
            LifeStep::Policy(policy) => Some(&mut **policy),
            _ => None,
        });
        for policy in std::iter::once(&mut script.life.policy).chain(later) {
            for backoff in [&mut policy.transient, &mut policy.refused, &mut policy.write] {
                let middle = backoff.spread().from().midpoint(backoff.spread().to());
                let spread = Window::new(middle, middle).expect("in order");
                let steady = Backoff::new(backoff.first(), backoff.cap(), spread).expect("as it was");
                *backoff = if backoff.keeps_beat() { steady.with_beat() } else { steady };
            }
        }
    });
}

/// The wall clock steps ahead, the process restarts, and then the spacing changes. By the wall clock, the last
/// submission may lie before the zero of the monotonic clock, and the restarted machine must still compute with its
/// time. In half of the cases the budget is two requests, and is spent.
#[test]
fn machine_agrees_with_model_when_spacing_changes_after_restart() {
    let spans = [1, 2_000, 7_999, 9_000, 60_000];
    let ways = spans.iter().flat_map(|since| spans.iter().flat_map(move |one| spans.map(|two| (*since, *one, two))));
    for ((since, one, two), size) in ways.flat_map(|way| [2, 10].map(|size| (way, size))) {
        let millis = Duration::from_millis;
        let spaced = |spacing: u64| Policy {
            spacing: millis(spacing),
            budget: Budget::new(size, Duration::from_secs(3600)).expect("in range"),
            transient: Backoff::new(millis(1), millis(1), Window::new(0, 1).expect("in order")).expect("in range"),
            ..Policy::default()
        };
        let life = Life {
            policy: spaced(1),
            seed: 0,
            lifetime: Duration::from_secs(86_400),
            certificate: None,
            template: Some(Template::node("worker-1")),
            drift: 0,
            wild: false,
        };
        let [first, one, two] = [8_000, one, two].map(|spacing| LifeStep::Policy(Box::new(spaced(spacing))));
        let steps = vec![
            LifeStep::Habit(Answer::fail(Failure::Unreachable)),
            LifeStep::Run(4),
            first,
            LifeStep::WallClock(since as i64),
            LifeStep::Restart,
            one,
            two,
            LifeStep::Restart,
            LifeStep::Run(4),
        ];
        let trace = Script { life, steps }.run();
        check_rules(&trace).unwrap_or_else(|broken| panic!("{broken}\n{trace}"));
    }
}
