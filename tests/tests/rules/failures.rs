//! How long to wait after a failure (rule 5).

use perennial::{Event, Failure, Policy, State};

use super::*;

/// The waits after so many failures of this kind in a row, each reported at once.
fn waits(policy: Policy, failure: Failure, count: usize) -> Vec<Duration> {
    let mut holder = under(policy, None);
    (0..count)
        .map(|_| {
            let asked = holder.ask();
            holder.fail(asked.id, failure);
            let State::BackingOff { until, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
            until.since(asked.at)
        })
        .collect()
}

#[test]
fn a_refusal_is_asked_again_after_minutes_then_after_an_hour() {
    let waits = waits(Policy::default(), Failure::Denied, 8);
    for (i, wait) in waits.iter().enumerate() {
        let base = (5 * MINUTE * (1 << i)).min(HOUR);
        assert!((base / 2..=base).contains(wait), "{i}: {wait:?} of {base:?}");
    }
}

#[test]
fn an_outage_is_tried_again_after_seconds_then_after_minutes() {
    let mut holder = under(Policy { spacing: Duration::ZERO, ..Policy::default() }, None);
    let mut longest = Duration::ZERO;
    for i in 0..40 {
        let asked = holder.ask();
        holder.fail(asked.id, Failure::Unreachable);
        let wait = holder.machine.deadline().map_or(Duration::ZERO, |_| holder.waits());
        // Once the budget is spent: from when it has a token again.
        let base = (SECOND * (1 << i.min(10))).min(2 * MINUTE) + if i < 9 { Duration::ZERO } else { 90 * SECOND };
        assert!(wait <= base, "{i}: {wait:?} of {base:?}");
        longest = longest.max(wait);
    }
    assert!(longest > 2 * MINUTE);
}

/// client-go: attempts after 2, 4, 8 and 16 s (each up to 10 % longer), then every 32 s.
#[test]
fn the_kubelet_policy_waits_as_client_go_does() {
    for failure in [Failure::Unreachable, Failure::Denied] {
        let waits = waits(Policy::kubelet(), failure, 9);
        for (wait, base) in waits.iter().zip([2, 4, 8, 16]) {
            assert!((base * SECOND..=base * SECOND * 11 / 10).contains(wait), "{wait:?}, not {base} s");
        }
        assert_eq!(waits[4..], [32 * SECOND; 5]);
    }
}

/// client-go's `PollInfinite` keeps a beat: an attempt of 15 min is followed by one 928 s after it began, not 932.
#[test]
fn the_kubelet_policy_keeps_the_beat() {
    let mut holder = under(Policy::kubelet(), None);
    let begins: Vec<_> = holder.watch(3 * HOUR).iter().map(|asked| asked.at).collect();
    let periods: Vec<_> = begins.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert_eq!(periods[4], 932 * SECOND, "the first beat is counted from the fifth failure");
    assert!(periods[5..].iter().all(|period| *period == 928 * SECOND), "{periods:?}");
}

#[test]
fn retry_after_is_honoured_with_jitter_on_top_but_not_for_ever() {
    let mut distinct = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let mut holder = Holder::new(Setup { seed, ..setup(None) });
        let asked = holder.ask();
        let retry_after = Some(MINUTE);
        holder.handle(Event::CsrFailed { id: asked.id, failure: Failure::Throttled, retry_after });
        assert!((MINUTE..=MINUTE + SECOND).contains(&holder.waits()));
        distinct.insert(holder.waits());
    }
    assert!(distinct.len() > 15, "a crowd sent away together does not come back together");

    let (mut holder, asked) = Holder::asking();
    holder.handle(Event::CsrFailed { id: asked.id, failure: Failure::Throttled, retry_after: Some(Duration::MAX) });
    assert!(holder.waits() <= Policy::default().refused.cap() + SECOND);
}

#[test]
fn no_wait_is_so_long_that_the_certificate_expires_without_another_attempt() {
    for failure in [Failure::Denied, Failure::Unreachable, Failure::Throttled] {
        let mut holder = Holder::with(Some(fresh(10 * MINUTE)));
        let asked = holder.ask();
        let retry_after = Some(HOUR);
        holder.handle(Event::CsrFailed { id: asked.id, failure, retry_after });
        let asked = holder.ask();
        assert!(holder.serves(&fresh(10 * MINUTE)), "{failure}: asked again at {}", asked.at);
    }
}

#[test]
fn another_kind_of_failure_starts_over() {
    let (mut holder, mut asked) = Holder::asking();
    for _ in 0..3 {
        holder.fail(asked.id, Failure::Denied);
        asked = holder.ask();
    }
    holder.fail(asked.id, Failure::Unreachable);
    let State::BackingOff { failures, last, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
    assert_eq!((failures, last), (1, Failure::Unreachable));
}

#[test]
fn a_success_is_a_clean_slate() {
    let (mut holder, asked) = Holder::asking();
    holder.fail(asked.id, Failure::Denied);
    let asked = holder.ask();
    holder.issue(asked.id, &issued(&node(), 1, Duration::from_millis(asked.at.as_millis()), DAY));
    assert_eq!(holder.machine.last_failure(), None);
}

#[test]
fn somebody_who_asks_and_a_signer_that_comes_end_the_wait() {
    let asked = [Event::RotateNow];
    let came = [Event::SignerChanged { configured: false }, Event::SignerChanged { configured: true }];
    for events in [&asked[..], &came[..]] {
        let (mut holder, asked) = Holder::asking();
        holder.fail(asked.id, Failure::Denied);
        holder.pass(SECOND);
        let last = events.iter().map(|event| holder.handle(event.clone())).last();
        assert!(last.is_some_and(|actions| submitted(&actions).is_some()), "{events:?}");
    }
}

#[test]
fn a_request_without_an_answer_times_out() {
    let (mut holder, asked) = Holder::asking();
    holder.pass(Policy::default().request_timeout);
    assert_eq!(cancelled(&holder.tick()), Some(asked.id));
    assert_eq!(holder.machine.last_failure(), Some(Failure::TimedOut));
}

#[test]
fn each_failure_is_told_apart_for_people() {
    let (holder, asked) = Holder::asking();
    let all = [
        Failure::Denied,
        Failure::SignerFailed,
        Failure::Rejected,
        Failure::BadCertificate,
        Failure::Unsatisfying,
        Failure::AlreadyDue,
        Failure::Unauthorized,
        Failure::Forbidden,
        Failure::Throttled,
        Failure::Unreachable,
        Failure::TimedOut,
        Failure::Deleted,
        Failure::Outdated,
        Failure::Local,
    ];
    let phrases = all.map(|failure| {
        let mut holder = Holder { machine: holder.machine.clone(), now: holder.now };
        holder.fail(asked.id, failure);
        holder.machine.last_failure().map(Failure::describe)
    });
    assert_eq!(phrases.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
}
