//! Certificates that are not valid yet: they wait for their notBefore, and displace no valid certificate.

use perennial::{Event, Failure, Outcome, Reason, State};

use super::*;

/// A certificate of a day whose notBefore is this long after the beginning of virtual time.
fn early(serial: u64, begins: Duration) -> Certificate {
    issued(&node(), serial, begins, DAY)
}

/// A machine that serves a certificate of a day and has a waiting certificate, whose notBefore is in an hour. Also
/// returns the waiting certificate, and the id of the request for which it was issued.
fn waiting() -> (Holder, Certificate, RequestId) {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let request = holder.next_request();
    let begins = Duration::from_millis(holder.now.instant.as_millis()) + HOUR;
    let next = early(2, begins);
    holder.issue(request.id, &next);
    (holder, next, request.id)
}

fn serves_later(actions: &[Action]) -> Option<&Certificate> {
    actions.iter().find_map(|action| match action {
        Action::WriteCert { certificate, serve: false, .. } => Some(&**certificate),
        _ => None,
    })
}

#[test]
fn early_certificate_is_written_at_once_and_served_from_not_before() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let request = holder.next_request();
    let next = early(2, Duration::from_millis(request.at.as_millis()) + HOUR);
    let actions = holder.issue(request.id, &next);
    assert_eq!(serves_later(&actions), Some(&next));
    assert!(holder.serves(&fresh(DAY)), "the one that is valid stays");
    assert_eq!(
        (holder.machine.due(holder.now), holder.machine.last_failure()),
        (None, None),
        "a waiting certificate counts as a success"
    );
    holder.handle(Event::CertWritten { id: request.id });
    assert!(!holder.machine.is_unwritten());
    assert!(holder.requests_within(HOUR - SECOND).is_empty() && holder.serves(&fresh(DAY)));
    assert!(holder.requests_within(SECOND).is_empty() && holder.serves(&next));
    assert!(holder.machine.is_unwritten() && holder.machine.waiting().is_none(), "its turn orders a write");
    assert!(matches!(holder.machine.state(), State::Scheduled { .. }));
}

#[test]
fn clock_step_to_not_before_serves_early_certificate() {
    let (mut holder, next, _) = waiting();
    holder.now.unix = holder.now.unix.after(HOUR);
    let actions = holder.tick();
    assert!(holder.serves(&next));
    assert!(actions.iter().any(|action| matches!(action, Action::WriteCert { serve: true, .. })));
}

#[test]
fn rotate_now_stays_due_if_waiting_certificate_is_found_in_store() {
    let (mut holder, next, first) = waiting();
    holder.handle(Event::CertWritten { id: first });
    holder.handle(Event::RotateNow);
    let before = holder.machine.clone();
    assert_eq!(before.due(holder.now), Some(Reason::RotateNow));
    let found = Event::CertReplaced(Some(Arc::new(next)));
    assert!(holder.machine.handle(found.clone(), holder.now).outcomes().iter().eq([&Outcome::Reinstated]));
    assert!(holder.machine.handle(found, holder.now).outcomes().is_ignored());
    assert_eq!((holder.machine.due(holder.now), holder.machine.state()), (Some(Reason::RotateNow), before.state()));
}

#[test]
fn early_certificate_is_served_once_current_is_refused() {
    let (mut holder, next, _) = waiting();
    holder.handle(Event::CertRefused { fingerprint: fresh(DAY).fingerprint });
    assert!(holder.serves(&next));
    assert_eq!(holder.machine.due(holder.now), None);
}

#[test]
fn early_successor_of_refused_certificate_is_served_at_once() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let (id, ..) = submitted(&holder.handle(Event::CertRefused { fingerprint: fresh(DAY).fingerprint }))
        .expect("a request is submitted");
    holder.issue(id, &early(2, HOUR));
    assert!(holder.serves(&early(2, HOUR)));
}

#[test]
fn early_certificate_is_served_once_current_expires() {
    let (mut holder, next, _) = waiting();
    // The clock was set back after the successor was issued.
    holder.now.unix = holder.now.unix.before(HOUR);
    holder.tick();
    holder.now.unix = mint::EPOCH.after(DAY + SECOND);
    holder.tick();
    assert!(holder.serves(&next));
}

#[test]
fn early_first_certificate_is_served_if_not_before_is_within_a_day() {
    let expired = mint::certificate(&node(), 9, mint::EPOCH.before(DAY), HOUR);
    for held in [None, Some(expired)] {
        let mut holder = Holder::with(held.clone());
        let request = holder.next_request();
        holder.issue(request.id, &early(2, DAY));
        assert!(holder.serves(&early(2, DAY)), "instead of {held:?}");
        assert_eq!(holder.machine.last_failure(), None);

        let mut holder = Holder::with(held.clone());
        let request = holder.next_request();
        holder.issue(request.id, &early(2, DAY + SECOND));
        assert_eq!(holder.machine.certificate(), held.map(Arc::new).as_ref());
        assert_eq!(holder.machine.last_failure(), Some(Failure::BadCertificate));
        assert!(holder.time_to_request() >= 150 * SECOND, "the refused backoff delays the next request");
    }
}

