//! Hints of the signer when to rotate a certificate, which set the rotation point.

use perennial::{HintFault, Outcome, Policy, Renewal, RenewalHint, UnixTime};

use super::*;

/// A certificate that is valid for a day from the beginning of virtual time.
fn daily() -> Certificate {
    fresh(DAY)
}

fn at(span: Duration) -> UnixTime {
    mint::EPOCH.after(span)
}

/// Reports this hint about `certificate`, and returns the decision of the machine.
fn hinted(holder: &mut Holder, certificate: &Certificate, hint: RenewalHint) -> Outcome {
    let event = Event::RenewalHinted { fingerprint: certificate.fingerprint, hint };
    holder.machine.handle(event, holder.now).outcomes().iter().next().cloned().unwrap()
}

fn rotation_point(holder: &Holder) -> UnixTime {
    holder.machine.rotation_point().unwrap()
}

#[test]
fn hint_is_followed_within_five_minutes() {
    for from in [HOUR, 12 * HOUR, 23 * HOUR] {
        let mut holder = Holder::with(Some(daily()));
        let outcome = hinted(&mut holder, &daily(), RenewalHint::after(at(from)));
        let point = rotation_point(&holder);
        assert_eq!(outcome, Outcome::Hinted { rotate_at: point });
        assert!(point >= at(from) && point <= at(from + 5 * MINUTE), "{point}");
        assert_eq!(holder.next_request().at, Instant::from_millis(0).after(point.since(mint::EPOCH)));
    }
}

#[test]
fn machines_of_different_seeds_spread_over_period_of_hint() {
    let period = RenewalHint { from: at(HOUR), until: at(3 * HOUR) };
    let points = (0..200).map(|seed| period.rotation_point(seed, &daily(), mint::EPOCH).unwrap());
    let minutes: Vec<_> = points.map(|point| point.since(at(HOUR)).as_secs() / 60).collect();
    assert!(minutes.iter().all(|minute| *minute <= 120), "{minutes:?}");
    let share = |half: std::ops::Range<u64>| minutes.iter().filter(|minute| half.contains(minute)).count();
    assert!(share(0..40) > 40 && share(40..80) > 40 && share(80..121) > 40, "{minutes:?}");
}

/// Close to its ends, a lifetime leaves a request too little time.
#[test]
fn hint_close_to_an_end_of_the_lifetime_keeps_ten_minutes_away() {
    let point = |hint: RenewalHint, certificate: &Certificate| {
        hint.rotation_point(7, certificate, mint::EPOCH).unwrap().since(mint::EPOCH)
    };
    assert_eq!(point(RenewalHint::after(at(DAY)), &daily()), DAY - 10 * MINUTE);
    assert_eq!(point(RenewalHint { from: at(MINUTE), until: at(2 * MINUTE) }, &daily()), 10 * MINUTE);
    // A lifetime of a minute has no ten minutes: a sixth of it.
    let brief = fresh(MINUTE);
    assert_eq!(point(RenewalHint::after(at(MINUTE)), &brief), 50 * SECOND);
    assert_eq!(point(RenewalHint { from: at(SECOND), until: at(SECOND) }, &brief), 10 * SECOND);
}

#[test]
fn hint_with_a_fault_leaves_the_window_of_the_policy() {
    let early = at(Duration::ZERO).before(SECOND);
    for (hint, fault) in [
        (RenewalHint::after(early), HintFault::BeforeValidity),
        (RenewalHint::after(at(DAY + SECOND)), HintFault::AfterValidity),
        (RenewalHint::after(at(HOUR)), HintFault::Passed),
        (RenewalHint { from: at(HOUR), until: at(HOUR + MINUTE) }, HintFault::Passed),
        (RenewalHint { from: early, until: at(12 * HOUR) }, HintFault::BeforeValidity),
    ] {
        let mut holder = Holder::with(Some(daily()));
        holder.pass(2 * HOUR);
        let by_window = rotation_point(&holder);
        // A good hint before: the one with the fault takes its place.
        hinted(&mut holder, &daily(), RenewalHint::after(at(3 * HOUR)));
        assert_ne!(rotation_point(&holder), by_window);
        assert_eq!(hinted(&mut holder, &daily(), hint), Outcome::HintDisregarded { fault }, "{hint}");
        assert_eq!(rotation_point(&holder), by_window, "{hint}");
    }
}

