//! The cases of certificate_manager_test.go that need only the machine.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Action, Certificate, Event, Instant, Now, Policy, Reason, RotationMachine, Setup, SignerStatus, State, Template,
    UnixTime, Window,
};
use perennial_tests::mint;

use super::{Row, different, same};
use perennial_tests::simulation::{DAY, HOUR, SECOND};

const SOURCE: &str = "certificate_manager_test.go";

const fn deadline_row(case: &'static str, check: fn()) -> Row {
    same(
        SOURCE,
        case,
        "the rotation point is notBefore and the policy's part of the lifetime, whatever the time is",
        check,
    )
}

const fn template_row(case: &'static str, does: &'static str, check: fn()) -> Row {
    same(SOURCE, case, does, check)
}

const LACKS: &str = "due: the template is not satisfied";
const HAS_ALL: &str = "not due: extras are fine";

pub(crate) const ROWS: &[Row] = &[
    same(
        SOURCE,
        "TestNewManagerNoRotation",
        "without a signer no request is submitted, and the stored certificate is served",
        no_rotation,
    ),
    deadline_row("TestSetRotationDeadline/just issued, still good", || deadline(HOUR, 99 * HOUR)),
    deadline_row("TestSetRotationDeadline/half way expired, still good", || deadline(24 * HOUR, 24 * HOUR)),
    deadline_row("TestSetRotationDeadline/mostly expired, still good", || deadline(69 * HOUR, 31 * HOUR)),
    deadline_row("TestSetRotationDeadline/just about expired, should rotate", || deadline(91 * HOUR, 9 * HOUR)),
    deadline_row("TestSetRotationDeadline/nearly expired, should rotate", || deadline(99 * HOUR, HOUR)),
    deadline_row("TestSetRotationDeadline/already expired, should rotate", || {
        // Expired for an hour, after nine hours of life.
        let certificate = mint::certificate(&node(), 1, mint::EPOCH.before(10 * HOUR), 9 * HOUR);
        assert_eq!(rotation_point(&certificate), mint::EPOCH.before(10 * HOUR).after(9 * HOUR * 7 / 10));
    }),
    deadline_row("TestSetRotationDeadline/long duration", || deadline(180 * DAY, 180 * DAY)),
    deadline_row("TestSetRotationDeadline/short duration", || deadline(30 * SECOND, 30 * SECOND)),
    template_row(
        "TestCertSatisfiesTemplate/No certificate, no template",
        "due, since there is no certificate; but no request is submitted",
        || {
            assert_eq!(due(None, None), Some(Reason::NoCertificate));
            assert!(!start_submits(None, None));
        },
    ),
    template_row("TestCertSatisfiesTemplate/No certificate", "due, since there is no certificate", || {
        assert_eq!(due(None, Some(Template::default())), Some(Reason::NoCertificate));
    }),
    template_row("TestCertSatisfiesTemplate/No template", "not due", || {
        assert_eq!(due(Some(certified(Template::new("system:node:fake-node-name"))), None), None);
    }),
    template_row("TestCertSatisfiesTemplate/Mismatched common name", LACKS, || {
        // With this template from the start, the machine would drop the certificate.
        let mut machine = machine(Some(certified(Template::new("system:node:fake-node-name-2"))), None);
        let wanted = Arc::new(Template::new("system:node:fake-node-name"));
        let actions = machine.handle(Event::TemplateChanged(Some(wanted)), now());
        assert_eq!(machine.due(now()), Some(Reason::TemplateNotSatisfied));
        assert!({ actions }.any(|action| matches!(action, Action::SubmitCsr { .. })));
    }),
    template_row("TestCertSatisfiesTemplate/Missing orgs", LACKS, || {
        lacks(certified(orgs(&["system:nodes"])), orgs(&["system:nodes", "foobar"]));
    }),
    template_row("TestCertSatisfiesTemplate/Extra orgs", HAS_ALL, || {
        has_all(certified(orgs(&["system:nodes", "foobar"])), orgs(&["system:nodes"]));
    }),
    template_row("TestCertSatisfiesTemplate/Missing DNS names", LACKS, || {
        lacks(
            certified(Template::default().with_dns_names(["foo"])),
            Template::default().with_dns_names(["foo", "bar"]),
        );
    }),
    template_row("TestCertSatisfiesTemplate/Extra DNS names", HAS_ALL, || {
        has_all(
            certified(Template::default().with_dns_names(["foo", "bar"])),
            Template::default().with_dns_names(["foo"]),
        );
    }),
    template_row("TestCertSatisfiesTemplate/Missing IP addresses", LACKS, || {
        lacks(
            certified(Template::default().with_ip_addresses(ips(&[1]))),
            Template::default().with_ip_addresses(ips(&[1, 2])),
        );
    }),
    template_row("TestCertSatisfiesTemplate/Extra IP addresses", HAS_ALL, || {
        has_all(
            certified(Template::default().with_ip_addresses(ips(&[1, 2]))),
            Template::default().with_ip_addresses(ips(&[1])),
        );
    }),
    template_row("TestCertSatisfiesTemplate/Matching certificate", "not due", || {
        let template = Template::node("fake-node-name").with_dns_names(["foo", "bar"]).with_ip_addresses(ips(&[1, 2]));
        let certificate = mint::certificate(&template, 1, mint::EPOCH, DAY);
        has_all(certificate, template);
    }),
    same(SOURCE, "TestNewManagerBootstrap", "the bootstrap credential is served, and due at once", || {
        let mut machine = machine(Some(bootstrap()), Some(node()));
        assert!(machine.certificate_at(mint::EPOCH).is_some_and(|held| held.provisional));
        assert!(submits(&mut machine));
        assert_eq!(machine.due(now()), Some(Reason::Provisional));
    }),
    different(
        SOURCE,
        "TestNewManagerBootstrap (stored as current)",
        "a bootstrap credential is never written to the store, and is due until it is replaced",
        "a stored one would be an ordinary certificate after a restart, and keep its permissions",
        || {
            let mut machine = machine(Some(bootstrap()), Some(node()));
            let writes = |action: Action| matches!(action, Action::WriteCert { .. });
            assert!(!machine.handle(Event::Tick, now()).any(writes));
            assert!(!machine.handle(Event::CertReplaced(None), now()).any(writes));
            let mut again = self::machine(Some(bootstrap()), Some(node()));
            assert!(submits(&mut again), "after a restart too");
        },
    ),
];

