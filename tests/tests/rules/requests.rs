//! How often requests are submitted, changes of the template during a request, and the choice between new and pending
//! key.

use perennial::{Event, Failure, Policy, State};

use super::*;

#[test]
fn rotate_now_after_failure_waits_for_the_spacing() {
    let (mut holder, request) = Holder::requesting();
    holder.fail(request.id, Failure::Unreachable);
    holder.handle(Event::RotateNow); // no backoff
    assert_eq!(holder.next_request().at, request.at.after(Policy::default().spacing));
}

#[test]
fn repeated_rotate_now_stays_within_budget() {
    let mut holder = Holder::with(None);
    let mut made = 0;
    for _ in 0..3600 {
        if let Some((id, ..)) = submitted(&holder.handle(Event::RotateNow)) {
            made += 1;
            holder.fail(id, Failure::Unreachable);
        }
        holder.pass(SECOND);
    }
    assert_eq!(Policy::default().submissions_within(HOUR), 50);
    assert_eq!(made, 49, "the last token of the hour is refilled a second later");
}

#[test]
fn normal_requests_leave_the_last_token_of_the_budget_to_urgent_ones() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let size = Policy::default().budget.size();
    let mut made = 0;
    for i in 0..60 {
        let actions = holder.set_template(node().with_dns_names([format!("name-{i}")]));
        made += u32::from(submitted(&actions).is_some());
        holder.pass(SECOND);
    }
    assert_eq!(made, size - 1);
    let certificate = fresh(DAY);
    let in_danger = holder.handle(Event::CertRefused { fingerprint: certificate.fingerprint });
    assert!(submitted(&in_danger).is_none(), "a request is in flight already");
    let State::Requesting { id, .. } = holder.machine.state() else { panic!("{}", holder.machine) };
    holder.fail(id, Failure::Unreachable);
    assert!(holder.time_to_request() < MINUTE, "an urgent request may take the last token");
}

#[test]
fn urgent_request_needs_one_token_and_normal_request_needs_two() {
    let mut holder = Holder::with(None);
    for _ in 0..Policy::default().budget.size() {
        let (id, ..) = submitted(&holder.handle(Event::RotateNow)).expect("within the budget");
        holder.fail(id, Failure::Unreachable);
        holder.pass(SECOND);
    }
    holder.handle(Event::RotateNow); // no backoff
    let begin = Instant::from_millis(0);
    assert_eq!(begin.after(holder.time_to_request() + 10 * SECOND), begin.after(90 * SECOND));
    holder.handle(Event::CertReplaced(Some(Arc::new(fresh(DAY)))));
    holder.handle(Event::RotateNow);
    assert_eq!(begin.after(holder.time_to_request() + 10 * SECOND), begin.after(180 * SECOND));
}

#[test]
fn expiry_does_not_overrule_the_budget() {
    let mut holder = Holder::with(Some(fresh(20 * SECOND)));
    let made = holder.requests_within(HOUR);
    let first = made.first().expect("a request is submitted").at;
    assert!(made.len() as u64 <= Policy::default().submissions_within(HOUR), "{} since {first}", made.len());
}

#[test]
fn setting_an_equal_template_changes_nothing() {
    let (mut holder, _) = Holder::requesting();
    let before = holder.machine.clone();
    assert!(holder.set_template(node().with_organizations(["system:nodes"])).is_empty());
    assert_eq!(holder.machine, before);
}

#[test]
fn new_template_supersedes_request_in_one_step() {
    let (mut holder, request) = Holder::requesting();
    holder.pass(SECOND);
    let actions = holder.set_template(with_name());
    let (_, template, key) = submitted(&actions).expect("the budget allows a request");
    assert_eq!(cancelled(&actions), Some(request.id));
    assert_eq!((&*template, key), (&with_name(), Key::New));
    assert_eq!(holder.machine.last_failure(), None, "being superseded is not a failure");
}

