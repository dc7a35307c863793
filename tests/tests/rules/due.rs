//! When a certificate is due, and when no request can be submitted.

use std::sync::Arc;

use perennial::{Event, Failure, Policy, Reason, Setup, State, Template, UnixTime, Window, rotation_point};
use perennial_tests::mint;

use super::*;

#[test]
fn missing_certificate_is_due_at_once() {
    let (holder, request) = Holder::requesting();
    assert_eq!(holder.machine.due(holder.now), Some(Reason::NoCertificate));
    assert_eq!((request.at, request.key, &*request.template), (Instant::from_millis(0), Key::New, &node()));
}

#[test]
fn fresh_certificate_is_not_due_before_rotation_point() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let point = holder.machine.rotation_point().unwrap();
    assert_eq!(
        holder.next_request().at.as_millis(),
        u64::try_from(point.as_millis() - mint::EPOCH.as_millis()).unwrap()
    );
}

#[test]
fn rotation_points_spread_evenly_over_the_window() {
    let points: Vec<_> = (0..1000)
        .map(|seed| rotation_point(&Policy::default(), seed, &fresh(DAY)).since(mint::EPOCH).as_secs() * 1000 / 86_400)
        .collect();
    assert!(points.iter().all(|permille| (700..900).contains(permille)));
    assert!((0..4).all(|quarter| points.iter().filter(|p| **p / 50 == 14 + quarter).count() > 150), "spread evenly");
}

#[test]
fn rotation_point_changes_only_with_the_certificate() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let point = holder.machine.rotation_point();
    holder.requests_within(DAY / 2);
    holder.set_template(with_name());
    holder.set_template(node());
    assert_eq!(holder.machine.rotation_point(), point);
}

/// The cases of client-go's `TestSetRotationDeadline`. A case consists of the time from notBefore to now and the time
/// from now to notAfter. The rotation point must be at 70 % of the lifetime.
#[test]
fn rotation_points_match_cases_of_client_go() {
    let policy = Policy { window: Window::new(700, 700).unwrap(), ..Policy::default() };
    let hours = [(1, 99), (24, 24), (69, 31), (91, 9), (99, 1), (180 * 24, 180 * 24)];
    let cases = hours.map(|(before, after)| (before * 3600, after * 3600)).into_iter();
    let expired = (10 * 3600, -3600);
    for (before, after) in cases.chain([expired, (30, 30)]) {
        let not_before = mint::EPOCH.as_secs() - before;
        let life = Duration::from_secs(u64::try_from(before + after).unwrap());
        let certificate = mint::certificate(&node(), 7, UnixTime::from_secs(not_before), life);
        let expected = UnixTime::from_secs(not_before).after(life * 7 / 10);
        assert_eq!(rotation_point(&policy, 99, &certificate), expected, "-{before}s/{after}s");
    }
}

/// The cases of client-go's `TestCertSatisfiesTemplate`.
#[test]
fn template_comparison_matches_upstream_cases() {
    let base = || Template::new("system:node:fake-node-name");
    let ip = |last| std::net::IpAddr::from([192, 168, 1, last]);
    let all = base().with_organizations(["system:nodes"]).with_dns_names(["foo"]).with_ip_addresses([ip(1)]);
    let cases = [
        ("Mismatched common name", Template::new("system:node:fake-node-name-2"), base(), false),
        ("Missing orgs", base().with_organizations(["nodes"]), base().with_organizations(["nodes", "foobar"]), false),
        ("Extra orgs", base().with_organizations(["nodes", "foobar"]), base().with_organizations(["nodes"]), true),
        ("Missing DNS names", base().with_dns_names(["foo"]), base().with_dns_names(["foo", "bar"]), false),
        ("Extra DNS names", base().with_dns_names(["foo", "bar"]), base().with_dns_names(["foo"]), true),
        ("Missing IP addresses", base().with_ip_addresses([ip(1)]), base().with_ip_addresses([ip(1), ip(2)]), false),
        ("Extra IP addresses", base().with_ip_addresses([ip(1), ip(2)]), base().with_ip_addresses([ip(1)]), true),
        ("Matching certificate", all.clone(), all, true),
    ];
    for (case, carries, template, satisfied) in cases {
        let certificate = Some(Arc::new(issued(&carries, 1, Duration::ZERO, DAY)));
        let mut holder = Holder::new(Setup { certificate, ..Setup::default() });
        holder.set_template(template);
        let due = (!satisfied).then_some(Reason::TemplateNotSatisfied);
        assert_eq!(holder.machine.due(holder.now), due, "{case}");
    }
    let without = |template: Option<Template>, certificate: Option<Certificate>| {
        let (template, certificate) = (template.map(Arc::new), certificate.map(Arc::new));
        let holder = Holder::new(Setup { template, certificate, ..Setup::default() });
        holder.machine.due(holder.now)
    };
    assert_eq!(without(None, None), Some(Reason::NoCertificate), "No certificate, no template");
    assert_eq!(without(Some(Template::default()), None), Some(Reason::NoCertificate), "No certificate");
    assert_eq!(without(None, Some(fresh(DAY))), None, "No template");
}

