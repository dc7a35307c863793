//! `perennial run`, killed while its request waits, and started again: as real processes.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Roots;
use perennial_rotation::{Identity, Token};
use perennial_std::{Cancel, drive};
use rustix::process::Signal;
use serde_json::Value;
use support::{Process, Signer, perennial, run_arguments};
use tempfile::TempDir;

/// The names of the request objects there are.
fn objects(signer: &Signer, directory: &Path) -> Vec<String> {
    let read = |name: &str| fs::read_to_string(directory.join("signer").join(name)).unwrap();
    let cluster = Cluster::from_url(&signer.server).unwrap();
    let cluster = Arc::new(cluster.with_roots(Roots::from_pem(read("ca.crt").as_bytes()).unwrap()));
    let identity = Identity::Token(Token::new(read("bootstrap.token").trim()).unwrap());
    let request = Request::get("/apis/certificates.k8s.io/v1/certificatesigningrequests");
    let call = Call::new(request, cluster, identity, Limits::default());
    let answer = drive(call, &Cancel::default(), |_| {}).unwrap().unwrap();
    let list: Value = serde_json::from_slice(&answer.body).unwrap();
    let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}"));
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_node_that_is_killed_again_and_again_asks_once() {
    let directory = TempDir::new().unwrap();
    let signer = Signer::start(directory.path(), &["--approve", "manual"]);
    let mut names = Vec::new();
    for n in 0..6 {
        let runtime = if n % 2 == 0 { "std" } else { "smol" };
        let mut run = Process::start(directory.path(), &run_arguments(&["--json", "--runtime", runtime]));
        names.push(run.event("waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned());
        run.signal(Signal::KILL);
        assert_eq!(run.end().code, None);
    }
    names.dedup();
    assert_eq!(objects(&signer, directory.path()), names);

    let status = perennial(directory.path(), &["status", "--json", "--cert-dir", "worker/pki"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["pending"]["csr"], names[0].as_str());
}

#[test]
fn a_certificate_that_was_issued_while_the_node_was_down_is_fetched() {
    let directory = TempDir::new().unwrap();
    // It approves at once, but for a while its answers get lost.
    let faults = "rules: [{ match: { method: GET }, times: 1, fault: silence }]";
    fs::write(directory.path().join("faults.yaml"), faults).unwrap();
    let signer = Signer::start(directory.path(), &["--faults", "faults.yaml"]);
    let mut run = Process::start(directory.path(), &run_arguments(&["--json"]));
    run.event("waiting_for_approval", 1);
    run.signal(Signal::KILL);
    run.end();
    let once = perennial(directory.path(), &run_arguments(&["--once"]));
    assert_eq!(once.code, Some(0), "{once:?}");
    assert_eq!(objects(&signer, directory.path()).len(), 1);
}
