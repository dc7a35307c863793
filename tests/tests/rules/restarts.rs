//! Restarts from the pending record, which keeps the key, the refusal and the spent budget of the earlier run.

use perennial::{Event, Failure, Pending, Policy};

use super::*;

/// A restarted machine: with the template and the certificate of `holder`, and with `pending` as its pending record.
fn restarted(holder: &Holder, pending: Option<Pending>) -> Holder {
    let setup = Setup {
        template: holder.machine.template().cloned(),
        certificate: holder.machine.certificate().cloned(),
        pending,
        ..Setup::default()
    };
    Holder { machine: RotationMachine::new(setup, holder.now), now: holder.now }
}

fn restarted_with_record(holder: &Holder) -> Holder {
    restarted(holder, holder.machine.pending(holder.now))
}

#[test]
fn machine_without_requests_has_no_pending_record() {
    let holder = Holder::with(None);
    assert_eq!(holder.machine.pending(holder.now), None);
}

#[test]
fn restart_repeats_request_with_its_pending_key() {
    let (mut holder, _) = Holder::requesting();
    holder.pass(MINUTE);
    let request = restarted_with_record(&holder).next_request();
    assert_eq!((request.at, request.key), (holder.now.instant, Key::Pending));
}

#[test]
fn restart_with_new_template_uses_new_key() {
    let (mut holder, _) = Holder::requesting();
    holder.set_template(with_name());
    assert_eq!(restarted_with_record(&holder).next_request().key, Key::New);
}

#[test]
fn crash_loop_after_denial_keeps_backoff() {
    let (mut holder, request) = Holder::requesting();
    holder.fail(request.id, Failure::Denied);
    let due = holder.now.instant.after(holder.time_to_request());
    for _ in 0..30 {
        holder = restarted_with_record(&holder);
        assert!(submitted(&holder.tick()).is_none());
        holder.pass(SECOND);
    }
    let request = restarted_with_record(&holder).next_request();
    assert_eq!((request.at, request.key), (due, Key::New));
}

#[test]
fn key_of_refused_request_stays_spent_after_template_changes() {
    let (mut holder, request) = Holder::requesting();
    holder.fail(request.id, Failure::Denied);
    holder.set_template(with_name()); // within the spacing: nothing is submitted
    holder.set_template(node());
    assert_eq!(restarted_with_record(&holder).next_request().key, Key::New);
}

#[test]
fn restart_does_not_refill_the_budget() {
    let mut holder = Holder::with(None);
    let mut made = 0;
    for _ in 0..600 {
        made += usize::from(submitted(&holder.tick()).is_some());
        holder.pass(SECOND);
        holder = restarted_with_record(&holder);
    }
    assert_eq!(made, 10 + 600 / 90);
}

#[test]
fn restart_after_success_does_not_refill_the_budget() {
    let mut holder = Holder::with(None);
    let mut made = 0;
    for serial in 0..600 {
        if let Some((id, ..)) = submitted(&holder.handle(Event::RotateNow)) {
            made += 1;
            holder.issue(id, &issued(&node(), serial, Duration::from_secs(serial), DAY));
        }
        holder.pass(SECOND);
        holder = restarted_with_record(&holder);
    }
    assert_eq!(made, 9 + 600 / 90, "the first was a need, then one token is kept");
}

/// A reboot after the last submission sets the monotonic clock back to zero. The new spacing must still count from that
/// submission.
#[test]
fn spacing_changed_after_reboot_counts_from_last_submission() {
    let spaced = |seconds: u32| Policy { spacing: SECOND * seconds, ..Policy::default() };
    let mut holder = under(spaced(8), None);
    assert!(submitted(&holder.tick()).is_some());
    holder.pass(SECOND);
    let pending = holder.machine.pending(holder.now);
    let now = Now { instant: Instant::default(), ..holder.now };
    let setup = Setup { policy: Arc::new(spaced(8)), pending, ..setup(None) };
    let mut holder = Holder { machine: RotationMachine::new(setup, now), now };
    holder.handle(Event::PolicyChanged(Arc::new(spaced(60))));
    assert_eq!(holder.time_to_request(), SECOND * 59);
}

#[test]
fn restart_after_clock_set_back_waits_a_bounded_time() {
    let (mut holder, request) = Holder::requesting();
    holder.fail(request.id, Failure::Denied);
    let pending = holder.machine.pending(holder.now);
    holder.now.unix = holder.now.unix.before(365 * DAY);
    let policy = Policy::default();
    assert!(restarted(&holder, pending).time_to_request() <= policy.refused.cap() * 2);

    let (mut holder, _) = Holder::requesting();
    let pending = holder.machine.pending(holder.now);
    holder.now.unix = holder.now.unix.before(365 * DAY);
    assert!(restarted(&holder, pending).time_to_request() <= policy.budget.refill());
}

#[test]
fn restart_ignores_refusal_of_another_template() {
    let (mut holder, request) = Holder::requesting();
    holder.fail(request.id, Failure::Denied);
    let pending = holder.machine.pending(holder.now);
    holder.set_template(with_name());
    let request = restarted(&holder, pending).next_request();
    assert_eq!((request.at, &*request.template), (Instant::from_millis(1000), &with_name()));
}

#[test]
fn rotation_point_survives_restarts() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let point = holder.machine.rotation_point();
    for _ in 0..10 {
        holder.requests_within(HOUR);
        holder = restarted_with_record(&holder);
        assert_eq!(holder.machine.rotation_point(), point);
    }
}
