//! The log of `perennial`: JSON lines with `--log-format json`, and the messages about failures and credentials.

use std::fs;

use crate::support::{Signer, perennial, run_arguments, start, until};
use serde_json::Value;
use tempfile::TempDir;

fn lines(stderr: &str) -> Vec<Value> {
    stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

#[test]
fn each_failed_attempt_is_logged_with_reason() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let faults = "rules: [{ match: { method: POST }, fault: { answer: { status: 403 } } }]";
    fs::write(directory.join("faults.yaml"), faults).unwrap();
    let _signer = Signer::start(directory, &["--faults", "faults.yaml"]);
    let run = start(directory, &run_arguments(&["--retry", "10ms-20ms"]));
    until("three reasons", || (run.stderr().matches("the server answered 403").count() >= 3).then_some(()));
}

#[test]
fn every_line_of_json_log_is_json() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let output = perennial(directory.path(), &run_arguments(&["--once", "--log-format", "json"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    let log = lines(&output.stderr);
    let issued = log.iter().find(|line| line["message"] == "a new certificate is in use").unwrap();
    assert_eq!((&issued["level"], &issued["common_name"]), (&"INFO".into(), &"system:node:worker".into()));

    // The error of the command is a JSON line as well.
    let output = perennial(directory.path(), &["--log-format", "json", "status", "--cert-dir", "nowhere"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    let last = lines(&output.stderr).pop().unwrap();
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().unwrap().contains("nowhere"), "{last}");
}

#[test]
fn short_lived_and_expired_certificate_are_logged() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--signing-duration", "4s"]);
    let run = start(directory, &run_arguments(&[]));
    let logged = |part: &str| until(part, || run.stderr().contains(part).then_some(()));
    logged("requesting a certificate with the bootstrap credential: there is no certificate yet");
    logged("too short for this policy, which needs 128.6 s");
    logged("requesting a certificate: the current certificate has passed its rotation point");
    // Without the signer, the certificate expires.
    drop(signer);
    logged("no valid certificate: the last one expired at ");
    assert_eq!(run.stderr().matches("too short for this policy").count(), 1, "{}", run.stderr());
    let expired = run.stderr().lines().find(|line| line.contains("no valid certificate")).unwrap().to_owned();
    assert!(expired.contains("WARN") && !expired.contains("is kept"), "{expired}");
    drop(run);

    // A start with an expired certificate logs that again.
    let again = start(directory, &run_arguments(&[]));
    until("reminder", || again.stderr().contains("WARN perennial_rotation::log: no valid certificate").then_some(()));
}

#[test]
fn status_shows_why_server_refused_request() {
    for (status, word) in [
        (401, "the server refused the credential of the request"),
        (403, "the credential of the request lacks the permission"),
    ] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let faults = format!("rules: [{{ match: {{ method: POST }}, fault: {{ answer: {{ status: {status} }} }} }}]");
        fs::write(directory.join("faults.yaml"), faults).unwrap();
        let _signer = Signer::start(directory, &["--faults", "faults.yaml"]);
        let run = start(directory, &run_arguments(&[]));
        until("the bootstrap credential", || {
            run.stderr()
                .contains("requesting a certificate with the bootstrap credential: there is no certificate yet")
                .then_some(())
        });
        let shown = until("the reason in status", || {
            let shown = perennial(directory, &["status", "--cert-dir", "worker/pki"]);
            shown.stdout.contains(word).then_some(shown.stdout)
        });
        assert!(shown.contains("failed      node-csr-"), "{shown}");
    }
}

#[test]
fn use_of_bootstrap_credential_after_401_is_logged() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    // The fault applies to the second request.
    let faults = "rules: [{ match: { method: POST, nth: 2 }, times: 1, fault: { answer: { status: 401 } } }]";
    fs::write(directory.join("faults.yaml"), faults).unwrap();
    let _signer = Signer::start(directory, &["--faults", "faults.yaml"]);
    let mut run = start(directory, &run_arguments(&["--json"]));
    run.event("issued", 1);
    run.signal(rustix::process::Signal::USR1);
    run.event("rotated", 1);
    run.logged("; the next request uses the bootstrap credential");
    run.logged("requesting a certificate with the bootstrap credential: the server refused the current certificate");
    let log = run.stderr();
    let requests = log.lines().filter(|line| line.contains("requesting a certificate"));
    let requests: Vec<&str> = requests.map(|line| line.split_once("requesting").unwrap().1).collect();
    assert_eq!(
        requests,
        [
            " a certificate with the bootstrap credential: there is no certificate yet",
            " a certificate: a rotation was requested",
            " a certificate with the bootstrap credential: the server refused the current certificate",
        ]
    );
}
