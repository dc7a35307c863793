//! Submissions of a machine with a shared signer: only in a step that handles `TurnGranted`.

use perennial::{Reason, State};

use super::*;

fn shared(certificate: Option<Certificate>) -> Holder {
    Holder::new(Setup { signer: SignerStatus::Shared, ..setup(certificate) })
}

fn grant(holder: &mut Holder) -> Option<RequestId> {
    submitted(&holder.handle(Event::TurnGranted)).map(|(id, ..)| id)
}

#[test]
fn shared_signer_queues_request_until_turn_is_granted() {
    let mut holder = shared(None);
    assert!(submitted(&holder.tick()).is_none());
    assert_eq!(holder.machine.state(), State::Queued { reason: Reason::NoCertificate });
    assert_eq!(holder.machine.deadline(), None, "neither the queued request nor a check of the clocks");
    assert!(grant(&mut holder).is_some());
    assert!(matches!(holder.machine.state(), State::Requesting { .. }));
}

#[test]
fn shared_signer_keeps_backoff_before_queueing() {
    let mut holder = shared(None);
    holder.tick();
    let id = grant(&mut holder).unwrap();
    holder.fail(id, Failure::Unreachable);
    assert_eq!(grant(&mut holder), None, "a turn does not cut a backoff short");
    let State::BackingOff { until, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
    assert_eq!(holder.machine.deadline(), Some(until));
    assert!(submitted(&holder.tick_at_deadline()).is_none());
    assert!(holder.machine.checkpoint().queued);
    assert!(grant(&mut holder).is_some());
}

#[test]
fn shared_signer_keeps_request_in_flight_until_its_successor_has_a_turn() {
    let mut holder = shared(None);
    holder.tick();
    let first = grant(&mut holder).unwrap();
    holder.pass(HOUR / 12);
    assert_eq!(cancelled(&holder.set_template(with_name())), None);
    assert!(holder.machine.checkpoint().queued && matches!(holder.machine.state(), State::Requesting { .. }));
    let actions = holder.handle(Event::TurnGranted);
    assert!(cancelled(&actions) == Some(first) && submitted(&actions).is_some());
}

#[test]
fn turn_without_due_certificate_submits_nothing() {
    let mut holder = shared(Some(fresh(DAY)));
    let [before, _] = [holder.tick(), holder.tick()].map(|_| holder.machine.clone());
    assert_eq!(grant(&mut holder), None);
    assert_eq!(holder.machine, before);
}

#[test]
fn queued_machine_leaves_queue_if_another_program_renews() {
    let mut holder = shared(None);
    holder.tick();
    holder.handle(Event::CertReplaced(Some(Arc::new(fresh(DAY)))));
    assert!(!holder.machine.checkpoint().queued);
    assert_eq!(grant(&mut holder), None);
}

#[test]
fn queued_machine_submits_once_signer_is_its_own_again() {
    let mut holder = shared(None);
    holder.tick();
    assert!(submitted(&holder.handle(Event::SignerChanged(SignerStatus::Ready))).is_some());
    assert!(!holder.machine.checkpoint().queued);
}

#[test]
fn machine_of_its_own_takes_turn_as_tick() {
    let [mut ticked, mut granted] = [Holder::with(None), Holder::with(None)];
    assert_eq!(ticked.tick(), granted.handle(Event::TurnGranted));
    assert_eq!(ticked.machine, granted.machine);
}

#[test]
fn queued_machine_is_ticked_when_its_certificate_expires() {
    let mut holder = shared(Some(fresh(DAY)));
    holder.tick();
    holder.tick_at_deadline();
    assert_eq!(holder.machine.state(), State::Queued { reason: Reason::RotationPoint });
    holder.tick_at_deadline();
    assert_eq!(holder.machine.state(), State::Queued { reason: Reason::Expired });
    assert_eq!(holder.now.unix, mint::EPOCH.after(DAY + Duration::from_millis(1)));
}
