//! The current certificate, and the certificates that may replace it: issued ones, and ones found in the store.

use perennial::{Event, Failure, Reason, State};
use perennial_tests::mint;

use super::*;

/// A machine that served `held`, requested a certificate for [`with_name`] and was issued `got`.
fn answered(held: Option<Certificate>, got: &Certificate) -> Holder {
    let mut holder = Holder::with(held);
    holder.set_template(with_name());
    let request = holder.next_request();
    holder.issue(request.id, got);
    holder
}

fn with_serial(serial: u64, life: Duration) -> Certificate {
    issued(&node(), serial, Duration::ZERO, life)
}

#[test]
fn issued_certificate_without_a_wanted_name_leads_to_backoff() {
    let holder = answered(None, &fresh(DAY));
    let State::BackingOff { reason, last, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
    assert_eq!((reason, last), (Reason::TemplateNotSatisfied, Failure::Unsatisfying));
    assert!(holder.time_to_request() >= 150 * SECOND, "no hot loop from a signer that trims names");
}

#[test]
fn unsatisfying_certificate_replaces_expired_provisional_or_missing_one() {
    let expired = mint::certificate(&with_name(), 9, mint::EPOCH.before(DAY), HOUR);
    let bootstrap = mint::provisional(issued(&with_name(), 9, Duration::ZERO, 30 * DAY));
    for held in [None, Some(expired), Some(bootstrap)] {
        assert!(answered(held.clone(), &fresh(DAY)).serves(&fresh(DAY)), "instead of {held:?}");
    }
}

#[test]
fn unsatisfying_certificate_replaces_unsatisfying_one_only_if_it_ends_later() {
    assert!(answered(Some(with_serial(9, HOUR)), &fresh(DAY)).serves(&fresh(DAY)));
    let longer = with_serial(9, 30 * DAY);
    assert!(answered(Some(longer.clone()), &fresh(DAY)).serves(&longer));
}

#[test]
fn unsatisfying_certificate_does_not_replace_a_good_one() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let (id, ..) = submitted(&holder.handle(Event::RotateNow)).expect("a request is submitted");
    let actions = holder.issue(id, &mint::trimmed(with_serial(2, 30 * DAY)));
    assert!(holder.serves(&fresh(DAY)) && written(&actions).is_none());
    assert_eq!(holder.machine.last_failure(), Some(Failure::Unsatisfying));
}

#[test]
fn issued_certificate_already_due_is_served_and_counts_as_failure() {
    let (mut holder, request) = Holder::requesting();
    let due = mint::certificate(&node(), 1, mint::EPOCH.before(95 * MINUTE), 100 * MINUTE);
    holder.issue(request.id, &due);
    assert!(holder.serves(&due), "a certificate that is due is better than none");
    assert_eq!(holder.machine.last_failure(), Some(Failure::AlreadyDue));
    assert!(holder.time_to_request() >= 2 * MINUTE, "no hot loop from a skewed clock");
}

#[test]
fn expired_or_provisional_issued_certificate_is_rejected() {
    let (mut holder, request) = Holder::requesting();
    let expired = mint::certificate(&node(), 1, mint::EPOCH.before(DAY), HOUR);
    assert!(written(&holder.issue(request.id, &expired)).is_none());
    assert_eq!((holder.machine.certificate(), holder.machine.last_failure()), (None, Some(Failure::BadCertificate)));

    let (mut holder, request) = Holder::requesting();
    holder.issue(request.id, &mint::provisional(fresh(DAY)));
    assert!(holder.machine.last_failure().is_some_and(Failure::is_refusal));
}

#[test]
fn certificates_of_ten_milliseconds_lead_to_at_most_50_requests_an_hour() {
    let mut holder = Holder::with(None);
    let mut made = 0;
    while holder.now.instant < Instant::from_millis(3_600_000) {
        let request = holder.next_request();
        made += 1;
        let begin = Duration::from_millis(holder.now.instant.as_millis());
        holder.issue(request.id, &issued(&node(), made, begin, Duration::from_millis(10)));
    }
    assert!(made <= 50, "{made} in an hour");
}

