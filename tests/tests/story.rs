//! A node's life in one go, on both runtimes, with real processes: it bootstraps, serves, moves, rotates, is disowned by
//! another client CA, denied, approved, and stopped; then its metrics and its journal are read.

#[path = "support/exposition.rs"]
#[allow(dead_code, unreachable_pub, reason = "as in support")]
mod exposition;
mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::Path;

use exposition::Page;
use perennial_pki::Credential;
use rustix::process::Signal;
use serde_json::Value;
use support::{BOUND, Process, Signer, perennial, run_arguments, until};
use tempfile::TempDir;

const CLIENT: &str = "kubelet-client";
const SERVING: &str = "kubelet-server";

/// The `count`th event of this name about this certificate.
fn event_of(run: &Process, of: &str, name: &str, count: usize) -> Value {
    until(&format!("{name} event {count} of {of}"), || {
        run.events(name).into_iter().filter(|event| event["of"] == of).nth(count - 1)
    })
}

/// The last request of this certificate's that was seen to wait for approval.
fn waiting(run: &Process, of: &str) -> Option<String> {
    let events = run.events("waiting_for_approval");
    events.iter().rfind(|event| event["of"] == of)?["csr"].as_str().map(ToOwned::to_owned)
}

/// The next one after `before`.
fn next_waiting(run: &Process, of: &str, before: Option<&str>) -> String {
    until(&format!("another request of {of}"), || waiting(run, of).filter(|last| Some(last.as_str()) != before))
}

fn current(directory: &Path, of: &str) -> Credential {
    let path = directory.join("worker/pki").join(format!("{of}-current.pem"));
    Credential::from_pem(&fs::read(path).unwrap()).unwrap()
}

fn scrape(address: &str) -> Page {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: worker\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Page::read(answer.split_once("\r\n\r\n").unwrap().1)
}

fn live(runtime: &str) {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let addresses = |text: &str| fs::write(directory.join("addresses"), text).unwrap();

    // It bootstraps, and then asks for a serving certificate as itself.
    let signer = Signer::start(directory, &["--server-ca", "tls"]);
    addresses("10.0.0.7\n");
    let fixed = ["--json", "--runtime", runtime, "--rotate-server-certificates", "--node-addresses", "addresses"];
    let watched = ["--journal", "journal", "--metrics-listen", "127.0.0.1:0"];
    let mut run = Process::start(directory, &run_arguments(&[fixed.as_slice(), &watched].concat()));
    let metrics = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    event_of(&run, CLIENT, "issued", 1);
    event_of(&run, SERVING, "issued", 1);
    run.event("kubeconfig", 1);

    // It moves.
    addresses("10.0.0.8\n");
    event_of(&run, SERVING, "rotated", 1);
    let moved: IpAddr = "10.0.0.8".parse().unwrap();
    assert_eq!(current(directory, SERVING).chain().certificate().ip_addresses, [moved]);

    // Both are rotated three times.
    for n in 1..=3 {
        run.signal(Signal::USR1);
        event_of(&run, CLIENT, "rotated", n);
        event_of(&run, SERVING, "rotated", n + 1);
    }
    let before = current(directory, CLIENT);

    // The API server comes back with another client CA, and the same CA for itself: what the node has is in date, and
    // nobody knows it any more.
    let address = signer.address().to_owned();
    signer.process.signal(Signal::TERM);
    assert_eq!(signer.process.end().code, Some(0));
    for file in ["ca.crt", "ca.key"] {
        fs::remove_file(directory.join("signer").join(file)).unwrap();
    }
    // Approved at once, a request may still have been seen to wait.
    let [client, serving] = [CLIENT, SERVING].map(|of| waiting(&run, of));
    let signer = Signer::start_at(directory, &address, &["--server-ca", "tls", "--approve", "manual"]);
    run.signal(Signal::USR1);
    let denied = next_waiting(&run, CLIENT, client.as_deref());
    let asked = signer.administer(
        directory,
        perennial_kubernetes::client::Request::get(format!(
            "/apis/certificates.k8s.io/v1/certificatesigningrequests/{denied}"
        )),
    );
    assert!(asked["spec"]["username"].as_str().unwrap().starts_with("system:bootstrap:"), "{asked}");

    // Somebody says no; the node keeps what it has, and asks again when it is told to.
    signer.decide(directory, &denied, "Denied");
    until("word of the denial", || {
        let told = |event: &Value| event["of"] == CLIENT && event["reason"].as_str().unwrap().contains("denied");
        run.events("trouble").iter().any(told).then_some(())
    });
    assert_eq!(current(directory, CLIENT).chain(), before.chain());
    run.signal(Signal::USR1);
    let approved = next_waiting(&run, CLIENT, Some(&denied));
    signer.decide(directory, &approved, "Approved");
    event_of(&run, CLIENT, "rotated", 4);

    // And with that, the serving one.
    let serving = next_waiting(&run, SERVING, serving.as_deref());
    signer.decide(directory, &serving, "Approved");
    event_of(&run, SERVING, "rotated", 5);

    let page = scrape(&metrics);
    for (of, rotations) in [(CLIENT, 4.0), (SERVING, 5.0)] {
        assert_eq!(page.find("perennial_rotations_total", &[("certificate", of)]), Some(rotations), "{page:?}");
    }
    let denials = [("certificate", CLIENT), ("reason", "denied")];
    assert_eq!(page.find("perennial_attempt_failures_total", &denials), Some(1.0), "{page:?}");

    // Whoever looks at the directory knows what the node will do.
    let status = perennial(directory, &["status", "--json", "--cert-dir", "worker/pki"]);
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
fn a_node_lives_through_all_of_it_on_threads() {
    live("std");
}

#[test]
fn a_node_lives_through_all_of_it_on_smol() {
    live("smol");
}
