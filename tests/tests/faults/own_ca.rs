//! A CA that is a closure in the node's own process, and faulty. Each fault that is possible without HTTP is tested,
//! and the laws are checked.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Policy, Template, UnixTime};
use perennial_dev::Options;
use perennial_pki::{Chain, RequestFacts, Usage, certificate_request, read_request};
use perennial_rotation::{Input, SignError, SignRequest};
use perennial_tests::simulation::{Member as _, Node, OwnCa, SECOND, Server, key};

use crate::table::Outcome;
use crate::{HOUR, MINUTE, policy};

const LIFETIME: Duration = Duration::from_secs(40 * 3600);
const NAME: &str = "orders.example";

type Rule = fn(&OwnCa, &SignRequest) -> Result<Chain, SignError>;

/// The faults of the CA. Each has a name, the rule by which the CA answers, the time that an answer takes, and the
/// outcome of the first request under the fault.
const TABLE: [(&str, Rule, Duration, Outcome); 13] = {
    use Failure::{AlreadyDue, BadCertificate, Local, TimedOut, Unsatisfying};
    use Outcome::{Failed, Issued};
    const NOW: Duration = Duration::ZERO;
    [
        ("slow", OwnCa::sign, Duration::from_secs(14 * 60), Issued),
        ("too slow", OwnCa::sign, HOUR, Failed(TimedOut)),
        ("panics", |_, _| panic!("no token in slot 0"), NOW, Failed(Local)),
        ("garbage", |_, _| parsed(b"garbage"), NOW, Failed(BadCertificate)),
        ("nothing", |_, _| parsed(b""), NOW, Failed(BadCertificate)),
        ("wrong key", |ca, _| signed(ca, &requested(NAME, [NAME]), Usage::ClientAuth), NOW, Failed(BadCertificate)),
        ("wrong name", wrong_name, NOW, Failed(BadCertificate)),
        ("a name too few", a_name_too_few, NOW, Failed(Unsatisfying)),
        (
            "wrong usage",
            |ca, request| signed(ca, &OwnCa::read(request)?, Usage::ServerAuth),
            NOW,
            Failed(BadCertificate),
        ),
        ("another CA", another_ca, NOW, Failed(BadCertificate)),
        (
            "expired",
            |ca, request| since(ca, request, ca.now().before(LIFETIME + 2 * HOUR)),
            NOW,
            Failed(BadCertificate),
        ),
        (
            "all but expired",
            |ca, request| since(ca, request, ca.now().before(LIFETIME - HOUR)),
            NOW,
            Failed(AlreadyDue),
        ),
        ("not valid for ages", |ca, request| since(ca, request, ca.now().after(LIFETIME)), NOW, Failed(BadCertificate)),
    ]
};

fn parsed(pem: &[u8]) -> Result<Chain, SignError> {
    Chain::from_pem(pem).map_err(|error| SignError::new(Failure::BadCertificate, error.to_string()))
}

/// The facts of a request for these names, with a new key that is not the node's.
fn requested<const N: usize>(common_name: &str, dns_names: [&str; N]) -> RequestFacts {
    let template = Template::new(common_name).with_dns_names(dns_names);
    read_request(certificate_request(&template, &key()).unwrap().pem.as_bytes()).unwrap()
}

fn signed(ca: &OwnCa, request: &RequestFacts, usage: Usage) -> Result<Chain, SignError> {
    ca.issue(request, ca.now(), LIFETIME, usage)
}

fn since(ca: &OwnCa, request: &SignRequest, begin: UnixTime) -> Result<Chain, SignError> {
    ca.issue(&OwnCa::read(request)?, begin, LIFETIME, Usage::ClientAuth)
}

fn wrong_name(ca: &OwnCa, request: &SignRequest) -> Result<Chain, SignError> {
    let mut facts = OwnCa::read(request)?;
    facts.subject_der = requested("payments.example", []).subject_der;
    signed(ca, &facts, Usage::ClientAuth)
}

fn a_name_too_few(ca: &OwnCa, request: &SignRequest) -> Result<Chain, SignError> {
    let mut facts = OwnCa::read(request)?;
    facts.names.dns_names.clear();
    signed(ca, &facts, Usage::ClientAuth)
}

fn another_ca(ca: &OwnCa, request: &SignRequest) -> Result<Chain, SignError> {
    let now = ca.now();
    OwnCa::new(move || now, LIFETIME).sign(request)
}

/// A node that has its first certificate, and the CA that issued the certificate. The CA answers in a future if
/// `is_async`, else in a blocking closure.
fn node(is_async: bool) -> (Node, Arc<OwnCa>) {
    let server = Server::new(Options::default());
    let ca = OwnCa::new(server.wall_clock(), LIFETIME);
    let template = Template::new(NAME).with_dns_names([NAME]);
    let mut node = Node::with_signer(server, ca.signer(is_async), template, None);
    assert!(node.run_until(HOUR, |node| node.issued() == 1), "{:?}", node.rotation.snapshot(node.now()));
    (node, ca)
}

