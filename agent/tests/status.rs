//! `perennial status`: what a directory holds, without touching it.

mod support;

use std::time::Duration;

use perennial_pki::Credential;
use serde_json::Value;
use support::{Ca, files, perennial, put_in_use};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

/// The JSON and the exit code for a directory with this in use.
fn status(contents: Option<&str>) -> (Value, i32) {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("pki");
    match contents {
        Some(contents) => put_in_use(&pki, contents.as_bytes()),
        None => std::fs::create_dir(&pki).unwrap(),
    }
    let before = files(directory.path());
    let sentences = perennial(directory.path(), &["status", "--cert-dir", "pki"]);
    let json = perennial(directory.path(), &["status", "--cert-dir", "pki", "--json"]);
    assert_eq!(files(directory.path()), before);
    assert_eq!(json.code, sentences.code);
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(!sentences.stdout.contains("PRIVATE KEY"));
    (value, json.code.unwrap())
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