#[test]
fn template_without_names_is_satisfied_by_every_certificate() {
    let unnamed = Template::default();
    assert!(unnamed.is_empty() && unnamed.wanted_common_name().is_none());
    assert!(!node().is_empty());
    let only_dns = Template::default().with_dns_names(["a.example"]);
    assert_eq!(only_dns.wanted_common_name(), Some(""));
    for names in [node(), only_dns.clone(), Template::default()] {
        let certificate = issued(&names, 1, Duration::ZERO, DAY);
        assert!(unnamed.is_named_by(&certificate) && unnamed.satisfied_by(&certificate), "{names}");
    }
    // A template with names but without a common name wants a certificate without a common name.
    assert!(!only_dns.satisfied_by(&issued(&node().with_dns_names(["a.example"]), 1, Duration::ZERO, DAY)));
}

#[test]
fn certificate_with_the_signers_names_fulfils_template_without_names() {
    let mut holder = Holder::with(None);
    holder.set_template(Template::default());
    let request = holder.next_request();
    let certificate = issued(&node().with_uris(["spiffe://a.example/b"]), 2, Duration::ZERO, DAY);
    holder.issue(request.id, &certificate);
    assert!(holder.serves(&certificate));
    assert_eq!(holder.machine.due(holder.now), None);
    // Names are wanted now, which the certificate lacks.
    holder.set_template(with_name());
    assert_eq!(holder.machine.due(holder.now), Some(Reason::TemplateNotSatisfied));
    holder.set_template(Template::default());
    assert_eq!(holder.machine.due(holder.now), None);
}

#[test]
fn ipv4_mapped_address_equals_ipv4_address() {
    let mapped: std::net::IpAddr = "::ffff:192.0.2.1".parse().unwrap();
    let certificate = issued(&node().with_ip_addresses([mapped]), 1, Duration::ZERO, DAY);
    assert!(node().with_ip_addresses([[192, 0, 2, 1].into()]).satisfied_by(&certificate));
    assert_eq!(node().with_ip_addresses([mapped]), node().with_ip_addresses([[192, 0, 2, 1].into()]));
}

/// A URI, such as a SPIFFE ID, is compared byte for byte, since peers compare URIs in this way.
#[test]
fn template_is_satisfied_only_if_certificate_has_all_its_rare_names() {
    let uri = |uri: &str| node().with_uris([uri]);
    let all = || uri("spiffe://a.example/b").with_organizational_units(["unit", "other"]).with_serial_number("A-17");
    let cases = [
        (all(), all(), true),
        (node(), all(), true),
        (uri("spiffe://a.example/b"), all(), true),
        (node().with_organizational_units(["other"]), all(), true),
        (all(), node(), false),
        (uri("spiffe://a.example/B"), all(), false),
        (uri("SPIFFE://a.example/b"), all(), false),
        (all().with_uris(["https://a.example"]), all(), false),
        (all().with_organizational_units(["Unit"]), all(), false),
        (node().with_serial_number("A-18"), all(), false),
        (node().with_serial_number("A-17"), node(), false),
    ];
    for (wanted, template, satisfied) in cases {
        let carries = issued(&template, 1, Duration::ZERO, DAY);
        assert_eq!(wanted.satisfied_by(&carries), satisfied, "{wanted} by {template}");
    }
}

