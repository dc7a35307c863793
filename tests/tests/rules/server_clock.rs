//! The API server's clock delays nothing, makes nothing expire, and lets a node with a wrong clock rotate in time.

use perennial::{Event, Failure, Reason, State};

use super::*;

/// Moves the local wall clock by `by`, forward if `ahead`, else back. The true time, by which the signer issues
/// certificates, stays.
fn clock_off(holder: &mut Holder, ahead: bool, by: Duration) {
    holder.now.unix = if ahead { holder.now.unix.after(by) } else { holder.now.unix.before(by) };
}

/// The true time, which the API server's clock shows.
fn truth(holder: &Holder) -> perennial::UnixTime {
    mint::EPOCH.after(holder.now.instant.since(Instant::from_millis(0)))
}

/// Hands the machine `times` readings of the API server's clock, which shows the true time.
fn answers(holder: &mut Holder, times: usize) -> Vec<Action> {
    let unix = truth(holder);
    (0..times).flat_map(|_| holder.handle(Event::ServerDated { unix })).collect()
}

fn known(holder: &Holder) -> bool {
    holder.machine.server_time(holder.now).is_some()
}

#[test]
fn servers_clock_counts_after_three_agreeing_readings() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    clock_off(&mut holder, false, 6 * HOUR);
    for (answered, counts) in [false, false, true, true].into_iter().enumerate() {
        answers(&mut holder, 1);
        assert_eq!(known(&holder), counts, "after {} answers", answered + 1);
        holder.pass(MINUTE);
    }
    assert_eq!(holder.machine.server_time(holder.now), Some(truth(&holder)));
    assert_eq!(holder.machine.both_clocks(holder.now), (holder.now.unix, truth(&holder)));
}

#[test]
fn reading_off_by_over_ten_seconds_discards_the_servers_clock() {
    for (off, agrees) in [(9 * SECOND, true), (11 * SECOND, false), (DAY, false)] {
        for ahead in [false, true] {
            let mut holder = Holder::with(Some(fresh(DAY)));
            clock_off(&mut holder, false, 6 * HOUR);
            answers(&mut holder, 3);
            let unix = if ahead { truth(&holder).after(off) } else { truth(&holder).before(off) };
            holder.handle(Event::ServerDated { unix });
            assert_eq!(known(&holder), agrees, "{off:?} {ahead}");
        }
    }
}

#[test]
fn local_clock_step_keeps_the_servers_clock() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    answers(&mut holder, 3);
    assert_eq!(holder.machine.both_clocks(holder.now), (holder.now.unix, holder.now.unix));
    clock_off(&mut holder, false, 6 * HOUR);
    assert_eq!(holder.machine.both_clocks(holder.now), (holder.now.unix, truth(&holder)));
    holder.pass(HOUR);
    answers(&mut holder, 1);
    assert!(known(&holder), "and answers go on to agree");
}

#[test]
fn clocks_within_ten_seconds_count_as_equal() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let point = holder.machine.deadline();
    clock_off(&mut holder, false, 10 * SECOND);
    answers(&mut holder, 3);
    assert!(known(&holder));
    assert_eq!(holder.machine.both_clocks(holder.now), (holder.now.unix, holder.now.unix));
    assert!(holder.machine.deadline() >= point);
}

#[test]
fn node_with_slow_clock_rotates_on_time_by_the_servers_clock() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let right = Holder::with(Some(fresh(DAY))).next_request().at;
    clock_off(&mut holder, false, 6 * HOUR);
    answers(&mut holder, 3);
    let request = holder.next_request();
    assert_eq!(request.at, right, "as if the clock were right");
    assert_eq!(holder.machine.due(holder.now), Some(Reason::RotationPoint));
    let mut alone = Holder::with(Some(fresh(DAY)));
    clock_off(&mut alone, false, 6 * HOUR);
    assert_eq!(alone.next_request().at, right.after(6 * HOUR), "six hours too late");
}

#[test]
fn node_with_fast_clock_rotates_as_early_as_without_servers_clock() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    clock_off(&mut holder, true, 6 * HOUR);
    let mut alone = Holder { machine: holder.machine.clone(), now: holder.now };
    answers(&mut holder, 3);
    assert_eq!(holder.next_request().at, alone.next_request().at);
}

