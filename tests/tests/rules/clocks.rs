//! Clocks that are wrong, and replies that arrive at about the time of a timeout.

use perennial::{Actions, Event, Failure, Policy, Reason, State, UnixTime};
use perennial_tests::mint;

use super::*;

#[test]
fn time_arithmetic_saturates() {
    let long = Duration::from_secs(u64::MAX / 1000 + 2);
    assert_eq!(Instant::from_millis(0).after(long), Instant::from_millis(u64::MAX));
    assert_eq!([7, -7].map(|seconds| UnixTime::from_secs(seconds).as_secs()), [7, -7]);
}

#[test]
fn rotation_point_passed_in_suspend_is_noticed_within_max_sleep() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    holder.now.unix = holder.now.unix.after(22 * HOUR); // suspended, and the monotonic clock with it
    let request = holder.next_request();
    assert!(request.at.as_millis() <= 60_000, "{}", request.at);
}

#[test]
fn no_sleep_is_longer_than_max_sleep() {
    let mut holder = Holder::with(Some(fresh(365 * DAY)));
    for _ in 0..100 {
        let before = holder.now.instant;
        holder.tick_at_deadline();
        assert!(holder.now.instant.since(before) <= Policy::default().max_sleep);
    }
}

#[test]
fn clock_set_back_before_rotation_point_postpones_rotation() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.requests_within(12 * HOUR);
    holder.now.unix = holder.now.unix.before(6 * HOUR);
    let request = holder.next_request();
    assert!(request.at.since(Instant::from_millis(0)) >= DAY * 7 / 10 + 6 * HOUR);
}

#[test]
fn clock_at_1970_drops_no_certificate_and_submits_no_request() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.now.unix = UnixTime::from_secs(0);
    assert!(holder.requests_within(HOUR).is_empty());
    assert!(holder.serves(&fresh(DAY)));
    holder.now.unix = mint::EPOCH.after(23 * HOUR);
    assert!(submitted(&holder.tick()).is_some());
}

#[test]
fn clock_far_ahead_leads_to_one_request_then_backoff() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.now.unix = UnixTime::from_secs(253_402_300_799);
    let request = holder.next_request();
    holder.issue(request.id, &issued(&node(), 2, Duration::ZERO, DAY));
    assert!(holder.time_to_request() >= 2 * MINUTE);
    assert_eq!(holder.machine.due(holder.now), Some(Reason::Expired));
}

#[test]
fn clock_check_times_depend_on_seed_not_on_events() {
    let mut quiet = Holder::new(Setup { seed: 12_345, ..setup(Some(fresh(365 * DAY))) });
    let mut busy = Holder { machine: quiet.machine.clone(), now: quiet.now };
    quiet.tick();
    for _ in 0..59 {
        busy.pass(Duration::from_millis(17));
        busy.tick();
    }
    assert_eq!(quiet.machine.deadline(), busy.machine.deadline());
    assert_eq!(quiet.machine.deadline(), Some(Instant::from_millis(12_345)), "the seed's phase");
}

#[test]
fn expiry_is_noticed_to_the_millisecond() {
    let mut holder = Holder::with(Some(fresh(10 * SECOND)));
    let request = holder.next_request();
    assert!(request.at < Instant::from_millis(10_000));
    holder.tick_at_deadline();
    assert_eq!(holder.now.instant, Instant::from_millis(10_001));
    assert!(holder.machine.to_string().contains("expired"));
}

#[test]
fn unbounded_max_sleep_disables_clock_checks() {
    for seed in [0, 1, u64::MAX] {
        let policy = Arc::new(Policy { max_sleep: Duration::MAX, ..Policy::default() });
        let mut holder = Holder::new(Setup { policy, seed, ..setup(Some(fresh(DAY))) });
        holder.pass(HOUR);
        holder.tick();
        let deadline = holder.machine.deadline();
        assert!(
            deadline.is_some_and(|at| at > Instant::from_millis(15 * 3_600_000) || seed == u64::MAX),
            "{deadline:?}"
        );
    }
}

#[test]
fn late_certificate_is_accepted_if_no_tick_came_after_the_timeout() {
    let (mut holder, request) = Holder::requesting();
    holder.pass(Policy::default().request_timeout + MINUTE);
    holder.issue(request.id, &issued(&node(), 1, Duration::ZERO, DAY));
    assert_eq!((holder.machine.due(holder.now), holder.machine.last_failure()), (None, None));
}

#[test]
fn late_certificate_is_ignored_once_a_tick_ended_the_request() {
    let (mut holder, request) = Holder::requesting();
    holder.pass(Policy::default().request_timeout);
    holder.tick();
    let before = holder.machine.clone();
    assert!(holder.issue(request.id, &fresh(DAY)).is_empty());
    assert_eq!(holder.machine, before);
}

#[test]
fn least_and_greatest_clock_values_cause_no_panic() {
    let instants = [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX].map(Instant::from_millis);
    let times = [i64::MIN, -1, 0, i64::MAX - 1, i64::MAX].map(UnixTime::from_millis);
    let nows: Vec<_> = instants.iter().flat_map(|instant| times.map(|unix| Now { instant: *instant, unix })).collect();
    for first in &nows {
        for then in &nows {
            let mut holder = Holder { machine: RotationMachine::new(setup(Some(fresh(DAY))), *first), now: *then };
            holder.tick();
            holder.handle(Event::RotateNow);
            if let State::Requesting { id, .. } = holder.machine.state() {
                holder.fail(id, Failure::Denied);
            }
            holder.handle(Event::CertReplaced(None));
            let pending = holder.machine.pending(holder.now);
            let mut again = RotationMachine::new(Setup { pending, ..setup(None) }, *first);
            let _ = again.handle(Event::Tick, *then);
            let _ = (holder.machine.to_string(), again.to_string());
        }
    }
}

#[test]
fn machine_is_at_most_168_bytes() {
    assert!(size_of::<RotationMachine>() <= 168);
    assert!(size_of::<Actions>() <= 192);
}

#[test]
fn clock_set_back_does_not_cancel_request_in_flight() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let request = holder.next_request();
    holder.now.unix = holder.now.unix.before(SECOND);
    assert!(holder.tick().iter().all(|action| !matches!(action, Action::CancelRequest { .. })));
    holder.issue(request.id, &issued(&node(), 2, DAY * 9 / 10, DAY));
    assert!(matches!(holder.machine.state(), State::Scheduled { .. }));
}

#[test]
fn rotation_by_another_program_cancels_the_request() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let request = holder.next_request();
    let found = issued(&node(), 2, DAY * 7 / 10, DAY);
    assert_eq!(cancelled(&holder.handle(Event::CertReplaced(Some(found.into())))), Some(request.id));
}