#[test]
fn template_keeps_names_of_any_length() {
    for length in [0, 1, 9, 30, 126, 127, 128, 16_383, 16_384, 20_000] {
        let (name, uri) = ("é".repeat(length), format!("a:{}", "b".repeat(length)));
        let addresses: [std::net::IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "::1".parse().unwrap()];
        let template = Template::new(&name).with_organizations([&name, ""]).with_dns_names(["b", "a"]);
        let template = template.with_ip_addresses(addresses.into_iter().rev()).with_uris([&uri]);
        assert_eq!(template.common_name(), name);
        let organizations: Vec<_> = ["", &name].into_iter().skip(usize::from(length == 0)).collect();
        assert!(template.organizations().eq(organizations), "{length}");
        assert!(template.dns_names().eq(["a", "b"]), "{length}");
        assert!(template.ip_addresses().eq(addresses), "{length}");
        assert!(template.uris().eq([&uri]), "{length}");
        assert_eq!((template.organizational_units().count(), template.serial_number()), (0, ""));
        assert_eq!(template, template.clone().with_dns_names(["a"]));
        assert_ne!(template, template.clone().with_dns_names(["c"]));
    }
}

#[test]
fn certificate_shares_names_of_equal_template_only() {
    let (wanted, other) = (Arc::new(with_name()), Arc::new(node()));
    let own = issued(&wanted, 1, Duration::ZERO, DAY);
    let shared = own.clone().sharing_names(&wanted);
    assert!(Arc::ptr_eq(&shared.names, &wanted));
    assert_eq!(shared, own);
    assert!(wanted.satisfied_by(&shared) && other.satisfied_by(&shared));
    let kept = own.clone().sharing_names(&other);
    assert!(Arc::ptr_eq(&kept.names, &own.names));
}

#[test]
fn template_with_equal_rare_names_is_equal() {
    let one = node().with_uris(["b:1", "a:1"]).with_organizational_units(["x", "x"]).with_serial_number("7");
    let other = node().with_serial_number("7").with_organizational_units(["x"]).with_uris(["a:1", "b:1", "a:1"]);
    assert_eq!(one, other);
    assert!(one.uris().eq(["a:1", "b:1"]), "{one}");
    assert_eq!(one.to_string(), format!("{},URI=a:1,URI=b:1,OU=x,serialNumber=7", node()));
    let emptied = node().with_serial_number("7").with_serial_number("").with_uris([""; 0]);
    assert_eq!(emptied, node());
}

/// DNS names are compared by RFC 4343, without case. Common name and organizations are compared byte for byte, since
/// they are Kubernetes' user name and groups. A problem of other programs: names are requested and issued in different
/// spelling. <https://github.com/letsencrypt/crl-monitor/pull/80>,
/// <https://github.com/siderolabs/talos-cloud-controller-manager/issues/360>
#[test]
fn dns_names_compare_without_case_and_trailing_dot() {
    let carries = |template: &Template| issued(template, 1, Duration::ZERO, DAY);
    let dns = |name: &str| node().with_dns_names([name]);
    let cases = [
        (dns("Svc.Example"), dns("svc.example"), true),
        (dns("svc.example."), dns("svc.example"), true),
        (dns("SVC.example"), dns("svc.EXAMPLE."), true),
        (dns("svc.example"), dns("svc-example"), false),
        (dns("svc.example"), dns("svc.example.."), false),
        (dns("."), dns("svc"), false),
        (Template::node("Worker-1"), Template::node("worker-1"), false),
        (node().with_organizations(["Dev"]), node().with_organizations(["dev"]), false),
    ];
    for (wanted, template, same) in cases {
        assert_eq!(wanted.satisfied_by(&carries(&template)), same, "{wanted} by {template}");
        assert_eq!(wanted == template, same, "{wanted} and {template}");
        // A signer may write names in capitals and with a trailing dot.
        let shouted = template.dns_names().map(|name| name.to_ascii_uppercase() + ".");
        let names = Template::new(template.common_name()).with_organizations(template.organizations());
        let shouting = carries(&names.with_dns_names(shouted));
        assert_eq!(wanted.satisfied_by(&shouting), same, "{wanted} by {template}, shouted");
    }
    assert_eq!(dns("Svc.Example.").dns_names().next(), Some("svc.example"), "a template has names in lower case");
}

