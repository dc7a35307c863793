//! Checks that the oracle, our port of client-go's certificate manager, acts as client-go's code does.

use std::time::Duration;

use perennial::Template;
use perennial_tests::simulation::field::{self, Api, Conduct, End, Happening, Scenario, Tally, run_scenario};

const ZERO: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const SEEDS: std::ops::RangeInclusive<u64> = 1..=6;

fn client_go(scenario: &Scenario, seed: u64) -> Tally {
    run_scenario(scenario, seed, field::client_go)
}

fn named(names: &[&str]) -> Template {
    Template::node("worker-1").with_dns_names(names.iter().copied())
}

fn denied() -> Scenario {
    Scenario::new("denied").at(ZERO, Happening::Requests(Conduct::Denies))
}

fn ignored() -> Scenario {
    Scenario::new("ignored").at(ZERO, Happening::Requests(Conduct::Ignores))
}

#[test]
fn client_go_makes_five_quick_attempts_then_one_every_32_s() {
    for n in SEEDS {
        let at = client_go(&denied(), n).submissions;
        let waits: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (wait, base) in waits.iter().zip([2, 4, 8, 16]) {
            assert!((base * SECOND..=base * SECOND * 11 / 10).contains(wait), "{wait:?}, not {base} s");
        }
        assert!(waits[4..].iter().all(|wait| *wait == 32 * SECOND));
        let in_an_hour = at.iter().filter(|at| (10 * HOUR..11 * HOUR).contains(*at)).count();
        assert!((112..=113).contains(&in_an_hour), "{in_an_hour}");
        assert!((2_700..=2_705).contains(&at.len()), "{} in a day", at.len());
    }
}

#[test]
fn client_go_leaves_an_undecided_object_per_attempt() {
    for n in SEEDS {
        let tally = client_go(&ignored(), n);
        assert_eq!(tally.objects, tally.submissions.len());
        assert!((93..=94).contains(&tally.objects), "{}", tally.objects);
        assert!(tally.most >= 90, "{}", tally.most);
        // 15 min are no multiple of 32 s, and ticks during an attempt are lost: 29 of them.
        let waits: Vec<_> = tally.submissions.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(waits[4], 15 * MINUTE + 32 * SECOND);
        assert!(waits[5..].iter().all(|wait| *wait == 928 * SECOND), "{waits:?}");
    }
}

#[test]
fn client_go_submits_every_second_if_signer_omits_a_name() {
    let trims = Conduct::Signs { after: ZERO, trims: true };
    let scenario = Scenario::new("trims").with_template(Some(named(&["a", "b"]))).at(ZERO, Happening::Requests(trims));
    let tally = client_go(&scenario, 1);
    assert_eq!((tally.submissions.len(), tally.end), (86_400, End::Unsatisfying));
    assert!(tally.submissions.windows(2).all(|pair| pair[1] - pair[0] == SECOND));
}

#[test]
fn client_go_rotates_between_70_and_90_percent_of_lifetime() {
    let mut points = Vec::new();
    for n in 0..50 {
        let tally = client_go(&Scenario::new("rotates").with_certificate_of_age(ZERO), n);
        // The lifetime is 24 h and 5 min, from 5 min before the start.
        let share = (tally.submissions[0] + 5 * MINUTE).as_secs_f64() / (24.0 * 3600.0 + 300.0);
        assert!((0.7..0.9).contains(&share), "{share}");
        assert!(tally.without.is_zero());
        points.push(share);
    }
    assert!(points.iter().any(|share| *share < 0.74) && points.iter().any(|share| *share > 0.86), "{points:?}");
}

#[test]
fn client_go_start_keeps_valid_and_replaces_expired_certificate() {
    let valid = Scenario::new("valid").with_certificate_of_age(HOUR).with_span(HOUR);
    assert!(client_go(&valid, 1).submissions.is_empty());
    let expired = Scenario::new("expired").with_certificate_of_age(25 * HOUR).with_span(HOUR);
    assert_eq!(client_go(&expired, 1).submissions, [ZERO]);
}

