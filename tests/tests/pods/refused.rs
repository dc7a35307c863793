//! Certificates that are denied, failed, overdue or expired.

use std::fs;

use perennial_kubernetes::pods::PodCertificateState as State;
use perennial_rotation::KeyAlgorithm;

use super::mesh::{Answer, DAY, HOUR, MINUTE};
use super::{Node, OTHER, SIGNER, bundle, certificate, served, source, states};

#[test]
fn denied_certificate_is_requested_at_once_when_its_source_changes() {
    for is_key in [true, false] {
        let node = Node::new();
        let mut life = node.start();
        node.mesh.answer(SIGNER, Answer::Deny);
        let mut pod = node.pod("a", [bundle("credential.pem")]);
        life.pods.put(pod.clone(), life.now()).unwrap();
        life.step();
        assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Denied], 1));
        let status = &life.pods.statuses(life.now())[0];
        assert_eq!(status.last_error.as_deref(), Some("not this pod"));
        // The same pod again changes nothing: the refusal has its backoff.
        life.pods.put(pod.clone(), life.now()).unwrap();
        life.step();
        assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Denied], 0));
        node.mesh.answer(SIGNER, Answer::Issue);
        match is_key {
            true => source(&mut pod).key_type = KeyAlgorithm::Ed25519,
            false => drop(source(&mut pod).user_annotations.insert("example.com/a".into(), "b".into())),
        }
        life.run(MINUTE);
        assert_eq!(node.mesh.asked(), [], "the backoff of a refusal is longer");
        life.pods.put(pod.clone(), life.now()).unwrap();
        // The spacing of requests holds.
        life.run(MINUTE);
        let asked = node.mesh.asked();
        assert_eq!((states(&life), asked.len()), (vec![State::Fresh], 1), "{is_key}");
        assert_eq!(asked[0].key_type == KeyAlgorithm::Ed25519, is_key);
        assert_eq!(served(&node.volume("a").join("credential.pem")), "web-a");
    }
}

#[test]
fn denied_certificate_is_requested_again_after_backoff() {
    let node = Node::new();
    let mut life = node.start();
    node.mesh.answer(SIGNER, Answer::Deny);
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.run(DAY);
    let denied = node.mesh.asked().len();
    assert!((2..100).contains(&denied), "{denied} requests");
    node.mesh.answer(SIGNER, Answer::Issue);
    life.run(DAY);
    assert_eq!(states(&life), [State::Fresh]);
}

#[test]
fn refused_refresh_keeps_valid_certificate_in_volume() {
    for (answer, state) in [(Answer::Deny, State::Denied), (Answer::Fail, State::Failed)] {
        let node = Node::new();
        let mut life = node.start();
        life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
        life.step();
        let before = fs::read_to_string(node.volume("a").join("credential.pem")).unwrap();
        node.mesh.answer(SIGNER, answer);
        life.run(DAY - HOUR);
        assert_eq!(states(&life), [state], "{answer:?}");
        assert!(life.pods.statuses(life.now())[0].not_after.unwrap() > life.now());
        assert_eq!(fs::read_to_string(node.volume("a").join("credential.pem")).unwrap(), before, "{answer:?}");
    }
}

#[test]
fn refusal_survives_restart_and_backoff_goes_on() {
    let node = Node::new();
    let mut life = node.start();
    node.mesh.answer(SIGNER, Answer::Deny);
    let pod = node.pod("a", [bundle("credential.pem")]);
    life.pods.put(pod.clone(), life.now()).unwrap();
    life.step();
    assert_eq!(node.mesh.asked().len(), 1);
    drop(life);
    let mut life = node.start();
    life.pods.put(pod, life.now()).unwrap();
    life.step();
    assert_eq!((states(&life), node.mesh.asked().len()), (vec![State::Denied], 0));
}

#[test]
fn certificate_is_overdue_ten_minutes_after_rotation_point_and_then_expires() {
    let node = Node::new();
    let mut life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.step();
    node.mesh.answer(SIGNER, Answer::Unreachable);
    let status = life.pods.statuses(life.now()).remove(0);
    let point = status.rotation_point.unwrap();
    life.run(point.since(life.now()) + HOUR / 12);
    assert_eq!(states(&life), [State::Fresh], "five minutes later");
    life.run(HOUR / 6);
    assert_eq!(states(&life), [State::OverdueForRefresh], "fifteen minutes later");
    assert_eq!(life.pods.statuses(life.now())[0].last_error.as_deref(), Some("no route"));
    life.run(status.not_after.unwrap().since(life.now()) + HOUR);
    assert_eq!(states(&life), [State::Expired]);
    node.mesh.answer(SIGNER, Answer::Issue);
    life.run(HOUR);
    assert_eq!(states(&life), [State::Fresh]);
}

#[test]
fn denied_source_does_not_hold_up_the_other_one() {
    let node = Node::new();
    let mut life = node.start();
    node.mesh.answer(OTHER, Answer::Deny);
    let other = perennial_rotation::Projection::Bundle { path: "other.pem".into() };
    life.pods.put(node.pod("a", [bundle("credential.pem"), certificate(OTHER, other)]), life.now()).unwrap();
    life.step();
    assert_eq!(states(&life), [State::Fresh, State::Denied]);
    assert!(!node.volume("a").join("other.pem").exists());
}
