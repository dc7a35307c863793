//! One node from bootstrap to stop, on both runtimes: serving certificate, new address, rotations, a replaced client
//! CA, a denied and an approved request; then status, metrics and journal.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::support::exposition::Page;
use crate::support::{Process, Signer, event_of, get, perennial, replace, run_arguments, start, until};
use perennial_dev::Decision;
use perennial_kubernetes::client::Request;
use perennial_pki::Credential;
use perennial_rotation::clock;
use perennial_tests::address;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const CLIENT: &str = "kubelet-client";
const SERVING: &str = "kubelet-server";

/// The names of the requests for certificate `of` that were reported as waiting for approval, the oldest first.
fn waiting(run: &Process, of: &str) -> Vec<String> {
    let events = run.events("waiting_for_approval").into_iter().filter(|event| event["of"] == of);
    events.map(|event| event["csr"].as_str().unwrap().to_owned()).collect()
}

/// Waits until more than `seen` requests for certificate `of` were reported as waiting for approval. Returns the name
/// of the first one after those `seen`.
fn next_waiting(run: &Process, of: &str, seen: usize) -> String {
    until(&format!("another request of {of}"), || waiting(run, of).into_iter().nth(seen))
}

fn current(directory: &Path, of: &str) -> Credential {
    let path = directory.join("worker/pki").join(format!("{of}-current.pem"));
    Credential::from_pem(&fs::read(path).unwrap()).unwrap()
}

fn scrape(address: &str) -> Page {
    let answer = get(address, "/metrics");
    Page::read(answer.split_once("\r\n\r\n").unwrap().1)
}

fn live(runtime: &str) {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let addresses = |text: &str| replace(&directory.join("addresses"), text);

    // Bootstrap, then a serving certificate, requested with the client certificate. Lifetime 20 seconds.
    let address = address::unused().to_string();
    let signer = Signer::start_at(directory, &address, &["--server-ca", "tls", "--signing-duration", "20s"]);
    addresses("10.0.0.7\n");
    let fixed = ["--json", "--runtime", runtime, "--rotate-server-certificates", "--node-addresses", "addresses"];
    let patience = ["--rotation-window", "30%-40%", "--retry-refused", "2s-4s"];
    let watched = ["--journal", "journal", "--metrics-listen", "127.0.0.1:0"];
    let mut run = start(directory, &run_arguments(&[fixed.as_slice(), &patience, &watched].concat()));
    let metrics = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    event_of(&run, CLIENT, "issued", 1);
    event_of(&run, SERVING, "issued", 1);
    run.event("kubeconfig", 1);

    // The node gets another address.
    addresses("10.0.0.8\n");
    let moved: IpAddr = "10.0.0.8".parse().unwrap();
    until("certificate for the new address", || {
        (current(directory, SERVING).chain().certificate().names.ip_addresses().eq([moved])).then_some(())
    });

    // Both certificates are rotated three times: once by SIGUSR1, then at their rotation points.
    run.signal(Signal::USR1);
    for n in 1..=3 {
        event_of(&run, CLIENT, "rotated", n);
        event_of(&run, SERVING, "rotated", n);
    }

    // The API server returns with another client CA and the same serving CA: the node's certificate is in date, and
    // rejected.
    signer.stop();
    for file in ["ca.crt", "ca.key"] {
        fs::remove_file(directory.join("signer").join(file)).unwrap();
    }
    // Requests that were approved at once may be among the waiting ones.
    let [client, serving] = [CLIENT, SERVING].map(|of| waiting(&run, of).len());
    let signer = Signer::start_at(directory, &address, &["--server-ca", "tls", "--approve", "manual"]);

    // The node notices at its next request, and submits one with the bootstrap token.
    let denied = next_waiting(&run, CLIENT, client);
    let path = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{denied}");
    let request = signer.administer(Request::get(path));
    assert!(request["spec"]["username"].as_str().unwrap().starts_with("system:bootstrap:"), "{request}");
    let before = current(directory, CLIENT);
    assert!(!before.chain().certificate().validity.expired(clock::now().unix), "too slow to see it in date");

    // After a denial, the node keeps its certificate and submits another request.
    signer.decide(&denied, Decision::Deny);
    until("word of the denial", || {
        let is_denial = |event: &Value| event["of"] == CLIENT && event["reason"].as_str().unwrap().contains("denied");
        run.events("trouble").iter().any(is_denial).then_some(())
    });
    assert_eq!(current(directory, CLIENT).chain(), before.chain());
    let approved = until("another request", || waiting(&run, CLIENT).pop().filter(|last| *last != denied));
    signer.decide(&approved, Decision::Approve);
    until("approved certificate", || (current(directory, CLIENT).chain() != before.chain()).then_some(()));

    // The serving certificate is requested with the new client certificate.
    let serving = next_waiting(&run, SERVING, serving);
    signer.decide(&serving, Decision::Approve);
    let long = Duration::from_secs(1800);
    until("approved serving certificate", || {
        let end = current(directory, SERVING).chain().certificate().validity.not_after();
        (end.since(clock::now().unix) > long && run.events("resting").last()?["of"] == SERVING).then_some(())
    });

    let rotated = |of: &str| run.events("rotated").iter().filter(|event| event["of"] == of).count() as f64;
    // Different threads count rotations and report them.
    let page = until("the same number of rotations in metrics and events", || {
        let page = scrape(&metrics);
        let counted = |of| page.find("perennial_rotations_total", &[("certificate", of)]);
        [CLIENT, SERVING].iter().all(|of| counted(of) == Some(rotated(of))).then_some(page)
    });
    for of in [CLIENT, SERVING] {
        assert!(rotated(of) >= 4.0, "{of}");
    }
    assert_eq!(page.get("kubelet_certificate_manager_server_rotation_seconds_count"), rotated(SERVING));
    // No certificate was replaced after its lifetime of 20 seconds.
    let ages = page.get("kubelet_certificate_manager_server_rotation_seconds_sum");
    assert!(ages > 10.0 && ages < 20.0 * rotated(SERVING), "{ages}");
    let denials = [("certificate", CLIENT), ("reason", "denied")];
    assert_eq!(page.find("perennial_attempt_failures_total", &denials), Some(1.0), "{page:?}");

    // `status` computes the rotation points that `run` reported.
    let status = ["status", "--json", "--cert-dir", "worker/pki", "--rotation-window", "30%-40%"];
    let status = perennial(directory, &status);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    for (of, rotate_at) in [(CLIENT, &status["rotate_at"]), (SERVING, &status["serving"]["rotate_at"])] {
        let resting = run.events("resting").into_iter().rfind(|event| event["of"] == of).unwrap();
        assert_eq!(&resting["rotate_at"], rotate_at, "{of}");
    }

    run.signal(Signal::TERM);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let replayed = perennial(directory, &["replay", "journal"]);
    assert_eq!(replayed.code, Some(0), "{}{}", replayed.stdout, replayed.stderr);
    let verified = perennial(directory, &["verify", "--cert-dir", "worker/pki"]);
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
    println!("{runtime}: {}", replayed.stdout.lines().last().unwrap_or_default());
}

#[test]
fn node_survives_denial_and_new_client_ca_on_threads() {
    live("std");
}

#[test]
fn node_survives_denial_and_new_client_ca_on_smol() {
    live("smol");
}
