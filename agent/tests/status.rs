//! `perennial status`: what a directory holds, without touching it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Key, Pending, Refusal, Template};
use perennial_kubernetes::objects::KUBELET_CLIENT_SIGNER;
use perennial_kubernetes::rotation::Record;
use perennial_pki::{Credential, KeyAlgorithm, KeyPair};
use perennial_std::clock;
use serde_json::Value;
use support::{Ca, files, perennial, put_in_use};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

/// The JSON and the exit code for a directory with this in use.
fn status(contents: Option<&str>) -> (Value, i32) {
    let (value, _, code) = status_with(contents, None);
    (value, code)
}

/// The same, and the sentences, for a directory that has this record too.
fn status_with(contents: Option<&str>, record: Option<&[u8]>) -> (Value, String, i32) {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("pki");
    match contents {
        Some(contents) => put_in_use(&pki, contents.as_bytes()),
        None => std::fs::create_dir(&pki).unwrap(),
    }
    if let Some(record) = record {
        std::fs::write(pki.join("kubelet-client-pending.json"), record).unwrap();
    }
    let before = files(directory.path());
    let sentences = perennial(directory.path(), &["status", "--cert-dir", "pki"]);
    let json = perennial(directory.path(), &["status", "--cert-dir", "pki", "--json"]);
    assert_eq!(files(directory.path()), before);
    assert_eq!(json.code, sentences.code);
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(!(sentences.stdout.clone() + &json.stdout).contains("PRIVATE KEY"));
    (value, sentences.stdout, json.code.unwrap())
}

/// A request made ten minutes ago.
fn record(key: Option<Arc<KeyPair>>, refused: bool) -> Record {
    let now = clock::now().unix;
    let refusal = Refusal { failure: Failure::Denied, failures: 1, retry_at: now.after(HOUR) };
    let pending = Pending {
        template: Arc::new(Template::node("worker")),
        key: if key.is_some() { Key::Pending } else { Key::New },
        submitted: now.before(HOUR / 6),
        budget_whole: now,
        refusal: refused.then_some(refusal),
    };
    let (signer_name, csr_name) = (KUBELET_CLIENT_SIGNER.to_owned(), "node-csr-abc".to_owned());
    Record { signer_name, csr_name, pending, key }
}

#[test]
fn a_request_that_waits_is_shown_and_one_that_has_its_certificate_is_not() {
    let credential = Ca::new().node(Duration::ZERO, HOUR);
    let pem = credential.to_pem();
    let waiting = record(Some(Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap())), false);
    let (value, sentences, code) = status_with(Some(pem.as_str()), Some(&waiting.encode()));
    assert_eq!((&value["pending"]["csr"], code), (&"node-csr-abc".into(), 0));
    assert_eq!(value["pending"]["submitted"], waiting.pending.submitted.to_string());
    assert_eq!(value["pending"]["refusal"], Value::Null);
    assert!(sentences.contains("node-csr-abc") && sentences.contains("10 min"), "{sentences}");

    for done in [record(None, false), record(Some(credential.key().clone()), false)] {
        let (value, sentences, _) = status_with(Some(pem.as_str()), Some(&done.encode()));
        assert_eq!(value["pending"], Value::Null);
        assert!(!sentences.contains("pending"), "{sentences}");
    }
}

#[test]
fn a_refused_request_is_shown_with_the_time_of_the_next() {
    let refused = record(None, true);
    let (value, sentences, code) = status_with(None, Some(&refused.encode()));
    let (refusal, retry_at) = (&value["pending"]["refusal"], refused.pending.refusal.unwrap().retry_at);
    assert_eq!((&refusal["retry_at"], code), (&retry_at.to_string().into(), 1));
    assert!(refusal["reason"].as_str().unwrap().contains("denied"), "{refusal}");
    assert!(sentences.contains("denied") && sentences.contains(&retry_at.to_string()), "{sentences}");
}

#[test]
fn a_record_that_cannot_be_read_is_told_and_left_alone() {
    let credential = Ca::new().node(Duration::ZERO, HOUR);
    let (value, sentences, code) = status_with(Some(credential.to_pem().as_str()), Some(b"{"));
    assert_eq!((&value["state"], code), (&"good".into(), 0));
    assert!(value["pending"]["error"].as_str().unwrap().contains("line 1"), "{value}");
    assert!(sentences.contains("pending     unreadable"), "{sentences}");
}

fn state(credential: &Credential) -> (String, i32) {
    let (value, code) = status(Some(credential.to_pem().as_str()));
    assert_eq!(value["common_name"], "system:node:worker");
    assert_eq!(value["serial"], credential.chain().serial());
    (value["state"].as_str().unwrap().to_owned(), code)
}

#[test]
fn only_a_valid_certificate_that_is_not_due_is_good() {
    let mut ca = Ca::new();
    assert_eq!(state(&ca.node(Duration::ZERO, HOUR)), ("good".into(), 0));
    assert_eq!(state(&ca.node(HOUR * 19, HOUR * 20)), ("due".into(), 1));
    assert_eq!(state(&ca.node(HOUR * 2, HOUR)), ("expired".into(), 1));
    assert_eq!(status(None).1, 1);
    assert_eq!(status(None).0["state"], "none");
}

#[test]
fn a_key_that_is_another_certificates_is_told_and_so_is_damage() {
    let mut ca = Ca::new();
    let (one, other) = (ca.node(Duration::ZERO, HOUR), ca.node(Duration::ZERO, HOUR));
    let (mixed, code) = status(Some(&[one.chain().pem(), &other.key().to_pem()].concat()));
    assert_eq!((mixed["state"].as_str(), code), (Some("mismatch"), 1));
    assert_eq!((&mixed["key_matches"], &mixed["serial"]), (&false.into(), &one.chain().serial().into()));

    let (damaged, code) = status(Some("-----BEGIN CERTIFICATE-----\nnot base64\n"));
    assert_eq!((damaged["state"].as_str(), code), (Some("damaged"), 1));
}

#[test]
fn the_rotation_point_lies_in_the_window_and_stays_where_it_is() {
    let credential = Ca::new().node(Duration::ZERO, HOUR);
    let look = || status(Some(credential.to_pem().as_str())).0["rotate_at"].as_str().unwrap().to_owned();
    let first = look();
    assert_eq!(first, look());
    let validity = credential.chain().certificate().validity;
    let (from, lifetime) = (validity.not_before(), validity.lifetime());
    let window = from.after(lifetime * 7 / 10).to_string()..=from.after(lifetime * 9 / 10).to_string();
    assert!(window.contains(&first), "{first} not in {window:?}");
}
