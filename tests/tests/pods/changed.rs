//! Sources and pods that change while the agent runs, and while it is down.

use std::fs;
use std::time::Duration;

use perennial_kubernetes::pods::{Pod, PodCertificateState as State};
use perennial_rotation::{KeyAlgorithm, Projection};

use super::mesh::{Answer, DAY, HOUR, Life, MINUTE};
use super::{Node, OTHER, SIGNER, bundle, served, source, states};

/// Everything that a certificate is of.
const CHANGES: [fn(&mut Pod); 5] = [
    |pod| source(pod).signer_name = OTHER.into(),
    |pod| source(pod).key_type = KeyAlgorithm::Ed25519,
    |pod| source(pod).max_expiration = Some(HOUR),
    |pod| drop(source(pod).user_annotations.insert("example.com/a".into(), "b".into())),
    |pod| pod.identity.service_account_name = "next".into(),
];

/// Puts the pod into this life or, if the agent restarts, into the next one.
fn put(life: &mut Life, node: &Node, pod: &Pod, is_restart: bool) {
    if is_restart {
        let now = life.clock();
        *life = node.start_at(now);
    }
    life.pods.put(pod.clone(), life.now()).unwrap();
}

/// A life with this pod, whose signer gives this answer.
fn answered(node: &Node, pod: &Pod, answer: Answer) -> Life {
    node.mesh.answer(SIGNER, answer);
    let mut life = node.start();
    life.pods.put(pod.clone(), life.now()).unwrap();
    life.step();
    assert_eq!(node.mesh.asked().len(), 1);
    life
}

fn for_each_change(check: impl Fn(&Node, Pod, Pod, bool)) {
    for change in CHANGES {
        for is_restart in [false, true] {
            let node = Node::new();
            let pod = node.pod("a", [bundle("credential.pem")]);
            let mut changed = pod.clone();
            change(&mut changed);
            check(&node, pod, changed, is_restart);
        }
    }
}

#[test]
fn certificate_of_changed_source_is_replaced_at_once_and_served_until_then() {
    for_each_change(|node, pod, changed, is_restart| {
        let mut life = answered(node, &pod, Answer::Issue);
        let path = node.volume("a").join("credential.pem");
        let before = fs::read_to_string(&path).unwrap();
        put(&mut life, node, &changed, is_restart);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        life.run(MINUTE);
        let asked = node.mesh.asked();
        assert_eq!(asked.len(), 1, "{changed:?}, restart: {is_restart}");
        assert_eq!(asked[0].key_type, source(&mut changed.clone()).key_type);
        assert_ne!(fs::read_to_string(&path).unwrap(), before);
        put(&mut life, node, &changed, true);
        life.run(MINUTE);
        assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Fresh], 0), "{changed:?}");
    });
}

#[test]
fn refusal_of_changed_source_is_forgotten() {
    for_each_change(|node, pod, changed, is_restart| {
        let mut life = answered(node, &pod, Answer::Deny);
        node.mesh.answer(SIGNER, Answer::Issue);
        put(&mut life, node, &changed, is_restart);
        life.run(MINUTE);
        assert_eq!(node.mesh.asked().len(), 1, "{changed:?}, restart: {is_restart}");
        assert_eq!(states(&life), [State::Fresh]);
        assert_eq!(served(&node.volume("a").join("credential.pem")), "web-a");
    });
}

#[test]
fn request_of_changed_source_is_not_continued() {
    for_each_change(|node, pod, changed, is_restart| {
        [SIGNER, OTHER].iter().for_each(|signer| node.mesh.answer(signer, Answer::Silent));
        let mut life = node.start();
        life.pods.put(pod, life.now()).unwrap();
        life.step();
        let before = node.mesh.asked();
        put(&mut life, node, &changed, is_restart);
        life.run(MINUTE);
        let after = node.mesh.asked();
        assert_eq!((before.len(), after.len()), (1, 1), "{changed:?}, restart: {is_restart}");
        assert_ne!(before[0].name, after[0].name);
        // The new one is.
        put(&mut life, node, &changed, true);
        life.run(MINUTE);
        assert_eq!(node.mesh.asked(), after);
    });
}

/// The refusal holds for the changed source. The certificate of the old source is not kept until its rotation point, also
/// not by restarts.
#[test]
fn refused_replacement_is_requested_again_after_backoff() {
    for_each_change(|node, pod, changed, is_restart| {
        let mut life = answered(node, &pod, Answer::Issue);
        [SIGNER, OTHER].iter().for_each(|signer| node.mesh.answer(signer, Answer::Deny));
        put(&mut life, node, &changed, is_restart);
        life.run(MINUTE);
        assert_eq!(node.mesh.asked().len(), 1, "{changed:?}, restart: {is_restart}");
        for _ in 0..3 {
            put(&mut life, node, &changed, true);
            life.step();
            assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Denied], 0), "{changed:?}");
        }
        assert_eq!(served(&node.volume("a").join("credential.pem")), "web-a");
        [SIGNER, OTHER].iter().for_each(|signer| node.mesh.answer(signer, Answer::Issue));
        life.run(HOUR / 2);
        assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Fresh], 1), "{changed:?}");
    });
}

