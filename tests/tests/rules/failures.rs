//! Backoff after failures.

use perennial::{Event, Failure, Policy, State};

use super::*;

/// The backoff after each of `count` failures of this kind in a row. Each request fails at once.
fn waits(policy: Policy, failure: Failure, count: usize) -> Vec<Duration> {
    let mut holder = under(policy, None);
    (0..count)
        .map(|_| {
            let request = holder.next_request();
            holder.fail(request.id, failure);
            let State::BackingOff { until, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
            until.since(request.at)
        })
        .collect()
}

#[test]
fn refusal_backs_off_from_minutes_to_an_hour() {
    let waits = waits(Policy::default(), Failure::Denied, 8);
    for (i, wait) in waits.iter().enumerate() {
        let base = (5 * MINUTE * (1 << i)).min(HOUR);
        assert!((base / 2..=base).contains(wait), "{i}: {wait:?} of {base:?}");
    }
}

#[test]
fn outage_backs_off_from_seconds_to_minutes() {
    let mut holder = under(Policy { spacing: Duration::ZERO, ..Policy::default() }, None);
    let mut longest = Duration::ZERO;
    for i in 0..40 {
        let request = holder.next_request();
        holder.fail(request.id, Failure::Unreachable);
        let wait = holder.machine.deadline().map_or(Duration::ZERO, |_| holder.time_to_request());
        // Once the budget is spent, the wait counts from when it has a token again.
        let base = (SECOND * (1 << i.min(10))).min(2 * MINUTE) + if i < 9 { Duration::ZERO } else { 90 * SECOND };
        assert!(wait <= base, "{i}: {wait:?} of {base:?}");
        longest = longest.max(wait);
    }
    assert!(longest > 2 * MINUTE);
}

/// After a failure, client-go waits for 2, 4, 8 and 16 s (each up to 10 % longer), then for 32 s after each further
/// failure.
#[test]
fn kubelet_policy_backs_off_as_client_go_does() {
    for failure in [Failure::Unreachable, Failure::Denied] {
        let waits = waits(Policy::kubelet(), failure, 9);
        for (wait, base) in waits.iter().zip([2, 4, 8, 16]) {
            assert!((base * SECOND..=base * SECOND * 11 / 10).contains(wait), "{wait:?}, not {base} s");
        }
        assert_eq!(waits[4..], [32 * SECOND; 5]);
    }
}

/// client-go begins its later attempts at ticks of 32 s (`PollInfinite`). After an attempt of 15 min, the next attempt
/// begins at the next tick: 928 s after the beginning of the last, not 932 s.
#[test]
fn kubelet_policy_begins_attempts_at_client_gos_ticks_of_32_s() {
    let mut holder = under(Policy::kubelet(), None);
    let begins: Vec<_> = holder.requests_within(3 * HOUR).iter().map(|request| request.at).collect();
    let periods: Vec<_> = begins.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert_eq!(periods[4], 932 * SECOND, "the first beat is counted from the fifth failure");
    assert!(periods[5..].iter().all(|period| *period == 928 * SECOND), "{periods:?}");
}

#[test]
fn retry_after_is_honoured_up_to_an_hour_with_jitter() {
    let mut distinct = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let mut holder = Holder::new(Setup { seed, ..setup(None) });
        let request = holder.next_request();
        let retry_after = Some(MINUTE);
        holder.handle(Event::CsrFailed { id: request.id, failure: Failure::Throttled, retry_after });
        assert!((MINUTE..=MINUTE + SECOND).contains(&holder.time_to_request()));
        distinct.insert(holder.time_to_request());
    }
    assert!(distinct.len() > 15, "a crowd sent away together does not come back together");

    let mut holder = Holder::with(Some(fresh(30 * DAY)));
    let request = holder.next_request();
    holder.handle(Event::CsrFailed { id: request.id, failure: Failure::Throttled, retry_after: Some(Duration::MAX) });
    let wait = holder.time_to_request();
    assert!((HOUR..=HOUR + SECOND).contains(&wait), "{wait:?}");
}

/// A load balancer sends a `Retry-After` of an hour. A node without a certificate must not wait for that long.
#[test]
fn retry_after_without_certificate_is_capped() {
    let cap = Policy::default().transient.cap();
    let expired = mint::certificate(&node(), 1, mint::EPOCH.before(DAY), HOUR);
    for (held, failure) in [None, Some(expired)]
        .into_iter()
        .flat_map(|held| [Failure::Throttled, Failure::Unreachable].map(|failure| (held.clone(), failure)))
    {
        let mut holder = Holder::with(held);
        let request = holder.next_request();
        holder.handle(Event::CsrFailed { id: request.id, failure, retry_after: Some(HOUR) });
        let wait = holder.time_to_request();
        assert!((cap..=cap + SECOND).contains(&wait), "{failure}: {wait:?}");
    }
}

/// A denied node without a certificate keeps the backoff of refusals. With the transient backoff, it would submit seven
/// hundred requests a day.
#[test]
fn refusal_backoff_is_not_shortened_without_a_certificate() {
    let expired = mint::certificate(&node(), 1, mint::EPOCH.before(DAY), HOUR);
    for failure in [Failure::Denied, Failure::SignerFailed, Failure::Unsatisfying, Failure::BadCertificate] {
        for held in [None, Some(expired.clone())] {
            let mut holder = Holder::with(held);
            let request = holder.next_request();
            holder.fail(request.id, failure);
            assert!(holder.time_to_request() >= 150 * SECOND, "{failure}: {:?}", holder.time_to_request());
        }
    }
}