#[test]
fn hint_about_another_certificate_is_ignored() {
    let mut holder = Holder::with(Some(daily()));
    let before = holder.machine.clone();
    let other = issued(&node(), 2, Duration::ZERO, DAY);
    assert_eq!(hinted(&mut holder, &other, RenewalHint::after(at(HOUR))), Outcome::Ignored);
    assert_eq!(holder.machine, before);
}

#[test]
fn change_of_policy_leaves_hinted_rotation_point() {
    let mut holder = Holder::with(Some(daily()));
    hinted(&mut holder, &daily(), RenewalHint::after(at(HOUR)));
    let point = rotation_point(&holder);
    holder.handle(Event::PolicyChanged(Arc::new(Policy::kubelet())));
    assert_eq!(rotation_point(&holder), point);
}

#[test]
fn next_certificate_does_not_inherit_hint() {
    let (mut holder, request) = Holder::requesting();
    holder.issue(request.id, &daily());
    hinted(&mut holder, &daily(), RenewalHint::after(at(HOUR)));
    let request = holder.next_request();
    assert!(request.at <= Instant::from_millis(0).after(HOUR + 5 * MINUTE));
    let next = issued(&node(), 2, HOUR, DAY);
    holder.issue(request.id, &next);
    assert_eq!(holder.machine.renewal(), None);
    assert!(rotation_point(&holder) >= at(HOUR + DAY * 7 / 10), "the window of the policy decides");
}

#[test]
fn restart_keeps_hinted_rotation_point() {
    let mut holder = Holder::with(Some(daily()));
    hinted(&mut holder, &daily(), RenewalHint::after(at(HOUR)));
    let restart = |certificate: Certificate| {
        let setup = Setup { renewal: holder.machine.renewal(), ..setup(Some(certificate)) };
        RotationMachine::new(setup, holder.now).rotation_point().unwrap()
    };
    assert_eq!(restart(daily()), rotation_point(&holder));
    // The certificate in the store may be another one.
    let other = issued(&node(), 2, Duration::ZERO, DAY);
    assert!(restart(other) >= at(DAY * 7 / 10));
}

#[test]
fn damaged_rotation_point_in_record_is_disregarded() {
    let fingerprint = daily().fingerprint;
    for rotate_at in [at(DAY + SECOND), mint::EPOCH.before(SECOND), UnixTime::from_millis(i64::MAX)] {
        assert_eq!(Renewal { fingerprint, rotate_at }.rotation_point_of(&daily()), None);
    }
    let rotate_at = at(HOUR);
    assert_eq!(Renewal { fingerprint, rotate_at }.rotation_point_of(&daily()), Some(rotate_at));
}

#[test]
fn hint_about_waiting_certificate_stays_when_it_takes_its_turn() {
    let (mut holder, request) = Holder::requesting();
    holder.issue(request.id, &daily());
    holder.handle(Event::RotateNow);
    let request = holder.next_request();
    let later = issued(&node(), 2, HOUR, DAY);
    holder.issue(request.id, &later);
    assert!(holder.machine.waiting().is_some());
    let outcome = hinted(&mut holder, &later, RenewalHint::after(at(6 * HOUR)));
    let Outcome::Hinted { rotate_at } = outcome else { panic!("{outcome:?}") };
    holder.pass(2 * HOUR);
    holder.tick();
    assert!(holder.serves(&later));
    assert_eq!(rotation_point(&holder), rotate_at);
}