/// Runs one rotation under this fault, then one without the fault, and checks the laws. Returns an error if the outcome
/// is not `outcome`, if there are too many submissions, or if the node does not recover.
fn check_rule(is_async: bool, outcome: Outcome, takes: Duration, set_rule: impl Fn(&OwnCa)) -> Result<(), String> {
    let (mut node, ca) = node(is_async);
    node.handle(Input::PolicyChanged(policy()));
    set_rule(&ca);
    node.closure_takes = takes;
    let met = |node: &Node| node.failure().is_some() || node.issued() > 1;
    node.run_until(LIFETIME, met);
    let actual = node.failure().map_or(Outcome::Issued, Outcome::Failed);
    if !met(&node) || actual != outcome {
        return Err(format!("{actual:?} instead of {outcome:?}: {:?}", node.rotation.snapshot(node.now())));
    }
    node.lawful()?;

    let (before, span) = (node.submissions, 30 * MINUTE);
    node.run_until(span, |_| false);
    let bound = Policy::default().submissions_within(span);
    if node.submissions - before > bound {
        return Err(format!("{} submissions in half an hour", node.submissions - before));
    }
    node.lawful()?;

    ca.set_rule(OwnCa::sign);
    node.closure_takes = SECOND;
    if !node.run_until(2 * HOUR, |node| node.issued() > 1 && node.failure().is_none()) {
        return Err(format!("no recovery: {:?}", node.rotation.snapshot(node.now())));
    }
    node.lawful()?;
    (node.dropped == 0).then_some(()).ok_or_else(|| "without a certificate for a while".into())
}

#[test]
fn each_own_ca_fault_ends_as_listed_and_node_recovers() {
    let mut wrong = Vec::new();
    for is_async in [false, true] {
        for (name, rule, takes, outcome) in TABLE {
            let result = check_rule(is_async, outcome, takes, |ca| ca.set_rule(rule));
            wrong.extend(result.err().map(|why| format!("{name}, async: {is_async}: {why}")));
        }
        // Every failure that a signer can return.
        for failure in Failure::ALL {
            let refuse = move |_: &OwnCa, _: &SignRequest| Err(SignError::new(failure, "no"));
            let result = check_rule(is_async, Outcome::Failed(failure), SECOND, |ca| ca.set_rule(refuse));
            wrong.extend(result.err().map(|why| format!("{failure:?}, async: {is_async}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn own_ca_retry_after_is_honoured() {
    for is_async in [false, true] {
        let (mut node, ca) = node(is_async);
        let pause = 7 * MINUTE;
        ca.set_rule(move |_, _| Err(SignError::new(Failure::Throttled, "busy").retry_after(pause)));
        let throttled = time_of(&mut node, |node| node.failure() == Some(Failure::Throttled));
        let before = node.submissions;
        let submitted = time_of(&mut node, |node| node.submissions > before);
        let waited = submitted.since(throttled);
        assert!((pause..=pause + 2 * SECOND).contains(&waited), "{waited:?}");
        assert_eq!(node.lawful(), Ok(()));
    }
}

/// Makes steps of the node until `done` returns true. Returns the time of the last step. `Member::run_until` does not
/// serve, since it also lets time pass until the next step is due.
fn time_of(node: &mut Node, done: impl Fn(&Node) -> bool) -> Instant {
    let end = node.now().instant.after(2 * LIFETIME);
    while node.now().instant < end {
        node.act();
        if done(node) {
            return node.now().instant;
        }
        node.wait(end);
    }
    panic!("not within {:?}", 2 * LIFETIME);
}

#[test]
fn early_certificate_of_own_ca_waits_until_not_before() {
    let (mut node, ca) = node(false);
    let first = node.presents().unwrap();
    ca.set_rule(|ca, request| since(ca, request, ca.now().after(HOUR)));
    let issued = time_of(&mut node, |node| node.issued() > 1);
    let submissions = node.submissions;
    assert_eq!((node.presents(), node.failure()), (Some(first.clone()), None));
    let served = time_of(&mut node, |node| node.presents().unwrap() != first);
    let waited = served.since(issued);
    // Times in certificates are whole seconds.
    assert!((HOUR - SECOND..=HOUR + MINUTE).contains(&waited), "{waited:?}");
    assert_eq!((node.submissions, node.dropped, node.lawful()), (submissions, 0, Ok(())));
}

#[test]
fn ten_minute_certificates_are_always_replaced_in_time_over_a_day() {
    let server = Server::new(Options::default());
    let lifetime = 10 * MINUTE;
    let ca = OwnCa::new(server.wall_clock(), lifetime);
    let mut node = Node::with_signer(server, ca.signer(false), Template::new(NAME), None);
    node.handle(Input::PolicyChanged(Arc::new(Policy::for_lifetime(lifetime))));
    for _ in 0..24 {
        node.run(HOUR);
    }
    assert!((24 * 6..=24 * 9).contains(&node.issued()), "{}", node.issued());
    assert_eq!((node.submissions, node.dropped), (node.issued(), 0));
}