/// The backoff begins while a certificate of a month is served. Then a step of the wall clock makes the certificate
/// expire.
#[test]
fn clock_step_past_expiry_shortens_the_backoff() {
    let cap = Policy::default().transient.cap();
    for (failure, most) in [(Failure::Throttled, 2 * cap), (Failure::Unreachable, 2 * cap), (Failure::Denied, 2 * HOUR)]
    {
        let mut holder = Holder::with(Some(fresh(30 * DAY)));
        holder.tick();
        let (id, ..) = submitted(&holder.handle(Event::RotateNow)).expect("nothing stands in the way");
        holder.handle(Event::CsrFailed { id, failure, retry_after: Some(HOUR) });
        assert!(holder.time_to_request() >= HOUR, "{failure}");
        holder.now.unix = holder.now.unix.after(31 * DAY);
        let wait = holder.time_to_request();
        assert!(wait <= most + Policy::default().max_sleep, "{failure}: {wait:?}");
        assert!(failure != Failure::Denied || wait >= HOUR - MINUTE, "a refusal stays one: {wait:?}");
    }
}

/// For twelve seconds, the server answers 503 or 429 with `Retry-After: 3600`. A certificate with a lifetime of sixteen
/// seconds must still be replaced before it expires.
#[test]
fn short_certificate_survives_retry_after_of_an_hour() {
    for failure in [Failure::Unreachable, Failure::Throttled] {
        let held = fresh(16 * SECOND);
        let mut holder = Holder::with(Some(held.clone()));
        holder.tick();
        let mut request = submitted(&holder.handle(Event::RotateNow)).map(|(id, ..)| id);
        let healthy = Instant::from_millis(12_000);
        while holder.now.instant < healthy {
            if let Some(id) = request.take() {
                holder.handle(Event::CsrFailed { id, failure, retry_after: Some(HOUR) });
            }
            request = submitted(&holder.tick_at_deadline()).map(|(id, ..)| id);
        }
        let id = request.unwrap_or_else(|| holder.next_request().id);
        assert!(holder.serves(&held), "{failure}: next request at {}", holder.now.instant);
        let next = mint::certificate(&node(), 2, holder.now.unix, 16 * SECOND);
        holder.issue(id, &next);
        assert!(holder.serves(&next));
    }
}

#[test]
fn backoff_ends_in_time_for_an_attempt_before_expiry() {
    for failure in [Failure::Denied, Failure::Unreachable, Failure::Throttled] {
        let mut holder = Holder::with(Some(fresh(10 * MINUTE)));
        let request = holder.next_request();
        let retry_after = Some(HOUR);
        holder.handle(Event::CsrFailed { id: request.id, failure, retry_after });
        let request = holder.next_request();
        assert!(holder.serves(&fresh(10 * MINUTE)), "{failure}: next request at {}", request.at);
    }
}

#[test]
fn other_kind_of_failure_restarts_the_failure_count() {
    let (mut holder, mut request) = Holder::requesting();
    for _ in 0..3 {
        holder.fail(request.id, Failure::Denied);
        request = holder.next_request();
    }
    holder.fail(request.id, Failure::Unreachable);
    let State::BackingOff { failures, last, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
    assert_eq!((failures, last), (1, Failure::Unreachable));
}

#[test]
fn issued_certificate_clears_last_failure() {
    let (mut holder, request) = Holder::requesting();
    holder.fail(request.id, Failure::Denied);
    let request = holder.next_request();
    holder.issue(request.id, &issued(&node(), 1, Duration::from_millis(request.at.as_millis()), DAY));
    assert_eq!(holder.machine.last_failure(), None);
}

#[test]
fn rotate_now_and_new_signer_end_backoff() {
    let request = [Event::RotateNow];
    let came = [Event::SignerChanged(SignerStatus::Absent), Event::SignerChanged(SignerStatus::Ready)];
    for events in [&request[..], &came[..]] {
        let (mut holder, request) = Holder::requesting();
        holder.fail(request.id, Failure::Denied);
        holder.pass(SECOND);
        let last = events.iter().map(|event| holder.handle(event.clone())).last();
        assert!(last.is_some_and(|actions| submitted(&actions).is_some()), "{events:?}");
    }
}

#[test]
fn unanswered_request_times_out() {
    let (mut holder, request) = Holder::requesting();
    holder.pass(Policy::default().request_timeout);
    assert_eq!(cancelled(&holder.tick()), Some(request.id));
    assert_eq!(holder.machine.last_failure(), Some(Failure::TimedOut));
}

#[test]
fn each_failure_has_its_own_description() {
    let (holder, request) = Holder::requesting();
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
        Failure::UnsupportedKey,
        Failure::Local,
    ];
    let phrases = all.map(|failure| {
        let mut holder = Holder { machine: holder.machine.clone(), now: holder.now };
        holder.fail(request.id, failure);
        holder.machine.last_failure().map(Failure::describe)
    });
    assert_eq!(phrases.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
}
