//! The process of a node crashes at any point of a request, and starts again from the disk, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Key, State, Template};
use perennial_dev::{Approval, Decision, Options};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::KeyAlgorithm;
use perennial_rotation::{Command, Input, Record, Rotation, Start};
use perennial_tests::simulation::{DAY, HOUR, MINUTE, Member as _, Node, SECOND, Server};

fn node() -> Node {
    let options = Options { approval: Approval::Manual, signing_duration: DAY, keep_ended: DAY, ..Options::default() };
    Node::new(Server::new(options), None)
}

fn has_the_certificate(node: &Node) -> bool {
    let name = node.objects().pop_first().unwrap();
    let issued = node.server.chain(&name).unwrap();
    let served = node.rotation.snapshot(node.now()).credential;
    [&served, &node.disk.credential].iter().all(|held| held.as_ref().is_some_and(|held| *held.chain() == issued))
}

/// Runs a node whose request times out and is retried until it is approved after 40 minutes. The node passes
/// `crash_after` crash points and crashes at the next one; then it crashes again each time it has passed `period` more,
/// or never if `period` is `None`. The beginning of a command is a crash point, and so is its end.
fn life(crash_after: u32, period: Option<u32>) -> Node {
    let mut node = node();
    (node.crash_after, node.period) = (Some(crash_after), period);
    node.run(40 * MINUTE);
    node.decide(Decision::Approve);
    node.run(40 * MINUTE);
    node
}

#[test]
fn crash_at_any_point_loses_no_certificate() {
    let mut points = 0;
    loop {
        let node = life(points, None);
        assert_eq!(node.objects().len(), 1, "crashed at point {points}");
        assert!(has_the_certificate(&node), "crashed at point {points}");
        if node.crashes == 0 {
            break;
        }
        points += 1;
    }
    println!("crashed at {points} points");
    assert!(points >= 10, "{points}");
}

#[test]
fn repeated_crashes_make_no_second_request() {
    for period in 1..7 {
        let mut node = life(period, Some(period));
        assert!(node.crashes >= 2, "{}", node.crashes);
        // The crashes may have spent the budget: the node gets its certificate once they end.
        node.crash_after = None;
        node.run(10 * MINUTE);
        node.decide(Decision::Approve);
        node.run(HOUR);
        assert_eq!(node.objects().len(), 1, "crashed every {period} points");
        assert!(has_the_certificate(&node), "crashed every {period} points");
    }
}

#[test]
fn full_disk_delays_no_request_and_record_is_saved_later() {
    let mut node = node();
    node.disk.is_full = true;
    node.run(SECOND);
    assert_eq!((node.submissions, node.objects().len()), (1, 1));
    let last_error = |node: &Node| node.rotation.snapshot(node.server.now()).last_error;
    assert_eq!(last_error(&node).as_deref(), Some("no space left"));
    node.run(10 * MINUTE);
    assert!((15..=25).contains(&node.saves), "{}", node.saves);
    assert_eq!(node.submissions, 1);

    node.disk.is_full = false;
    node.run(MINUTE);
    let saves = node.saves;
    assert_eq!((last_error(&node), node.record().request_name), (None, node.objects().pop_first().unwrap()));
    node.run(MINUTE);
    assert_eq!(node.saves, saves, "once is enough");
    node.crash();
    node.decide(Decision::Approve);
    node.run(MINUTE);
    assert_eq!(node.objects().len(), 1);
    assert!(has_the_certificate(&node));
}

#[test]
fn unchanged_record_is_not_saved_again() {
    let mut node = node();
    node.run(SECOND);
    assert_eq!(node.saves, 1);
    for n in 0..300_u64 {
        // Clocks never quite agree, and one of them may be set.
        node.server.clocks.now.unix = node.server.now().unix.after(Duration::from_millis(n % 3));
        if n == 200 {
            node.server.clocks.now.unix = node.server.now().unix.after(HOUR);
        }
        node.handle(Input::Tick);
        node.run(SECOND);
    }
    assert_eq!(node.saves, 1);
    node.crash();
    node.run(2 * MINUTE);
    assert_eq!((node.saves, node.submissions), (2, 2), "another submission is a change");

    node.decide(Decision::Approve);
    node.run(HOUR);
    assert_eq!((node.saves, node.record().pending.key), (3, Key::New), "its key is spent");
    node.run(6 * HOUR);
    node.crash();
    node.run(6 * HOUR);
    assert_eq!(node.saves, 3);
}

#[test]
fn pending_key_stays_in_record_until_certificate_is_durable() {
    let mut node = node();
    node.run(SECOND);
    node.disk.link_is_taken = true;
    let saves = node.saves;
    node.decide(Decision::Approve);
    node.run(10 * MINUTE);
    assert!(node.rotation.unwritten().is_some());
    assert_eq!((node.saves, node.record().pending.key), (saves, Key::Pending));

    node.disk.link_is_taken = false;
    node.crash();
    node.run(2 * MINUTE);
    assert_eq!(node.objects().len(), 1);
    assert!(has_the_certificate(&node));
    assert_eq!(node.record().pending.key, Key::New);
}