#[test]
fn certificate_valid_by_servers_clock_is_served() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    clock_off(&mut holder, false, 6 * HOUR);
    answers(&mut holder, 3);
    let request = holder.next_request();
    let next = issued(&node(), 2, Duration::from_millis(request.at.as_millis()), DAY);
    assert!(next.validity.not_before() > holder.now.unix);
    holder.issue(request.id, &next);
    assert!(holder.serves(&next) && holder.machine.waiting().is_none());
    assert_eq!((holder.machine.due(holder.now), holder.machine.last_failure()), (None, None));
    assert!(matches!(holder.machine.state(), State::Scheduled { .. }));
}

#[test]
fn waiting_certificate_is_served_once_valid_by_servers_clock() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let request = holder.next_request();
    clock_off(&mut holder, false, 6 * HOUR);
    let next = issued(&node(), 2, Duration::from_millis(request.at.as_millis()), DAY);
    holder.issue(request.id, &next);
    assert_eq!(holder.machine.waiting().map(|waiting| &**waiting), Some(&next));
    let actions = answers(&mut holder, 3);
    assert!(holder.serves(&next));
    assert!(actions.iter().any(|action| matches!(action, Action::WriteCert { serve: true, .. })));
}

#[test]
fn certificate_expired_by_local_clock_alone_is_accepted() {
    let (mut holder, request) = Holder::requesting();
    clock_off(&mut holder, true, 2 * DAY);
    answers(&mut holder, 3);
    let new = fresh(DAY);
    holder.issue(request.id, &new);
    assert_eq!(holder.machine.certificate().map(|held| &**held), Some(&new));
    assert_eq!(holder.machine.valid_by_either_clock(holder.now).map(|held| &**held), Some(&new));
    // By the local clock every new certificate is due at once: requests follow the refused backoff.
    assert_eq!(holder.machine.last_failure(), Some(Failure::AlreadyDue));
    assert!(holder.time_to_request() > MINUTE);
}

#[test]
fn certificate_expired_by_both_clocks_is_rejected() {
    let (mut holder, request) = Holder::requesting();
    clock_off(&mut holder, true, 2 * DAY);
    holder.pass(2 * DAY);
    answers(&mut holder, 3);
    holder.issue(request.id, &fresh(DAY));
    assert_eq!(holder.machine.certificate(), None);
}

#[test]
fn servers_clock_expires_no_served_certificate() {
    for years in [1, 100] {
        let mut holder = Holder::with(Some(fresh(DAY)));
        let unix = holder.now.unix.after(365 * years * DAY);
        (0..3).for_each(|_| drop(holder.handle(Event::ServerDated { unix })));
        assert!(known(&holder) && holder.serves(&fresh(DAY)), "{years}");
        assert_eq!(holder.machine.due(holder.now), Some(Reason::RotationPoint), "{years}");
    }
}

#[test]
fn servers_clock_changes_no_backoff() {
    for ahead in [false, true] {
        let (mut holder, request) = Holder::requesting();
        holder.fail(request.id, Failure::Denied);
        let time_to_request = holder.time_to_request();
        clock_off(&mut holder, ahead, 6 * HOUR);
        answers(&mut holder, 3);
        assert_eq!(holder.time_to_request(), time_to_request, "{ahead}");
    }
}

#[test]
fn agreeing_readings_beyond_the_third_change_nothing() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    answers(&mut holder, 3);
    let before = holder.machine.clone();
    holder.pass(HOUR);
    assert!(answers(&mut holder, 5).is_empty());
    assert_eq!(holder.machine, before);
}

#[test]
fn servers_clock_survives_checkpoint_and_restore() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    clock_off(&mut holder, false, 6 * HOUR);
    answers(&mut holder, 3);
    let restored = RotationMachine::restore(holder.machine.checkpoint());
    assert_eq!(restored.server_time(holder.now), Some(truth(&holder)));
    assert_eq!(restored, holder.machine);
}