#[test]
fn bootstrap_credential_is_served_and_due_until_certificate_is_issued() {
    let bootstrap = mint::provisional(fresh(DAY));
    let mut holder = Holder::with(Some(bootstrap.clone()));
    let request = holder.next_request();
    holder.fail(request.id, Failure::Denied);
    assert!(holder.serves(&bootstrap));
    assert_eq!(holder.machine.due(holder.now), Some(Reason::Provisional));
    let request = holder.next_request();
    holder.issue(request.id, &issued(&node(), 2, HOUR, DAY));
    assert_eq!(holder.machine.due(holder.now), None);
}

#[test]
fn refused_certificate_is_due_and_still_served() {
    let certificate = fresh(DAY);
    let mut holder = Holder::with(Some(certificate.clone()));
    holder.tick();
    let actions = holder.handle(Event::CertRefused { fingerprint: certificate.fingerprint });
    assert!(submitted(&actions).is_some());
    assert!(holder.serves(&certificate));
    assert_eq!(holder.machine.due(holder.now), Some(Reason::Refused));
}

#[test]
fn refusal_of_certificate_no_longer_served_is_ignored() {
    let (mut holder, request) = Holder::requesting();
    holder.issue(request.id, &fresh(DAY));
    let before = holder.machine.clone();
    assert!(holder.handle(Event::CertRefused { fingerprint: mint::fingerprint(99) }).is_empty());
    assert_eq!(holder.machine, before);
}

#[test]
fn rotate_now_is_remembered_until_a_certificate_is_accepted() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let (id, ..) = submitted(&holder.handle(Event::RotateNow)).expect("nothing stands in the way");
    holder.fail(id, Failure::Denied);
    assert_eq!(holder.machine.due(holder.now), Some(Reason::RotateNow));
    let request = holder.next_request();
    holder.issue(request.id, &issued(&node(), 2, HOUR, DAY));
    assert_eq!(holder.machine.due(holder.now), None);
}

#[test]
fn most_urgent_of_several_reasons_is_reported() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.handle(Event::RotateNow);
    assert_eq!(holder.machine.due(holder.now), Some(Reason::RotateNow));
    holder.set_template(with_name());
    assert_eq!(holder.machine.due(holder.now), Some(Reason::TemplateNotSatisfied));
    holder.handle(Event::CertRefused { fingerprint: mint::fingerprint(1) });
    assert_eq!(holder.machine.due(holder.now), Some(Reason::Refused));
    holder.pass(DAY * 95 / 100);
    assert_eq!(holder.machine.due(holder.now), Some(Reason::RotationPoint));
    holder.pass(DAY);
    assert_eq!(holder.machine.due(holder.now), Some(Reason::Expired));
}

#[test]
fn reasons_are_ordered_most_urgent_first() {
    assert!(Reason::ALL.is_sorted());
    let normal_reasons = [Reason::TemplateNotSatisfied, Reason::RotateNow];
    assert_eq!(Reason::ALL[5..], normal_reasons, "reasons of normal priority come last");
}

#[test]
fn certificate_is_valid_up_to_and_including_not_after() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.pass(DAY);
    assert!(holder.serves(&fresh(DAY)));
    holder.pass(Duration::from_millis(1));
    assert_eq!(holder.machine.certificate_at(holder.now.unix), None);
}

#[test]
fn missing_template_leads_to_no_request_and_no_tick() {
    let mut holder = Holder::new(Setup::default());
    assert!(submitted(&holder.tick()).is_none());
    assert_eq!((holder.machine.deadline(), holder.machine.state()), (None, State::NoTemplate));
    let request = submitted(&holder.set_template(node()));
    assert!(request.is_some(), "no backoff stands in the way");
}

#[test]
fn missing_signer_is_reported_as_not_enabled() {
    let mut holder = Holder::new(Setup { signer: SignerStatus::Absent, ..setup(None) });
    assert!(submitted(&holder.tick()).is_none());
    assert_eq!((holder.machine.deadline(), holder.machine.state()), (None, State::NotEnabled));
    assert!(holder.machine.to_string().contains("not enabled"));
    assert!(submitted(&holder.handle(Event::SignerChanged(SignerStatus::Ready))).is_some());
}