#[test]
fn valid_certificate_stays_served_after_every_adverse_event() {
    let certificate = fresh(30 * DAY);
    let mut holder = Holder::with(Some(certificate.clone()));
    holder.tick();
    holder.handle(Event::RotateNow);
    let State::Requesting { id, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
    holder.fail(id, Failure::Denied);
    assert!(holder.serves(&certificate));
    holder.set_template(Template::new("somebody-else"));
    assert!(holder.serves(&certificate));
    holder.handle(Event::CertRefused { fingerprint: certificate.fingerprint });
    assert!(holder.serves(&certificate));
    holder.handle(Event::SignerChanged(SignerStatus::Absent));
    assert!(holder.serves(&certificate));
    holder.handle(Event::TemplateChanged(None));
    assert!(holder.serves(&certificate));
    holder.handle(Event::CertReplaced(None));
    assert!(holder.serves(&certificate));
}

#[test]
fn expired_certificate_is_served_again_after_clock_step() {
    let mut holder = Holder::with(Some(fresh(HOUR)));
    holder.requests_within(2 * HOUR);
    assert_eq!(holder.machine.certificate_at(holder.now.unix), None);
    holder.now.unix = holder.now.unix.before(90 * MINUTE);
    holder.tick();
    assert!(holder.serves(&fresh(HOUR)));
}

#[test]
fn refused_certificate_is_replaced_by_already_due_one() {
    let mut holder = Holder::with(Some(fresh(HOUR)));
    holder.tick();
    let (id, ..) = submitted(&holder.handle(Event::CertRefused { fingerprint: mint::fingerprint(1) }))
        .expect("a request is submitted");
    let due = mint::certificate(&node(), 2, mint::EPOCH.before(98 * HOUR), 100 * HOUR);
    holder.issue(id, &due);
    assert!(holder.serves(&due));
    assert_eq!(holder.machine.due(holder.now), Some(Reason::RotationPoint));
}

#[test]
fn certificate_removed_from_store_is_written_again() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let (id, certificate) =
        written(&holder.handle(Event::CertReplaced(None))).expect("a valid certificate is written again");
    assert_eq!(*certificate, fresh(DAY));
    holder.handle(Event::CertWritten { id });
    assert!(!holder.machine.is_unwritten());
}

#[test]
fn better_certificate_in_store_is_taken_over() {
    let (mut holder, request) = Holder::requesting();
    let actions = holder.handle(Event::CertReplaced(Some(Arc::new(fresh(DAY)))));
    assert!(holder.serves(&fresh(DAY)) && !holder.machine.is_unwritten());
    assert_eq!(cancelled(&actions), Some(request.id));
}

#[test]
fn worse_certificate_in_store_is_overwritten() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let worse = mint::trimmed(with_serial(2, 30 * DAY));
    let actions = holder.handle(Event::CertReplaced(Some(Arc::new(worse))));
    assert!(written(&actions).is_some_and(|(_, certificate)| *certificate == fresh(DAY)));
}

#[test]
fn store_is_not_written_without_signer() {
    let mut holder = Holder::new(Setup { signer: SignerStatus::Absent, ..setup(Some(fresh(DAY))) });
    holder.tick();
    for found in [None, Some(Arc::new(mint::trimmed(with_serial(2, 30 * DAY))))] {
        assert_eq!(holder.handle(Event::CertReplaced(found)), []);
        assert!(holder.serves(&fresh(DAY)) && !holder.machine.is_unwritten());
    }
    let better = with_serial(3, 2 * DAY);
    holder.handle(Event::CertReplaced(Some(Arc::new(better.clone()))));
    assert!(holder.serves(&better));
}

#[test]
fn early_certificate_in_store_does_not_displace_a_valid_one() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.handle(Event::CertReplaced(Some(Arc::new(issued(&node(), 2, HOUR, 30 * DAY)))));
    assert!(holder.serves(&fresh(DAY)));
}