/// At the first change of the template, client-go cancels the request in flight and, after a backoff, submits a request
/// for the new template. Its watcher of the template then blocks on a channel. client-go therefore notices the second
/// change only after the request for the first change has timed out, 15 minutes later.
#[test]
fn client_go_notices_second_template_change_only_after_request_timeout() {
    let changes = [5, 6].map(|minute| (minute * MINUTE, Happening::Wants(Some(named(&[&format!("at-{minute}")])))));
    let scenario = changes.into_iter().fold(ignored().with_span(30 * MINUTE), |s, (at, what)| s.at(at, what));
    let at = client_go(&scenario, 1).submissions;
    assert_eq!(at[0], ZERO);
    assert!((5 * MINUTE + 2 * SECOND..5 * MINUTE + 4 * SECOND).contains(&at[1]), "{:?}", at[1]);
    assert!((20 * MINUTE + 6 * SECOND..20 * MINUTE + 9 * SECOND).contains(&at[2]), "{:?}", at[2]);
}

#[test]
fn client_go_notices_first_template_within_a_second() {
    let scenario = Scenario::new("none").with_template(None).with_span(HOUR);
    assert!(client_go(&scenario, 1).submissions.is_empty());
    let comes = scenario.at(10 * MINUTE, Happening::Wants(Some(named(&["a"]))));
    let at = client_go(&comes, 1).submissions;
    assert!(at.len() == 1 && at[0] <= 10 * MINUTE + SECOND, "{at:?}");
}

#[test]
fn client_go_requests_changed_template_within_two_seconds() {
    let scenario = Scenario::new("name").with_certificate_of_age(HOUR).with_span(HOUR);
    let at = client_go(&scenario.at(10 * MINUTE, Happening::Wants(Some(named(&["a"])))), 1).submissions;
    assert!(at.len() == 1 && at[0] <= 10 * MINUTE + 2 * SECOND, "{at:?}");
}

#[test]
fn client_go_timer_stands_still_in_suspend() {
    let scenario = Scenario::new("asleep").with_certificate_of_age(ZERO).with_span(72 * HOUR);
    let awake = client_go(&scenario, 1).submissions[0];
    let slept = client_go(&scenario.at(HOUR, Happening::Suspend(30 * HOUR)), 1);
    assert_eq!(slept.submissions[0], awake + 30 * HOUR, "the deadline was drawn before, and is not computed again");
    assert!(slept.without > 15 * HOUR, "expired since long: {:?}", slept.without);
}

#[test]
fn client_go_restart_forgets_key_and_submits_again() {
    let scenario = ignored().with_span(HOUR).at(10 * MINUTE, Happening::Restart { remembers: true });
    let tally = client_go(&scenario, 1);
    assert_eq!(tally.submissions[1], 10 * MINUTE);
    assert_eq!(tally.objects, tally.submissions.len());
}

/// client-go's REST client repeats a request up to ten times, each time after the `Retry-After` of the answer.
#[test]
fn client_go_repeats_request_ten_times_after_retry_after() {
    let scenario = Scenario::new("throttled").with_span(HOUR).at(ZERO, Happening::Api(Api::Throttles(MINUTE)));
    let at = client_go(&scenario, 1).submissions;
    let waits: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[..10].iter().all(|wait| *wait == MINUTE), "{waits:?}");
    assert!((2 * SECOND..3 * SECOND + MINUTE).contains(&waits[10]), "{waits:?}");
}

#[test]
fn client_go_requests_within_32_s_after_long_outage() {
    let down = Scenario::new("down").with_span(DAY / 3).at(ZERO, Happening::Api(Api::Down));
    for n in SEEDS {
        let tally = client_go(&down.clone().at(6 * HOUR, Happening::Api(Api::Up)), n);
        let last = *tally.submissions.last().unwrap();
        assert!((6 * HOUR..6 * HOUR + 32 * SECOND).contains(&last), "{last:?}");
        assert_eq!(tally.objects, 1);
        assert!((675..=680).contains(&tally.submissions.len()), "{}", tally.submissions.len());
    }
}