#[test]
fn crash_loop_after_denial_keeps_backoff_and_changes_key() {
    let mut node = node();
    node.run(SECOND);
    node.decide(Decision::Deny);
    node.run(SECOND);
    let refusal = node.record().pending.refusal.unwrap();
    assert_eq!((refusal.failure, node.record().key.is_none()), (Failure::Denied, true));
    while node.server.now().unix.after(10 * SECOND) < refusal.retry_at {
        node.crash();
        node.run(5 * SECOND);
        assert_eq!(node.submissions, 1);
    }
    assert!(node.crashes > 10, "{}", node.crashes);
    node.run(MINUTE);
    assert_eq!((node.submissions, node.objects().len()), (2, 2));
    node.decide(Decision::Approve);
    node.run(MINUTE);
    assert!(node.disk.credential.is_some());
}

#[test]
fn key_of_current_certificate_is_not_used_again() {
    let mut node = node();
    node.run(SECOND);
    let before = node.disk.record.clone();
    node.decide(Decision::Approve);
    node.run(MINUTE);
    assert!(has_the_certificate(&node));
    // The crash came between writing the certificate and saving that its key is spent.
    node.disk.record = before;
    node.crash();
    while node.submissions < 2 {
        node.run(MINUTE);
    }
    let used = node.disk.credential.as_ref().unwrap().key().public_key_der().to_vec();
    assert!(node.record().key.is_some_and(|key| key.public_key_der() != used));
    assert_eq!((node.objects().len(), node.rotation.machine().last_failure()), (2, None));
}

#[test]
fn record_for_another_template_signer_or_cluster_is_ignored() {
    let mut node = node();
    node.run(SECOND);
    node.crash();
    let record = || Record::decode(node.disk.record.as_deref().unwrap()).unwrap();
    let first_request_name = |pending: Record, change: fn(&mut Start, &mut CsrSigner)| {
        let mut signer = node.server.signer();
        let mut start =
            Start { template: Some(Arc::new(Template::node("worker-1"))), pending: Some(pending), ..Start::default() };
        change(&mut start, &mut signer);
        start.signer = Some(Arc::new(signer));
        let mut now = node.server.now();
        let mut rotation = Rotation::new(start, now);
        now.instant = now.instant.after(MINUTE);
        now.unix = now.unix.after(MINUTE);
        let commands = rotation.handle(Input::Tick, now);
        commands
            .into_iter()
            .find_map(|command| if let Command::Save { record } = command { Some(record.request_name) } else { None })
    };
    let name = Some(record().request_name);
    assert_eq!(first_request_name(record(), |_, _| {}), name);
    assert_ne!(first_request_name(Record { signer_name: "example.com/other".into(), ..record() }, |_, _| {}), name);
    assert_eq!(record().server, Some(node.server.signer().cluster.to_string()));
    assert_eq!(first_request_name(Record { server: None, ..record() }, |_, _| {}), name, "an older version's");
    for change in [
        (|start: &mut Start, _: &mut CsrSigner| start.template = Some(Arc::new(Template::node("worker-2"))))
            as fn(&mut Start, &mut CsrSigner),
        |_, signer| signer.profile.key_algorithm = KeyAlgorithm::Ed25519,
        |_, signer| signer.signer_name = "example.com/other".into(),
        |_, signer| signer.cluster = Arc::new(Cluster::from_url("https://other.example").unwrap()),
    ] {
        let other = first_request_name(record(), change);
        assert!(other.is_some() && other != name, "{other:?}");
    }
}

#[test]
fn refusal_by_another_cluster_causes_no_backoff() {
    let mut node = node();
    node.run(SECOND);
    node.decide(Decision::Deny);
    node.run(SECOND);
    assert!(node.record().pending.refusal.is_some());
    let start = |pending: Record| Start {
        signer: Some(Arc::new(node.server.signer())),
        template: Some(Arc::new(Template::node("worker-1"))),
        pending: Some(pending),
        ..Start::default()
    };
    let submits = |start: Start| {
        let commands = Rotation::new(start, node.server.now()).handle(Input::Tick, node.server.now());
        commands.iter().any(|command| matches!(command, Command::Drive { .. }))
    };
    assert!(!submits(start(node.record())));
    assert!(submits(start(Record { server: Some("https://other.example".into()), ..node.record() })));
}

#[test]
fn pending_record_is_used_as_soon_as_template_is_set() {
    let mut node = node();
    node.run(SECOND);
    let name = node.record().request_name;
    node.server.pass(MINUTE);
    node.restart_without_template();
    node.run(MINUTE);
    assert!(matches!(node.rotation.machine().state(), State::NoTemplate));
    node.handle(Input::TemplateChanged(Some(Arc::new(Template::node("worker-1")))));
    node.run(MINUTE);
    assert_eq!((node.record().request_name, node.objects().len()), (name, 1));
}