fn no_rotation() {
    let certificate = Arc::new(mint::certificate(&node(), 1, mint::EPOCH.before(23 * HOUR), DAY));
    let setup = Setup {
        signer: SignerStatus::Absent,
        template: Some(Arc::default()),
        certificate: Some(certificate),
        ..Setup::default()
    };
    let mut machine = RotationMachine::new(setup, now());
    assert!(!submits(&mut machine));
    assert_eq!(machine.state(), State::NotEnabled);
    assert!(machine.certificate_at(mint::EPOCH).is_some());
}

/// Checks the rotation point of a certificate whose notBefore was `past` ago and which expires in `left`. The rotation
/// point must be at 70 % of the lifetime, since upstream's tests use 0.7 instead of a random share.
fn deadline(past: Duration, left: Duration) {
    let certificate = mint::certificate(&node(), 1, mint::EPOCH.before(past), past + left);
    assert_eq!(rotation_point(&certificate), mint::EPOCH.before(past).after((past + left) * 7 / 10));
}

fn rotation_point(certificate: &Certificate) -> UnixTime {
    let policy = Policy { window: Window::new(700, 700).unwrap(), ..Policy::default() };
    let setup = Setup {
        policy: Arc::new(policy),
        template: Some(Arc::new(node())),
        certificate: Some(Arc::new(certificate.clone())),
        ..Setup::default()
    };
    RotationMachine::new(setup, now()).rotation_point().unwrap()
}

fn now() -> Now {
    Now { instant: Instant::from_millis(0), unix: mint::EPOCH }
}

fn node() -> Template {
    Template::node("worker-1")
}

fn bootstrap() -> Certificate {
    mint::provisional(mint::certificate(&node(), 1, mint::EPOCH.before(HOUR), DAY))
}

fn machine(certificate: Option<Certificate>, template: Option<Template>) -> RotationMachine {
    let setup = Setup { template: template.map(Arc::new), certificate: certificate.map(Arc::new), ..Setup::default() };
    RotationMachine::new(setup, now())
}

fn submits(machine: &mut RotationMachine) -> bool {
    machine.handle(Event::Tick, now()).any(|action| matches!(action, Action::SubmitCsr { .. }))
}

fn start_submits(certificate: Option<Certificate>, template: Option<Template>) -> bool {
    submits(&mut machine(certificate, template))
}

fn due(certificate: Option<Certificate>, template: Option<Template>) -> Option<Reason> {
    machine(certificate, template).due(now())
}

fn lacks(certificate: Certificate, template: Template) {
    assert_eq!(due(Some(certificate.clone()), Some(template.clone())), Some(Reason::TemplateNotSatisfied));
    assert!(start_submits(Some(certificate), Some(template)));
}

fn has_all(certificate: Certificate, template: Template) {
    assert_eq!(due(Some(certificate.clone()), Some(template.clone())), None);
    assert!(!start_submits(Some(certificate), Some(template)));
}

/// Makes a fresh certificate with these names.
fn certified(names: Template) -> Certificate {
    mint::certificate(&names, 1, mint::EPOCH, DAY)
}

fn orgs(names: &[&str]) -> Template {
    Template::default().with_organizations(names.iter().copied())
}

fn ips(last: &[u8]) -> Vec<IpAddr> {
    last.iter().map(|last| IpAddr::from([192, 168, 1, *last])).collect()
}