#[test]
fn early_certificate_beginning_after_current_expires_is_rejected() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let request = holder.next_request();
    let actions = holder.issue(request.id, &early(2, DAY + SECOND));
    assert_eq!((written(&actions), holder.machine.waiting()), (None, None));
    assert_eq!(holder.machine.last_failure(), Some(Failure::BadCertificate));
    assert!(holder.serves(&fresh(DAY)));
}

#[test]
fn unsatisfying_early_certificate_is_rejected_instead_of_waiting() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let request = holder.next_request();
    holder.issue(request.id, &mint::trimmed(early(2, DAY * 19 / 20)));
    assert_eq!((holder.machine.waiting(), holder.machine.last_failure()), (None, Some(Failure::Unsatisfying)));
}

#[test]
fn early_certificate_in_store_waits_and_current_is_rewritten() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let next = early(2, HOUR);
    let actions = holder.handle(Event::CertReplaced(Some(Arc::new(next.clone()))));
    let (id, ours) = written(&actions).expect("the link is put back");
    assert_eq!(*ours, fresh(DAY));
    let actions = holder.handle(Event::CertWritten { id });
    assert_eq!(serves_later(&actions), Some(&next), "the waiting certificate is written next");
    holder.requests_within(HOUR);
    assert!(holder.serves(&next));
}

#[test]
fn unwritten_current_certificate_is_written_before_waiting_one() {
    let (mut holder, request) = Holder::requesting();
    holder.issue(request.id, &fresh(DAY));
    holder.handle(Event::WriteFailed { id: request.id });
    let (id, ..) = submitted(&{
        holder.pass(MINUTE);
        holder.handle(Event::RotateNow)
    })
    .expect("a request is submitted");
    let next = early(2, HOUR);
    holder.issue(id, &next);
    let actions = holder.tick_at_deadline();
    let (id, first) = written(&actions).or_else(|| written(&holder.tick_at_deadline())).unwrap_or_else(|| {
        panic!("the one held is written first: {}", holder.machine);
    });
    assert_eq!(*first, fresh(DAY));
    let actions = holder.handle(Event::CertWritten { id });
    assert_eq!(serves_later(&actions), Some(&next));
}

#[test]
fn rotate_now_stays_due_after_waiting_certificate_is_served() {
    let (mut holder, next, _) = waiting();
    let State::Scheduled { .. } = holder.machine.state() else { panic!("{}", holder.machine) };
    holder.handle(Event::RotateNow);
    holder.now.unix = holder.now.unix.after(HOUR);
    holder.tick();
    assert!(holder.serves(&next));
    assert_eq!(holder.machine.due(holder.now), Some(Reason::RotateNow));
}

#[test]
fn waiting_certificate_of_another_name_is_dropped() {
    let (mut holder, _, _) = waiting();
    holder.set_template(Template::node("worker-2"));
    assert_eq!(holder.machine.waiting(), None, "the waiting certificate is dropped");
    holder.now.unix = holder.now.unix.after(HOUR);
    holder.tick();
    assert!(holder.serves(&fresh(DAY)));
}

/// The template changes. The served certificate satisfies the new template, and the waiting certificate does not.
#[test]
fn waiting_certificate_worse_than_current_is_dropped() {
    let full = issued(&with_name(), 1, Duration::ZERO, DAY);
    let mut holder = Holder::with(Some(full.clone()));
    holder.tick();
    let (id, ..) = submitted(&holder.handle(Event::RotateNow)).expect("a request is submitted");
    holder.issue(id, &early(2, HOUR));
    assert!(holder.machine.waiting().is_some());
    holder.set_template(with_name());
    assert_eq!((holder.machine.waiting(), holder.machine.due(holder.now)), (None, None));
    assert!(holder.serves(&full));
}

#[test]
fn restart_keeps_the_waiting_certificate() {
    let (holder, next, _) = waiting();
    let setup = Setup { waiting: Some(Arc::new(next.clone())), ..setup(Some(fresh(DAY))) };
    let mut again = Holder { machine: RotationMachine::new(setup, holder.now), now: holder.now };
    assert!(again.requests_within(HOUR - SECOND).is_empty() && again.serves(&fresh(DAY)));
    again.requests_within(SECOND);
    assert!(again.serves(&next));
}

#[test]
fn waiting_certificate_is_served_without_signer() {
    let mut holder = Holder::new(Setup { signer: SignerStatus::Absent, ..setup(Some(fresh(DAY))) });
    holder.tick();
    assert_eq!(written(&holder.handle(Event::CertReplaced(Some(Arc::new(early(2, HOUR)))))), None);
    holder.requests_within(HOUR);
    assert!(holder.serves(&early(2, HOUR)));
}