#[test]
fn takeover_of_due_certificate_keeps_refusal_backoff() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let (id, ..) = submitted(&holder.set_template(with_name())).expect("the certificate lacks a name");
    holder.fail(id, Failure::Denied);
    let wait = holder.time_to_request();
    holder.handle(Event::CertReplaced(Some(Arc::new(with_serial(2, 2 * DAY)))));
    assert!(holder.serves(&with_serial(2, 2 * DAY)));
    assert_eq!(holder.time_to_request(), wait);
}

#[test]
fn bootstrap_credential_is_not_written_to_empty_store() {
    let mut holder = Holder::with(Some(mint::provisional(fresh(DAY))));
    holder.tick();
    assert!(written(&holder.handle(Event::CertReplaced(None))).is_none());
}

#[test]
fn already_due_certificate_does_not_replace_one_that_ends_later() {
    let almost_over = mint::certificate(&with_name(), 2, mint::EPOCH.before(10 * DAY), 11 * DAY);
    let lacking_a_name = with_serial(9, 30 * DAY);
    let holder = answered(Some(lacking_a_name.clone()), &almost_over);
    assert!(holder.serves(&lacking_a_name), "the signer may never answer again");
    assert_eq!(holder.machine.last_failure(), Some(Failure::AlreadyDue));
}

/// The machine rejects the certificate whatever it serves: no certificate, an expired one, a bootstrap credential, or a
/// valid certificate that lacks a wanted name.
#[test]
fn issued_certificate_of_another_common_name_is_always_rejected() {
    let masters = mint::foreign(issued(&with_name(), 2, Duration::ZERO, 30 * DAY));
    let expired = mint::certificate(&with_name(), 9, mint::EPOCH.before(DAY), HOUR);
    let bootstrap = mint::provisional(fresh(DAY));
    for held in [None, Some(expired), Some(bootstrap), Some(fresh(DAY)), Some(with_serial(9, HOUR))] {
        let mut holder = Holder::with(held.clone());
        holder.set_template(with_name());
        let request = holder.next_request();
        let actions = holder.issue(request.id, &masters);
        assert_eq!((holder.machine.certificate(), written(&actions)), (held.map(Arc::new).as_ref(), None));
        assert_eq!(holder.machine.last_failure(), Some(Failure::BadCertificate));
        assert!(holder.time_to_request() >= 150 * SECOND, "the refused backoff delays the next request");
    }
}

#[test]
fn foreign_certificate_in_store_is_never_taken_over() {
    let masters = Arc::new(mint::foreign(issued(&node(), 2, Duration::ZERO, 30 * DAY)));
    let expired = mint::certificate(&node(), 9, mint::EPOCH.before(DAY), HOUR);
    for held in [None, Some(expired)] {
        let mut holder = Holder::with(held.clone());
        assert_eq!(written(&holder.handle(Event::CertReplaced(Some(masters.clone())))), None);
        assert_eq!(holder.machine.certificate(), held.map(Arc::new).as_ref());
    }
    let mut holder = Holder::with(Some(fresh(DAY)));
    let actions = holder.handle(Event::CertReplaced(Some(masters)));
    assert!(written(&actions).is_some_and(|(_, ours)| *ours == fresh(DAY)), "the served certificate is written again");
}

/// The certificate was requested before the template's common name changed, and is issued after the change. The machine
/// drops the certificate without counting a failure.
#[test]
fn certificate_of_superseded_common_name_is_dropped_without_failure() {
    let (mut holder, request) = Holder::requesting();
    // Within the spacing: the request stays in flight.
    holder.set_template(Template::node("worker-2"));
    holder.issue(request.id, &fresh(DAY));
    assert_eq!((holder.machine.certificate(), holder.machine.last_failure()), (None, None));
    assert_eq!(holder.next_request().template.common_name(), "system:node:worker-2");
}

#[test]
fn unsatisfying_certificate_replaces_foreign_one() {
    let mut holder = Holder::with(Some(fresh(30 * DAY)));
    let wanted = Template::node("worker-2").with_dns_names(["worker-2.example"]);
    holder.set_template(wanted.clone());
    let request = holder.next_request();
    let lacking = mint::trimmed(issued(&wanted, 2, Duration::ZERO, HOUR));
    holder.issue(request.id, &lacking);
    assert!(holder.serves(&lacking));
}
