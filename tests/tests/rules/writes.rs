//! Writes of certificates. An issued certificate is served at once, whether or not it is durable.

use perennial::{Event, Policy, State};

use super::*;

/// A machine whose first certificate was issued and is not durable yet, and the id of the write.
fn unwritten() -> (Holder, RequestId) {
    let (mut holder, request) = Holder::requesting();
    let (id, _) = written(&holder.issue(request.id, &fresh(DAY))).expect("written at once");
    assert_eq!(id, request.id);
    (holder, id)
}

#[test]
fn issued_certificate_is_served_before_it_is_written() {
    let (holder, _) = unwritten();
    assert!(holder.serves(&fresh(DAY)) && holder.machine.is_unwritten());
    assert!(matches!(holder.machine.state(), State::Scheduled { .. }));
}

#[test]
fn failed_write_is_repeated_without_a_request() {
    let (mut holder, id) = unwritten();
    let mut waits = vec![];
    for _ in 0..10 {
        holder.handle(Event::WriteFailed { id });
        let before = holder.now.instant;
        while written(&holder.tick_at_deadline()).is_none() {}
        waits.push(holder.now.instant.since(before));
        assert!(!matches!(holder.machine.state(), State::Requesting { .. }));
    }
    assert!(waits[0] <= SECOND && waits[9] >= 30 * SECOND && waits[9] <= MINUTE, "{waits:?}");
    holder.handle(Event::CertWritten { id });
    assert!(!holder.machine.is_unwritten());
}

#[test]
fn unanswered_write_is_repeated() {
    let (mut holder, id) = unwritten();
    let again = loop {
        if let Some((again, _)) = written(&holder.tick_at_deadline()) {
            break again;
        }
    };
    assert_eq!((again, holder.now.instant), (id, Instant::from_millis(0).after(Policy::default().write.cap())));
}

#[test]
fn second_report_of_a_write_failure_is_ignored() {
    let (mut holder, id) = unwritten();
    holder.handle(Event::WriteFailed { id });
    let before = holder.machine.clone();
    assert!(holder.handle(Event::WriteFailed { id }).is_empty());
    assert_eq!(holder.machine, before);
}

#[test]
fn unwritten_certificate_is_rotated_when_due() {
    let (mut holder, first) = unwritten();
    holder.handle(Event::WriteFailed { id: first });
    let request = holder.next_request();
    assert!(holder.machine.is_unwritten());
    let next = issued(&node(), 2, Duration::from_millis(request.at.as_millis()), DAY);
    let (id, certificate) = written(&holder.issue(request.id, &next)).expect("written at once");
    assert_eq!((id, &*certificate), (request.id, &next));
    assert!(holder.handle(Event::CertWritten { id: first }).is_empty(), "that was the old one");
    assert!(holder.machine.is_unwritten());
}

#[test]
fn certificate_found_in_store_counts_as_written() {
    let (mut holder, _) = unwritten();
    holder.handle(Event::CertReplaced(Some(Arc::new(fresh(DAY)))));
    assert!(!holder.machine.is_unwritten());
}

#[test]
fn failed_write_is_no_request_failure() {
    let (mut holder, id) = unwritten();
    holder.handle(Event::WriteFailed { id });
    assert_eq!(holder.machine.last_failure(), None);
}