#[test]
fn certificate_of_old_template_is_accepted_until_next_request_is_submitted() {
    let (mut holder, request) = Holder::requesting();
    assert!(submitted(&holder.set_template(with_name())).is_none(), "within the spacing");
    let actions = holder.issue(request.id, &fresh(DAY));
    assert!(written(&actions).is_some() && holder.serves(&fresh(DAY)));
    assert_eq!(holder.machine.last_failure(), None, "the certificate is as requested");
    assert_eq!(*holder.next_request().template, with_name());
}

#[test]
fn template_changed_back_within_spacing_submits_no_request() {
    let (mut holder, request) = Holder::requesting();
    holder.set_template(with_name());
    holder.set_template(node());
    assert!(holder.requests_within(MINUTE).is_empty());
    assert!(!holder.issue(request.id, &fresh(DAY)).is_empty());
}

#[test]
fn request_is_cancelled_once_nothing_is_due() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let (id, ..) = submitted(&holder.set_template(with_name())).expect("the certificate lacks a name");
    assert_eq!(cancelled(&holder.set_template(node())), Some(id));
    assert!(matches!(holder.machine.state(), State::Scheduled { .. }));
}

#[test]
fn new_template_ends_refusal_backoff() {
    let (mut holder, request) = Holder::requesting();
    holder.fail(request.id, Failure::Denied);
    holder.pass(SECOND);
    assert!(submitted(&holder.set_template(with_name())).is_some());
}

#[test]
fn new_template_keeps_outage_backoff() {
    let (mut holder, request) = Holder::requesting();
    holder.handle(Event::CsrFailed { id: request.id, failure: Failure::Throttled, retry_after: Some(MINUTE) });
    holder.pass(SECOND);
    holder.set_template(with_name());
    assert!(holder.time_to_request() >= MINUTE - SECOND);
}

#[test]
fn refusal_of_old_template_does_not_delay_new_one() {
    let (mut holder, request) = Holder::requesting();
    holder.set_template(with_name());
    holder.fail(request.id, Failure::Denied);
    let next = holder.next_request();
    assert_eq!((next.at, &*next.template), (request.at.after(Policy::default().spacing), &with_name()));
}

#[test]
fn retries_reuse_the_pending_key() {
    let (mut holder, mut request) = Holder::requesting();
    let kinds = [Failure::Unreachable, Failure::Throttled, Failure::Unauthorized, Failure::Forbidden];
    for failure in kinds.into_iter().chain([Failure::Deleted, Failure::Local]) {
        holder.fail(request.id, failure);
        request = holder.next_request();
        assert_eq!(request.key, Key::Pending, "{failure}");
    }
    assert!(holder.requests_within(DAY).iter().all(|timed_out| timed_out.key == Key::Pending));
}

#[test]
fn refusal_leads_to_a_new_key() {
    let kinds = [Failure::Denied, Failure::SignerFailed, Failure::Rejected, Failure::BadCertificate];
    for failure in kinds.into_iter().chain([Failure::Unsatisfying, Failure::AlreadyDue]) {
        let (mut holder, request) = Holder::requesting();
        holder.fail(request.id, failure);
        assert_eq!(holder.next_request().key, Key::New, "{failure}");
    }
}

#[test]
fn request_that_another_key_may_save_is_repeated_with_it_soon() {
    for failure in [Failure::Outdated, Failure::UnsupportedKey] {
        let (mut holder, request) = Holder::requesting();
        holder.fail(request.id, failure);
        let next = holder.next_request();
        assert_eq!(next.key, Key::New, "{failure}");
        assert!(next.at.since(request.at) <= Policy::default().transient.longest(), "{failure}");
    }
}

#[test]
fn new_template_and_next_rotation_use_new_keys() {
    let (mut holder, _) = Holder::requesting();
    holder.set_template(with_name());
    let request = holder.next_request();
    assert_eq!(request.key, Key::New);
    holder.issue(request.id, &issued(&with_name(), 1, Duration::ZERO, DAY));
    assert_eq!(holder.next_request().key, Key::New);
}

#[test]
fn policy_can_require_new_key_per_attempt() {
    let mut holder = under(Policy { new_key_per_attempt: true, ..Policy::default() }, None);
    assert!(holder.requests_within(DAY).iter().all(|request| request.key == Key::New));
}