#[test]
fn missing_identity_delays_requests_and_is_no_failure() {
    let mut holder = Holder::new(Setup { signer: SignerStatus::NotReady, ..setup(None) });
    let reason = Reason::NoCertificate;
    assert!(submitted(&holder.tick()).is_none());
    assert!(holder.requests_within(DAY).is_empty());
    assert_eq!((holder.machine.state(), holder.machine.last_failure()), (State::NoIdentity { reason }, None));
    assert!(submitted(&holder.handle(Event::SignerChanged(SignerStatus::Ready))).is_some(), "at once");
}

#[test]
fn lost_identity_ends_neither_request_in_flight_nor_backoff() {
    let (mut holder, request) = Holder::requesting();
    assert_eq!(cancelled(&holder.handle(Event::SignerChanged(SignerStatus::NotReady))), None);
    assert!(matches!(holder.machine.state(), State::Requesting { id, .. } if id == request.id));
    holder.fail(request.id, Failure::Denied);
    assert_eq!(holder.machine.state(), State::NoIdentity { reason: Reason::NoCertificate });
    let back = holder.handle(Event::SignerChanged(SignerStatus::Ready));
    assert!(submitted(&back).is_none() && holder.machine.last_failure() == Some(Failure::Denied), "denied is denied");
}

#[test]
fn good_certificate_needs_no_identity_until_it_is_due() {
    let mut holder = Holder::new(Setup { signer: SignerStatus::NotReady, ..setup(Some(fresh(DAY))) });
    holder.tick();
    assert!(matches!(holder.machine.state(), State::Scheduled { .. }));
    holder.requests_within(DAY);
    assert_eq!(holder.machine.state(), State::NoIdentity { reason: Reason::RotationPoint });
}

#[test]
fn request_is_cancelled_if_template_or_signer_is_removed() {
    for gone in [Event::TemplateChanged(None), Event::SignerChanged(SignerStatus::Absent)] {
        let (mut holder, request) = Holder::requesting();
        let actions = holder.handle(gone);
        assert_eq!(cancelled(&actions), Some(request.id));
        assert!(holder.issue(request.id, &fresh(DAY)).is_empty(), "a late reply is ignored");
        assert_eq!(holder.machine.last_failure(), None, "no attempt failed");
    }
}

#[test]
fn failed_write_is_repeated_after_template_is_removed() {
    let (mut holder, request) = Holder::requesting();
    holder.issue(request.id, &fresh(DAY));
    holder.handle(Event::WriteFailed { id: request.id });
    holder.handle(Event::TemplateChanged(None));
    assert!(written(&holder.tick_at_deadline()).is_some());
}

/// At the start, the store holds a certificate of another common name, as after a typing error in the node's name. The
/// machine does not serve this certificate, and orders no write before a new certificate is issued.
#[test]
fn foreign_certificate_at_start_is_not_served() {
    let another = issued(&Template::node("worker-2"), 1, Duration::ZERO, DAY);
    let mut holder = Holder::with(Some(another.clone()));
    assert_eq!(holder.machine.certificate(), None);
    assert_eq!(holder.machine.due(holder.now), Some(Reason::NoCertificate));
    assert_eq!(written(&holder.tick()), None, "no write is ordered");
    let theirs = Holder::new(Setup { signer: SignerStatus::Absent, ..setup(Some(another.clone())) });
    assert!(theirs.serves(&another), "without a signer any name is served");
    let bootstrap = mint::provisional(another);
    assert!(Holder::with(Some(bootstrap.clone())).serves(&bootstrap), "a bootstrap credential authenticates requests");
}

#[test]
fn certificate_of_old_name_is_served_until_successor_is_issued() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.set_template(Template::node("worker-2"));
    assert!(holder.serves(&fresh(DAY)));
    let request = holder.next_request();
    assert_eq!(request.template.common_name(), "system:node:worker-2");
    let new = issued(&request.template, 2, Duration::ZERO, HOUR);
    holder.issue(request.id, &new);
    assert!(holder.serves(&new));
}
