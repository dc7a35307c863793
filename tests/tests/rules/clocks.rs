//! Clocks that are wrong (rule 10), and replies that race with timeouts (rule 11).

use perennial::{Actions, Event, Failure, Policy, Reason, State, UnixTime};
use perennial_tests::mint;

use super::*;

#[test]
fn times_are_told_in_seconds_and_end_where_they_cannot_be_told() {
    let long = Duration::from_secs(u64::MAX / 1000 + 2);
    assert_eq!(Instant::from_millis(0).after(long), Instant::from_millis(u64::MAX));
    assert_eq!([7, -7].map(|seconds| UnixTime::from_secs(seconds).as_secs()), [7, -7]);
}

#[test]
fn waking_up_past_the_rotation_point_is_noticed_within_max_sleep() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    holder.now.unix = holder.now.unix.after(22 * HOUR); // suspended, and the monotonic clock with it
    let asked = holder.ask();
    assert!(asked.at.as_millis() <= 60_000, "{}", asked.at);
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
fn a_clock_set_back_lets_it_rest_longer() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.watch(12 * HOUR);
    holder.now.unix = holder.now.unix.before(6 * HOUR);
    let asked = holder.ask();
    assert!(asked.at.since(Instant::from_millis(0)) >= DAY * 7 / 10 + 6 * HOUR);
}

#[test]
fn a_clock_at_the_epoch_keeps_the_certificate_and_rests_until_it_is_set() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.now.unix = UnixTime::from_secs(0);
    assert!(holder.watch(HOUR).is_empty());
    assert!(holder.serves(&fresh(DAY)));
    holder.now.unix = mint::EPOCH.after(23 * HOUR);
    assert!(submitted(&holder.tick()).is_some());
}

#[test]
fn a_clock_absurdly_far_ahead_is_one_request_then_backoff() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.now.unix = UnixTime::from_secs(253_402_300_799);
    let asked = holder.ask();
    holder.issue(asked.id, &issued(&node(), 2, Duration::ZERO, DAY));
    assert!(holder.waits() >= 2 * MINUTE);
    assert_eq!(holder.machine.due(holder.now), Some(Reason::Expired));
}

#[test]
fn checks_of_the_clocks_lie_on_a_grid_whatever_happens_between() {
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
fn expiry_is_noticed_when_it_happens() {
    let mut holder = Holder::with(Some(fresh(10 * SECOND)));
    let asked = holder.ask();
    assert!(asked.at < Instant::from_millis(10_000));
    holder.tick_at_deadline();
    assert_eq!(holder.now.instant, Instant::from_millis(10_001));
    assert!(holder.machine.to_string().contains("expired"));
}

#[test]
fn a_policy_may_leave_the_clocks_to_somebody_else() {
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
fn a_valid_reply_after_its_timeout_is_accepted_if_it_comes_before_the_tick() {
    let (mut holder, asked) = Holder::asking();
    holder.pass(Policy::default().request_timeout + MINUTE);
    holder.issue(asked.id, &issued(&node(), 1, Duration::ZERO, DAY));
    assert_eq!((holder.machine.due(holder.now), holder.machine.last_failure()), (None, None));
}

#[test]
fn a_reply_after_the_tick_that_gave_up_is_stale() {
    let (mut holder, asked) = Holder::asking();
    holder.pass(Policy::default().request_timeout);
    holder.tick();
    let before = holder.machine.clone();
    assert!(holder.issue(asked.id, &fresh(DAY)).is_empty());
    assert_eq!(holder.machine, before);
}

#[test]
fn clocks_at_the_ends_of_time_are_survived() {
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
fn a_machine_is_a_small_value() {
    assert!(size_of::<RotationMachine>() <= 192);
    assert!(size_of::<Actions>() <= 192);
}

#[test]
fn a_rotation_that_has_begun_is_not_called_back_by_a_clock_set_back() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let asked = holder.ask();
    holder.now.unix = holder.now.unix.before(SECOND);
    assert!(holder.tick().iter().all(|action| !matches!(action, Action::CancelRequest { .. })));
    holder.issue(asked.id, &issued(&node(), 2, DAY * 9 / 10, DAY));
    assert!(matches!(holder.machine.state(), State::Scheduled { .. }));
}

#[test]
fn a_rotation_somebody_else_has_done_is_called_back() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let asked = holder.ask();
    let found = issued(&node(), 2, DAY * 7 / 10, DAY);
    assert_eq!(cancelled(&holder.handle(Event::CertReplaced(Some(found.into())))), Some(asked.id));
}
