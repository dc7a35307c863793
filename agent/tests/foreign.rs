//! Certificates for another common name than the requested one, from the signer or in the certificate directory.

use std::fs;
use std::time::Duration;

use crate::support::{Ca, Signer, files, get, perennial, put_in_use, run_arguments, start, until};
use rustix::process::Signal;
use tempfile::TempDir;

/// The signer issues a certificate for another node. `run` rejects it: no hook runs, no pair is written, and the probe
/// `/readyz` fails. The next certificate, for the requested name, is used.
#[test]
fn issued_foreign_certificate_is_rejected_and_next_one_used() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let faults = "rules: [{ times: 1, match: { method: POST }, fault: { certificate: otherName } }]";
        fs::write(directory.join("faults"), faults).unwrap();
        let _signer = Signer::start(directory, &["--faults", "faults"]);
        let more = ["--json", "--on-rotated", "touch hooked", "--metrics-listen", "127.0.0.1:0", "--runtime", runtime];
        let mut run = start(directory, &run_arguments(&more));
        let trouble = run.event("trouble", 1);
        let reason = trouble["reason"].as_str().unwrap();
        assert!(reason.contains("`system:node:another-node`") && reason.contains("`system:node:worker`"), "{reason}");
        let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
        let ready = get(&address, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
        assert!(!run.stderr().contains("in use is kept"), "{}", run.stderr());
        let status = perennial(directory, &["status", "--cert-dir", "worker/pki"]);
        assert_ne!(status.code, Some(0), "{status:?}");
        assert!(!directory.join("worker/pki/kubelet-client-current.pem").exists());

        run.signal(Signal::USR1);
        run.event("issued", 1);
        until("call of the hook", || directory.join("hooked").exists().then_some(()));
        run.signal(Signal::TERM);
        assert_eq!(run.end().code, Some(0));
    }
}

/// With a mistyped node name, `run` does not change the other node's pair, logs both names, and requests a certificate
/// with the bootstrap credential.
#[test]
fn foreign_pair_in_directory_is_logged_and_stays() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let pair = Ca::new().node(Duration::from_secs(60), Duration::from_secs(86_400)).to_pem();
    put_in_use(&directory.join("worker/pki"), pair.as_bytes());
    let _signer = Signer::start(directory, &["--approve", "manual"]);
    let mut arguments = run_arguments(&["--json"]);
    arguments[2] = "worker-1";
    let mut run = start(directory, &arguments);
    run.event("waiting_for_approval", 1);
    let both = "the certificate is for \"system:node:worker\", not for \"system:node:worker-1\"";
    run.logged(both);
    assert_eq!(fs::read(directory.join("worker/pki/kubelet-client-current.pem")).unwrap(), pair.as_bytes());
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
}

/// With a mistyped node name and no bootstrap kubeconfig, `run` does not start: the kubeconfig points at the current
/// pair, as kubelet's does, and that pair belongs to another node.
#[test]
fn foreign_pair_in_kubeconfig_does_not_authenticate() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &[]);
    assert_eq!(perennial(directory, &run_arguments(&["--once"])).code, Some(0));
    fs::remove_file(directory.join("signer/bootstrap.kubeconfig")).unwrap();
    let before = (files(&directory.join("worker")), signer.requests());
    let mut arguments = run_arguments(&["--once"]);
    arguments[2] = "worker-1";
    let output = perennial(directory, &arguments);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output.stderr.contains("system:node:worker\"") && output.stderr.contains("system:node:worker-1"),
        "{output:?}"
    );
    assert_eq!((files(&directory.join("worker")), signer.requests()), before);
}
