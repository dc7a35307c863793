//! The machine and the model of its rules agree at every step of random hostile scripts.

use perennial::{Backoff, Window};
use perennial_tests::model::check_rules;
use perennial_tests::script::{LifeStep, Script, scripts};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Compares the machine with the model on random scripts, as many as the laws are checked on, each changed by `change`.
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
fn machine_agrees_with_model() {
    agree(|_| ());
}

/// Without jitter the model allows each action at a single millisecond, not in an interval.
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