/// The certificate may be of another trust domain: it is not written to files that it may never have had.
#[test]
fn certificate_of_changed_source_is_not_written_to_new_files() {
    for_each_change(|node, pod, mut changed, is_restart| {
        let mut life = answered(node, &pod, Answer::Issue);
        source(&mut changed).projection = Projection::Bundle { path: "moved.pem".into() };
        for signer in [SIGNER, OTHER] {
            node.mesh.answer(signer, Answer::Unreachable);
        }
        put(&mut life, node, &changed, is_restart);
        life.run(HOUR);
        life.pods.restore(life.now()).unwrap();
        put(&mut life, node, &changed, true);
        life.pods.restore(life.now()).unwrap();
        assert!(!node.volume("a").join("moved.pem").exists(), "{changed:?}, restart: {is_restart}");
        [SIGNER, OTHER].iter().for_each(|signer| node.mesh.answer(signer, Answer::Issue));
        life.run(HOUR);
        assert_eq!(served(&node.volume("a").join("moved.pem")), "web-a");
        fs::remove_dir_all(node.volume("a")).unwrap();
        life.pods.restore(life.now()).unwrap();
        assert_eq!(served(&node.volume("a").join("moved.pem")), "web-a");
    });
}

/// The files of a certificate say nothing about what it is of.
#[test]
fn moved_files_are_no_change_for_a_restart() {
    let node = Node::new();
    let mut life = answered(&node, &node.pod("a", [bundle("credential.pem")]), Answer::Issue);
    put(&mut life, &node, &node.pod("a", [bundle("moved.pem")]), true);
    life.run(HOUR);
    assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Fresh], 0));
}

/// The agent ends after it has written the new pair, and before it has saved the record without the key of that pair.
#[test]
fn crash_between_new_pair_and_record_requests_nothing_again() {
    for_each_change(|node, pod, changed, is_restart| {
        let mut life = answered(node, &pod, Answer::Issue);
        [SIGNER, OTHER].iter().for_each(|signer| node.mesh.answer(signer, Answer::Silent));
        put(&mut life, node, &changed, is_restart);
        life.run(MINUTE);
        let record = node.state().join("a/mesh/0/pod-pending.json");
        let in_flight = fs::read(&record).unwrap();
        [SIGNER, OTHER].iter().for_each(|signer| node.mesh.answer(signer, Answer::Issue));
        put(&mut life, node, &changed, true);
        life.run(MINUTE);
        let asked = node.mesh.asked();
        assert_eq!(asked.len(), 2, "once, and once resumed: {changed:?}, restart: {is_restart}");
        assert_eq!(asked[0].name, asked[1].name);
        let new = fs::read(node.volume("a").join("credential.pem")).unwrap();
        fs::write(&record, in_flight).unwrap();
        put(&mut life, node, &changed, true);
        life.run(MINUTE);
        assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Fresh], 0), "{changed:?}");
        assert_eq!(fs::read(node.volume("a").join("credential.pem")).unwrap(), new);
    });
}

/// Each restart takes the new certificate for that of the old source, and costs one request. The pod has a certificate.
#[test]
fn source_that_changes_while_records_cannot_be_saved_is_served() {
    for_each_change(|node, pod, changed, is_restart| {
        let mut life = answered(node, &pod, Answer::Issue);
        let (path, state) = (node.volume("a").join("credential.pem"), node.state().join("a/mesh/0"));
        // In the way of each new record.
        let obstacle = state.join("pod-pending.json.new");
        fs::create_dir(&obstacle).unwrap();
        put(&mut life, node, &changed, is_restart);
        for _ in 0..3 {
            let before = fs::read(&path).unwrap();
            life.run(MINUTE);
            assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Fresh], 1), "{changed:?}");
            assert_ne!(fs::read(&path).unwrap(), before);
            put(&mut life, node, &changed, true);
        }
        fs::remove_dir(&obstacle).unwrap();
        life.run(MINUTE);
        assert_eq!(node.mesh.asked().len(), 1);
        put(&mut life, node, &changed, true);
        life.run(MINUTE);
        assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Fresh], 0), "{changed:?}");
    });
}

/// State of an agent that kept no digest of the source, or whose record is damaged.
#[test]
fn certificate_without_usable_record_is_taken_as_it_is() {
    let without_digest = |text: String| -> String {
        text.lines().filter(|line| !line.contains("requestDigest")).map(|line| format!("{line}\n")).collect()
    };
    for damage in [|_| "damaged".to_owned(), without_digest] {
        let node = Node::new();
        let mut life = answered(&node, &node.pod("a", [bundle("credential.pem")]), Answer::Issue);
        let record = node.state().join("a/mesh/0/pod-pending.json");
        fs::write(&record, damage(fs::read_to_string(&record).unwrap())).unwrap();
        let mut changed = node.pod("a", [bundle("credential.pem")]);
        source(&mut changed).key_type = KeyAlgorithm::Ed25519;
        put(&mut life, &node, &changed, true);
        life.run(HOUR);
        assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Fresh], 0));
        life.run(DAY - HOUR - Duration::from_secs(1));
        assert_eq!(node.mesh.asked().len(), 1, "at its rotation point");
    }
}
