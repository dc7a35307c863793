//! `perennial status`: its output for each state of a directory, and that the directory stays unchanged.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Ca, as_nobody, files, perennial, put_in_use, record};
use perennial::{Failure, Fingerprint, Renewal};
use perennial_kubernetes::objects::{KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER};
use perennial_pki::{Credential, KeyAlgorithm, KeyPair};
use perennial_rotation::{Record, clock};
use serde_json::Value;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

/// Runs `status` on a directory with this current pair, or without a pair if `contents` is `None`. Returns JSON and
/// exit code.
fn status(contents: Option<&str>) -> (Value, i32) {
    let (value, _, code) = status_with(contents, None);
    (value, code)
}

/// Runs `status` on a directory with this current pair and this pending record. `None` leaves the pair or the record
/// out. Returns JSON, text and exit code.
fn status_with(contents: Option<&str>, record: Option<&[u8]>) -> (Value, String, i32) {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("pki");
    match contents {
        Some(contents) => put_in_use(&pki, contents.as_bytes()),
        None => std::fs::create_dir(&pki).unwrap(),
    }
    if let Some(record) = record {
        let path = pki.join("kubelet-client-pending.json");
        std::fs::write(&path, record).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
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

#[test]
fn status_shows_pending_request_until_certificate_is_issued() {
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
fn status_shows_rotation_point_of_hint() {
    let credential = Ca::new().node(Duration::ZERO, HOUR);
    let pem = credential.to_pem();
    let certificate = credential.chain().certificate();
    let rotate_at = certificate.validity.not_before().after(HOUR / 4);
    let mut hinted = record(None, false);
    hinted.renewal = Some(Renewal { fingerprint: certificate.fingerprint, rotate_at });
    let (value, ..) = status_with(Some(pem.as_str()), Some(&hinted.encode()));
    assert_eq!(value["rotate_at"], rotate_at.to_string());
    // A hint about another certificate says nothing about this one.
    hinted.renewal = Some(Renewal { fingerprint: Fingerprint([0xab; 32]), rotate_at });
    let (value, ..) = status_with(Some(pem.as_str()), Some(&hinted.encode()));
    assert_ne!(value["rotate_at"], rotate_at.to_string());
}

#[test]
fn status_shows_refusal_and_time_of_next_request() {
    let refused = record(None, true);
    let (value, sentences, code) = status_with(None, Some(&refused.encode()));
    let (refusal, retry_at) = (&value["pending"]["refusal"], refused.pending.refusal.unwrap().retry_at);
    assert_eq!((&refusal["retry_at"], code), (&retry_at.to_string().into(), 1));
    assert!(refusal["reason"].as_str().unwrap().contains("denied"), "{refusal}");
    assert!(sentences.contains("denied") && sentences.contains(&retry_at.to_string()), "{sentences}");
}

#[test]
fn status_summary_shows_pending_or_failed_request() {
    let credential = Ca::new().node(Duration::ZERO, HOUR);
    let key = || Some(Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()));
    let turned_down = |failure| Record { turned_down: Some(failure), ..record(key(), false) };
    // Record, its state, its line in the text, and the end of the summary after "good, valid for …".
    let table = [
        (record(key(), false), "waiting", "pending     node-csr-abc", "a request submitted 10 min"),
        (record(None, true), "refused", "refused     node-csr-abc", "failed: denied by an approver; next at "),
        (record(key(), true), "waiting", "pending     node-csr-abc", "a request submitted 10 min"),
        (
            turned_down(Failure::Forbidden),
            "turned_down",
            "failed      node-csr-abc",
            "failed: the credential of the request lacks the permission",
        ),
        (
            turned_down(Failure::Unauthorized),
            "turned_down",
            "failed      node-csr-abc",
            "failed: the server refused the credential of the request",
        ),
    ];
    for (record, state, line, words) in table {
        let (value, sentences, code) = status_with(Some(credential.to_pem().as_str()), Some(&record.encode()));
        assert_eq!((&value["state"], &value["pending"]["state"], code), (&"good".into(), &state.into(), 0));
        let summary = value["summary"].as_str().unwrap();
        assert!(summary.starts_with("good, valid for ") && summary.contains(words), "{summary}");
        assert!(sentences.contains(line) && !sentences.contains("to be rotated in"), "{sentences}");
        // Without a certificate, the summary has the same end.
        let (value, _, code) = status_with(None, Some(&record.encode()));
        let summary = value["summary"].as_str().unwrap();
        assert!(code == 1 && summary.starts_with("there is no certificate; ") && summary.contains(words), "{summary}");
    }
}

#[test]
fn status_shows_when_submission_budget_allows_rotation_on_demand_again() {
    let credential = Ca::new().node(Duration::ZERO, HOUR);
    let mut used = record(None, false);
    // Nine of ten submissions are used; each takes 90 seconds to come back.
    used.pending.budget_whole = clock::now().unix.after(Duration::from_secs(9 * 90));
    let (value, sentences, _) = status_with(Some(credential.to_pem().as_str()), Some(&used.encode()));
    let until = used.pending.budget_whole.before(Duration::from_secs(8 * 90));
    assert_eq!(value["on_demand_at"], until.to_string());
    assert!(sentences.contains(&format!("a rotation on demand (SIGUSR1) waits until {until}")), "{sentences}");
    let (value, sentences, _) = status_with(Some(credential.to_pem().as_str()), Some(&record(None, false).encode()));
    assert!(value["on_demand_at"].is_null() && !sentences.contains("budget"), "{sentences}");
}

#[test]
fn status_reports_unreadable_pending_record() {
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
fn status_verdict_is_good_only_before_rotation_point() {
    let mut ca = Ca::new();
    assert_eq!(state(&ca.node(Duration::ZERO, HOUR)), ("good".into(), 0));
    assert_eq!(state(&ca.node(HOUR * 19, HOUR * 20)), ("due".into(), 1));
    assert_eq!(state(&ca.node(HOUR * 2, HOUR)), ("expired".into(), 1));
    assert_eq!(status(None).1, 1);
    assert_eq!(status(None).0["state"], "none");
}

#[test]
fn status_reports_mismatched_key_and_damage() {
    let mut ca = Ca::new();
    let (one, other) = (ca.node(Duration::ZERO, HOUR), ca.node(Duration::ZERO, HOUR));
    let (mixed, code) = status(Some(&[one.chain().pem().as_str(), &other.key().to_pem()].concat()));
    assert_eq!((mixed["state"].as_str(), code), (Some("mismatch"), 1));
    assert_eq!((&mixed["key_matches"], &mixed["serial"]), (&false.into(), &one.chain().serial().into()));

    let (damaged, code) = status(Some("-----BEGIN CERTIFICATE-----\nnot base64\n"));
    assert_eq!((damaged["state"].as_str(), code), (Some("damaged"), 1));
}

#[test]
fn status_rotation_point_is_stable_and_within_window() {
    let credential = Ca::new().node(Duration::ZERO, HOUR);
    let look = || status(Some(credential.to_pem().as_str())).0["rotate_at"].as_str().unwrap().to_owned();
    let first = look();
    assert_eq!(first, look());
    let validity = credential.chain().certificate().validity;
    let (from, lifetime) = (validity.not_before(), validity.lifetime());
    let window = from.after(lifetime * 7 / 10).to_string()..=from.after(lifetime * 9 / 10).to_string();
    assert!(window.contains(&first), "{first} not in {window:?}");
}

/// Writes a pair to the file `NAME.pem`. If `in_use`, also makes the current link, which leads to that file.
fn put(pki: &Path, name: &str, credential: &Credential, in_use: bool) {
    let file = format!("{name}.pem");
    std::fs::write(pki.join(&file), credential.to_pem().as_bytes()).unwrap();
    if in_use {
        let prefix = &name[..name.find("-20").unwrap()];
        std::os::unix::fs::symlink(&file, pki.join(format!("{prefix}-current.pem"))).unwrap();
    }
}

/// Prepares a directory and runs `status`. Returns JSON, text and exit code.
fn status_of(prepare: impl FnOnce(&Path, &mut Ca), more: &[&str]) -> (Value, String, i32) {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("pki");
    std::fs::create_dir(&pki).unwrap();
    prepare(&pki, &mut Ca::new());
    let arguments = [&["status", "--cert-dir", "pki"], more].concat();
    let sentences = perennial(directory.path(), &arguments);
    let json = perennial(directory.path(), &[&arguments[..], &["--json"]].concat());
    assert_eq!((json.code, &json.stderr), (sentences.code, &sentences.stderr));
    (serde_json::from_str(&json.stdout).unwrap(), sentences.stdout + &sentences.stderr, json.code.unwrap())
}

const CLIENT: [&str; 3] = ["kubelet-client-2026-01-03", "kubelet-client-2026-01-02", "kubelet-client-2026-01-01"];

fn dated(day: &str) -> String {
    format!("{day}-00-00-00-000")
}

#[test]
fn status_lists_previous_pairs() {
    let mut serials = Vec::new();
    let prepare = |pki: &Path, ca: &mut Ca| {
        for (n, day) in CLIENT.iter().enumerate() {
            let credential = ca.node(Duration::ZERO, HOUR);
            put(pki, &dated(day), &credential, n == 0);
            serials.push(credential.chain().serial().to_owned());
        }
        // A file with half a pair is not listed.
        std::fs::write(pki.join(format!("{}.pem", dated("kubelet-client-2025-01-01"))), "-----BEGIN").unwrap();
    };
    let (value, sentences, code) = status_of(prepare, &[]);
    assert_eq!((&value["state"], code), (&"good".into(), 0));
    let previous = value["previous"].as_array().unwrap();
    let listed: Vec<_> = previous.iter().map(|pair| pair["serial"].as_str().unwrap()).collect();
    assert_eq!(listed, serials[1..]);
    assert_eq!(previous[0]["file"], format!("pki/{}.pem", dated(CLIENT[1])));
    assert!(previous[0]["not_before"].is_string() && previous[0]["not_after"].is_string());
    assert_eq!(sentences.matches("previous    ").count(), 2, "{sentences}");
    assert!(serials[1..].iter().all(|serial| sentences.contains(serial)), "{sentences}");
}

/// The directory has a pair that is not valid yet: the clock of its signer is ahead of the node's.
#[test]
fn status_shows_waiting_pair_as_next() {
    let prepare = |pki: &Path, ca: &mut Ca| {
        // The current pair is past any rotation point.
        put(pki, &dated(CLIENT[1]), &ca.node(HOUR * 19, HOUR * 20), true);
        put(pki, &dated(CLIENT[0]), &ca.node_from(clock::now().unix.after(HOUR / 2), HOUR * 20), false);
    };
    let (value, sentences, code) = status_of(prepare, &[]);
    assert_eq!((&value["state"], code), (&"good".into(), 0), "{sentences}");
    assert_eq!(value["next"]["file"], format!("pki/{}.pem", dated(CLIENT[0])));
    assert!(value["previous"].as_array().unwrap().is_empty(), "{value}");
    assert!(sentences.contains("good, the next certificate is used from"), "{sentences}");
}

#[test]
fn status_shows_serving_certificate_if_it_has_files() {
    let client = |pki: &Path, ca: &mut Ca| put(pki, &dated(CLIENT[0]), &ca.node(Duration::ZERO, HOUR), true);
    let (value, sentences, code) = status_of(client, &[]);
    assert_eq!((&value["serving"], code), (&Value::Null, 0));
    assert!(!sentences.contains("kubelet-server"), "{sentences}");

    let serving = dated("kubelet-server-2026-01-01");
    let both = |pki: &Path, ca: &mut Ca| {
        client(pki, ca);
        put(pki, &serving, &ca.node(Duration::ZERO, HOUR), true);
    };
    let (value, sentences, code) = status_of(both, &[]);
    assert_eq!((&value["state"], &value["serving"]["state"], code), (&"good".into(), &"good".into(), 0));
    assert_eq!(value["serving"]["file"], "pki/kubelet-server-current.pem");
    assert!(value["serving"]["rotate_at"].is_string() && value["serving"]["previous"].is_array(), "{value}");
    let blocks: Vec<_> = sentences.split("\n\n").collect();
    assert!(blocks.len() == 2 && blocks[0].contains("certificate kubelet-client"), "{sentences}");
    assert!(blocks[1].starts_with("certificate kubelet-server") && blocks[1].contains("serial"), "{sentences}");

    let expired = |pki: &Path, ca: &mut Ca| {
        client(pki, ca);
        put(pki, &serving, &ca.node(HOUR * 2, HOUR), true);
    };
    let (value, sentences, code) = status_of(expired, &[]);
    assert_eq!((&value["state"], &value["serving"]["state"], code), (&"good".into(), &"expired".into(), 1));
    assert!(sentences.contains("pki: kubelet-server: expired"), "{sentences}");
}

#[test]
fn status_reports_pipe_or_directory_or_huge_file_as_damaged() {
    let pipe: fn(&Path) = |current| {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, current, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let folder: fn(&Path) = |current| std::fs::create_dir(current).unwrap();
    let circle: fn(&Path) = |current| std::os::unix::fs::symlink("kubelet-client-current.pem", current).unwrap();
    let huge: fn(&Path) = |current| std::fs::File::create(current).unwrap().set_len(2 << 20).unwrap();
    for place in [pipe, folder, circle, huge] {
        let waiting = record(Some(Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap())), false);
        let prepare = |pki: &Path, _: &mut Ca| {
            place(&pki.join("kubelet-client-current.pem"));
            std::fs::write(pki.join("kubelet-client-pending.json"), waiting.encode()).unwrap();
            std::fs::write(pki.join("kubelet-client-2026-01-01-00-00-00-000.pem.bad"), "").unwrap();
        };
        let (value, printed, code) = status_of(prepare, &[]);
        assert_eq!((&value["state"], code), (&"damaged".into(), 1), "{printed}");
        assert_eq!(value["file"], "pki/kubelet-client-current.pem");
        assert_eq!(value["pending"]["csr"], "node-csr-abc", "{value}");
        assert_eq!(value["set_aside"].as_array().unwrap().len(), 1, "{value}");
        assert!(value["remedies"][0].as_str().unwrap().contains("bootstrap kubeconfig"), "{value}");
        for words in ["problem     cannot read", "to do     ", "unused      pki/", "node-csr-abc"] {
            assert!(printed.contains(words), "no {words:?} in {printed}");
        }
    }
}

#[test]
fn status_reports_pair_without_read_permission() {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("pki");
    put_in_use(&pki, Ca::new().node(Duration::ZERO, HOUR).to_pem().as_bytes());
    let pair = pki.join("kubelet-client-2026-01-01-00-00-00-000.pem");
    std::fs::set_permissions(pair, Permissions::from_mode(0o000)).unwrap();
    let output = as_nobody(directory.path(), &["status", "--cert-dir", "pki", "--json"]);
    let value: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&value["state"], output.code), (&"unreadable".into(), Some(1)), "{value}");
    assert!(value["remedies"][0].as_str().unwrap().contains("can read it"), "{value}");
}

#[test]
fn status_computes_rotation_point_by_rotation_window_flag() {
    let prepare = |pki: &Path, ca: &mut Ca| put(pki, &dated(CLIENT[0]), &ca.node(Duration::ZERO, HOUR), true);
    let (value, _, _) = status_of(prepare, &["--rotation-window", "10%-20%"]);
    let from = value["not_before"].as_str().unwrap();
    let point = value["rotate_at"].as_str().unwrap();
    let minutes = |text: &str| text[11..13].parse::<u32>().unwrap() * 60 + text[14..16].parse::<u32>().unwrap();
    let age = (minutes(point) + 24 * 60 - minutes(from)) % (24 * 60);
    // A tenth to a fifth of an hour and the three minutes of backdating; both times are cut to minutes.
    assert!((6..=13).contains(&age), "{from} {point}");
}

#[test]
fn status_with_prefix_shows_pair_of_that_prefix() {
    let prepare = |pki: &Path, ca: &mut Ca| {
        put(pki, &dated("proxy-2026-01-01"), &ca.node(Duration::ZERO, HOUR), true);
    };
    let (value, _, code) = status_of(prepare, &["--prefix", "proxy"]);
    assert_eq!((&value["file"], code), (&"pki/proxy-current.pem".into(), 0));
    let (value, _, code) = status_of(prepare, &[]);
    assert_eq!((&value["state"], code), (&"none".into(), 1));
}

#[test]
fn status_rotation_point_depends_on_signer_in_pending_record() {
    let proxy = Ca::new().node(Duration::ZERO, HOUR);
    let facts = proxy.chain().certificate().clone();
    let point = |signer: &str| {
        let seed = perennial::seed(signer, facts.common_name());
        perennial::rotation_point(&perennial::Policy::default(), seed, &facts).to_string()
    };
    let rotate_at = |name: &str, record: Option<Record>| {
        let prepare = |pki: &Path, _: &mut Ca| {
            put(pki, &dated(&format!("{name}-2026-01-01")), &proxy, true);
            let path = pki.join(format!("{name}-pending.json"));
            record.into_iter().for_each(|record| std::fs::write(&path, record.encode()).unwrap());
        };
        status_of(prepare, &["--prefix", name]).0["rotate_at"].as_str().unwrap().to_owned()
    };
    let record = Record { signer_name: "example.com/proxies".into(), ..record(None, false) };
    assert_eq!(rotate_at("proxy", Some(record)), point("example.com/proxies"));
    assert_eq!(rotate_at("kubelet-server", None), point(KUBELET_SERVING_SIGNER));
    assert_eq!(rotate_at("kubelet-client", None), point(KUBELET_CLIENT_SIGNER));
}
