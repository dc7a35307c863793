//! Policies. Their constructors reject values out of range, and their methods compute bounds, such as the longest
//! backoff.

use perennial::{Backoff, Budget, Failure, Policy, PolicyError, State, Window};

use perennial_tests::simulation::Member as _;
use perennial_tests::simulation::world::{Answer, World};

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn policy_values_out_of_range_are_rejected() {
    let spread = Window::new(0, 1000).unwrap();
    assert_eq!(Window::new(900, 700), Err(PolicyError::Window { from: 900, to: 700 }));
    assert!(Backoff::new(Duration::ZERO, SECOND, spread).is_err());
    assert!(Backoff::new(MINUTE, SECOND, spread).is_err());
    assert!(Budget::new(1, MINUTE).is_err());
    assert!(Budget::new(10, Duration::ZERO).is_err());
    let message = Budget::new(1, MINUTE).unwrap_err().to_string();
    assert!(message.contains("at least two requests"), "{message}");
}

#[test]
fn budget_that_never_fills_is_rejected() {
    assert!(Budget::new(2, Duration::MAX).is_err());
    assert!(Budget::new(10, Duration::from_secs(10 * 365 * 86_400)).is_ok());
}

#[test]
fn submissions_within_an_hour_are_at_most_50_by_default() {
    let policy = Policy::default();
    assert_eq!(policy.submissions_within(Duration::ZERO), 1);
    assert_eq!(policy.submissions_within(SECOND), 2);
    assert_eq!(policy.submissions_within(MINUTE), 10);
    assert_eq!(policy.submissions_within(HOUR), 50);
    assert_eq!(Policy::kubelet().submissions_within(HOUR), 130);
}

#[test]
fn shortest_lifetime_is_129_s_by_default_and_43_s_for_kubelet() {
    assert_eq!(Policy::default().shortest_lifetime(), Duration::from_millis(128_572));
    assert_eq!(Policy::kubelet().shortest_lifetime(), Duration::from_millis(42_858));
}

#[test]
fn policy_for_lifetime_suits_the_lifetime_and_is_default_from_five_hours() {
    for millis in (2..1_000).chain((1_000..20_000_000).step_by(9_973)) {
        let (lifetime, policy) = (MILLISECOND * millis, Policy::for_lifetime(MILLISECOND * millis));
        assert!(policy.shortest_lifetime() <= lifetime, "{lifetime:?}: {policy}");
        assert!(policy.transient.first() <= policy.transient.cap() && policy.refused.first() <= policy.refused.cap());
        assert_eq!(policy == Policy::default(), lifetime >= HOUR * 5, "{lifetime:?}: {policy}");
    }
    // No lifetime is too short or too long to have a policy.
    assert_eq!(Policy::for_lifetime(Duration::ZERO).request_timeout, MILLISECOND);
    assert_eq!(Policy::for_lifetime(Duration::MAX), Policy::default());
}

/// How long there is no valid certificate between the first certificate and the end of the first hour, if certificates
/// have the lifetime `life` and every second request is lost.
fn uncovered(policy: Policy, life: Duration) -> Duration {
    let template = Some(Arc::new(node()));
    let mut world = World::new(Setup { policy: Arc::new(policy), template, ..Setup::default() }, life);
    let healthy = Answer::healthy(life).after(life / 100);
    let (mut uncovered, mut last) = (Duration::ZERO, world.now());
    while world.now().instant < Instant::from_millis(3_600_000) {
        if world.next_answers.is_empty() {
            world.next_answers.extend([healthy.clone(), Answer::lose()]);
        }
        let end = world.machine.certificate().map(|held| held.validity.not_after());
        world.step();
        // Nothing changes between two steps but the time.
        uncovered += end.map_or(Duration::ZERO, |end| world.now().unix.since(end.max(last.unix)));
        last = world.now();
    }
    uncovered
}

#[test]
fn policy_for_lifetime_rotates_in_time_if_every_second_request_is_lost() {
    for life in [SECOND * 4, MINUTE, MINUTE * 10, HOUR] {
        assert_eq!(uncovered(Policy::for_lifetime(life), life), Duration::ZERO, "{life:?}");
    }
    assert!(uncovered(Policy::default(), SECOND * 4) > MINUTE * 30, "as a policy for them is needed");
}

/// If each request is denied, client-go makes 5 attempts in the first 30 s, then one every 32 s. Under the kubelet
/// policy, the machine must do so for an hour, and the budget must delay no attempt.
#[test]
fn kubelet_policy_is_never_delayed_by_its_budget() {
    let mut holder = under(Policy::kubelet(), None);
    let mut made = 0;
    while holder.now.instant < Instant::from_millis(3_600_000) {
        let request = holder.next_request();
        made += 1;
        holder.fail(request.id, Failure::Denied);
        let state = holder.machine.state();
        let State::BackingOff { until, .. } = state else { panic!("{state}") };
        let wait = holder.time_to_request();
        assert_eq!(request.at.after(wait), until, "after attempt {made}");
    }
    assert_eq!(made, 5 + (3600 - 30) / 32 + 1);
}

#[test]
fn longest_backoff_includes_spread_and_beat() {
    let backoff = |from, to| Backoff::new(MILLISECOND, MINUTE, Window::new(from, to).unwrap()).unwrap();
    assert!((MINUTE - MILLISECOND..=MINUTE).contains(&backoff(0, 1000).longest()));
    assert!((MINUTE * 11 / 10 - MILLISECOND..=MINUTE * 11 / 10).contains(&backoff(1000, 1100).longest()));
    assert_eq!(backoff(0, 500).with_beat().longest(), MINUTE);
    assert!((MINUTE / 2 - MILLISECOND..=MINUTE / 2).contains(&backoff(0, 500).longest()));
    assert!(backoff(1000, 1100).with_beat().longest() > MINUTE);
}

#[test]
fn longest_backoff_saturates() {
    let backoff = Backoff::new(MILLISECOND, Duration::MAX, Window::new(1100, 1200).unwrap()).unwrap();
    assert_eq!(backoff.longest(), Duration::from_millis(u64::MAX));
}

#[test]
fn window_returns_its_bounds() {
    let window = Window::new(700, 900).unwrap();
    assert_eq!((window.from(), window.to()), (700, 900));
}

#[test]
fn window_past_the_lifetime_puts_rotation_at_expiry() {
    let policy = Policy { window: Window::new(1100, 1200).unwrap(), ..Policy::default() };
    let mut holder = under(policy, Some(fresh(DAY)));
    assert_eq!(holder.next_request().at, Instant::from_millis(0).after(DAY));
    assert!(holder.serves(&fresh(DAY)));
}
