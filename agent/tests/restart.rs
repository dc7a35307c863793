//! `perennial run`, killed while its request is in flight, and started again.

use std::fs;

use crate::support::{Signer, perennial, run_arguments, start};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The names of all CertificateSigningRequest objects of the API server.
fn objects(signer: &Signer) -> Vec<String> {
    signer.requests().into_iter().map(|request| request.metadata.name).collect()
}

#[test]
fn repeatedly_killed_run_submits_one_request() {
    let directory = TempDir::new().unwrap();
    let signer = Signer::start(directory.path(), &["--approve", "manual"]);
    let mut names = Vec::new();
    for n in 0..6 {
        let runtime = if n % 2 == 0 { "std" } else { "smol" };
        let mut run = start(directory.path(), &run_arguments(&["--json", "--runtime", runtime]));
        names.push(run.event("waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned());
        run.signal(Signal::KILL);
        assert_eq!(run.end().code, None);
    }
    names.dedup();
    assert_eq!(objects(&signer), names);

    let status = perennial(directory.path(), &["status", "--json", "--cert-dir", "worker/pki"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["pending"]["csr"], names[0].as_str());
}

#[test]
fn certificate_issued_during_downtime_is_fetched_by_next_run() {
    let directory = TempDir::new().unwrap();
    // The signer approves at once, but its first answer to a GET is lost.
    let faults = "rules: [{ match: { method: GET }, times: 1, fault: silence }]";
    fs::write(directory.path().join("faults.yaml"), faults).unwrap();
    let signer = Signer::start(directory.path(), &["--faults", "faults.yaml"]);
    let mut run = start(directory.path(), &run_arguments(&["--json"]));
    run.event("waiting_for_approval", 1);
    run.signal(Signal::KILL);
    run.end();
    let once = perennial(directory.path(), &run_arguments(&["--once"]));
    assert_eq!(once.code, Some(0), "{once:?}");
    assert_eq!(objects(&signer).len(), 1);
}
