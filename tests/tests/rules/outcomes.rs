//! The outcomes that the machine reports after an event.

use perennial::{Actions, Outcome, Reason, Slot, State};

use super::*;

impl Holder {
    fn outcomes(&mut self, event: Event) -> Vec<Outcome> {
        let actions: Actions = self.machine.handle(event, self.now);
        actions.outcomes().iter().cloned().collect()
    }
}

#[test]
fn outcome_of_accepted_certificate_contains_replaced_certificate() {
    let (mut holder, request) = Holder::requesting();
    let first = Arc::new(fresh(DAY));
    let accepted = |id, replaced| Outcome::Accepted { id, slot: Slot::Served, replaced, shortfall: None };
    let outcomes = holder.outcomes(Event::CsrIssued { id: request.id, certificate: first.clone() });
    assert_eq!(outcomes, [accepted(request.id, None), Outcome::NoLongerDue]);
    assert_eq!(
        holder.outcomes(Event::CertWritten { id: request.id }),
        [Outcome::Written { id: request.id, slot: Slot::Served }]
    );
    let again = holder.next_request();
    let certificate = Arc::new(issued(&node(), 2, Duration::from_millis(again.at.as_millis()), DAY));
    let outcomes = holder.outcomes(Event::CsrIssued { id: again.id, certificate });
    assert_eq!(outcomes, [accepted(again.id, Some(first)), Outcome::NoLongerDue]);
}

#[test]
fn failed_attempt_has_exactly_one_failure_outcome() {
    let (mut holder, request) = Holder::requesting();
    let failure = Failure::Denied;
    let failed = Event::CsrFailed { id: request.id, failure, retry_after: None };
    assert_eq!(holder.outcomes(failed.clone()), [Outcome::Failed { id: request.id, failure }]);
    assert_eq!(holder.outcomes(failed), [Outcome::Ignored], "a repeated reply is ignored");
    let again = holder.next_request();
    holder.pass(Policy::default().request_timeout);
    let actions = holder.machine.handle(Event::Tick, holder.now);
    assert!(actions.outcomes().iter().eq([&Outcome::Noted, &Outcome::TimedOut { id: again.id }]));
    assert_eq!(actions.outcomes().failure(), Some(Failure::TimedOut));
}

#[test]
fn unsatisfying_first_certificate_is_accepted_with_shortfall() {
    let (mut holder, request) = Holder::requesting();
    let template = Template::node("worker-1").with_dns_names(["worker-1"]);
    holder.handle(Event::TemplateChanged(Some(Arc::new(template))));
    holder.fail(request.id, Failure::Unreachable);
    let request = holder.next_request();
    let certificate = Arc::new(issued(&node(), 2, Duration::from_millis(request.at.as_millis()), DAY));
    let shortfall = Some(Failure::Unsatisfying);
    let outcomes = holder.outcomes(Event::CsrIssued { id: request.id, certificate });
    let accepted = Outcome::Accepted { id: request.id, slot: Slot::Served, replaced: None, shortfall };
    assert_eq!(outcomes, [accepted, Outcome::BecameDue(Reason::TemplateNotSatisfied)]);
}

#[test]
fn superseded_or_withdrawn_request_is_no_failure() {
    let (mut holder, first) = Holder::requesting();
    holder.pass(SECOND);
    let other = Some(Arc::new(Template::node("worker-2")));
    assert_eq!(holder.outcomes(Event::TemplateChanged(other)), [Outcome::Noted, Outcome::Superseded { id: first.id }]);
    let State::Requesting { id: second, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
    assert_eq!(
        holder.outcomes(Event::TemplateChanged(None)),
        [Outcome::Noted, Outcome::Withdrawn { id: second }, Outcome::NoLongerDue]
    );
    assert_eq!(holder.machine.last_failure(), None);
}

#[test]
fn takeover_and_repeated_write_are_reported_as_outcomes() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let better = Arc::new(issued(&node(), 2, Duration::ZERO, DAY * 2));
    let (slot, replaced) = (Slot::Served, Some(Arc::new(fresh(DAY))));
    let found = Event::CertReplaced(Some(better));
    assert_eq!(holder.outcomes(found.clone()), [Outcome::TakenOver { slot, replaced }]);
    assert_eq!(holder.outcomes(Event::CertReplaced(None)), [Outcome::Reinstated]);
    let (id, _) = holder.machine.writes().unwrap();
    assert_eq!(holder.outcomes(Event::WriteFailed { id }), [Outcome::WriteFailed { id, slot }]);
    assert_eq!(holder.outcomes(found), [Outcome::Written { id, slot }], "another program has restored the certificate");
}
