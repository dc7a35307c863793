//! Periodic checks whether the API server accepts the client certificate (`--certificate-check-interval`).

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Process, Signer, run_arguments, start, start_logging, until};
use tempfile::TempDir;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Starts a node that checks its certificate about once a second, and an API server that answers the checks with
/// `fault`. Returns once the first certificate is issued.
fn checked(fault: &str) -> (TempDir, Signer, Process) {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("faults.yaml"), format!("rules: [{{ match: {{ path: {REVIEWS} }}, {fault} }}]")).unwrap();
    let signer = Signer::start(path, &["--faults", "faults.yaml"]);
    let arguments = run_arguments(&["--json", "--certificate-check-interval", "1s"]);
    let mut run = start_logging(path, &arguments, "debug");
    run.event("issued", 1);
    (directory, signer, run)
}

#[test]
fn certificate_refused_by_server_for_a_minute_is_replaced() {
    let (_directory, signer, mut run) = checked("times: 2, fault: { answer: { status: 401 } }");
    until("first refusal", || run.stderr().contains("checking once more in").then_some(()));
    let refused = Instant::now();
    until("most of a minute", || (refused.elapsed() > Duration::from_secs(50)).then_some(()));
    assert_eq!(run.events("rotated").len(), 0, "two refusals count only a minute apart");
    let rotated = run.event("rotated", 1);
    assert_eq!(rotated["of"], "kubelet-client");
    run.logged("again: requesting a new one; was the server's client CA replaced?");
    run.logged("requesting a certificate with the bootstrap credential: the server refused the current certificate");
    assert_eq!(signer.bootstraps(), 2, "a refused certificate does not renew itself");
}

#[test]
fn certificate_check_that_fails_other_than_by_401_keeps_certificate() {
    for fault in
        ["fault: { answer: { status: 403 } }", "fault: { answer: { status: 404 } }", "fault: { reset: beforeHead }"]
    {
        let (_directory, _signer, run) = checked(fault);
        until("three checks", || {
            (run.stderr().matches("certificate check without a result").count() >= 3).then_some(())
        });
        assert!(!run.stderr().contains("refused the client certificate"), "{fault}: {}", run.stderr());
        assert_eq!(run.events("rotated").len(), 0, "{fault}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn certificate_check_interval_zero_disables_checks() {
    let directory = TempDir::new().unwrap();
    let signer = Signer::start(directory.path(), &[]);
    let mut run = start(directory.path(), &run_arguments(&["--json", "--certificate-check-interval", "0"]));
    run.event("resting", 1);
    // The checks would run on a thread named `acceptance`.
    let threads = fs::read_dir(format!("/proc/{}/task", run.id())).unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).unwrap());
    assert!(names.into_iter().all(|name| name.trim() != "acceptance"));
    drop(signer);
}
