//! `perennial run` and `perennial status` as real processes, with a development API server in the test's process.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{self, Ca, Signer, files, perennial, run_arguments, start};
use perennial_kubernetes::kubeconfig::{Endpoint, kubeconfig_with_certificate, node_kubeconfig};
use perennial_kubernetes::objects::CertificateSigningRequest;
use perennial_rotation::clock;
use perennial_tests::command::mode;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

fn status(directory: &Path) -> (Value, Option<i32>) {
    let output = perennial(directory, &["status", "--json", "--cert-dir", "worker/pki"]);
    (serde_json::from_str(&output.stdout).unwrap(), output.code)
}

#[test]
fn second_run_reuses_certificate_of_first() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let first = perennial(directory.path(), &run_arguments(&["--once", "--json"]));
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.stdout.contains("\"event\":\"issued\""), "{first:?}");

    let worker = directory.path().join("worker");
    assert_eq!(mode(&worker.join("kubeconfig")), 0o600);
    assert_eq!(mode(&worker.join("pki")), 0o700);
    assert_eq!(mode(&worker.join("pki/kubelet-client-current.pem")), 0o600);
    let kubeconfig = fs::read_to_string(worker.join("kubeconfig")).unwrap();
    let current = fs::canonicalize(&worker).unwrap().join("pki/kubelet-client-current.pem");
    assert!(kubeconfig.contains(&format!("client-certificate: \"{}\"", current.display())), "{kubeconfig}");

    let (good, code) = status(directory.path());
    assert_eq!((good["state"].as_str(), code), (Some("good"), Some(0)));
    assert_eq!(good["common_name"], "system:node:worker");

    let before = files(&worker);
    let second = perennial(directory.path(), &run_arguments(&["--once", "--json", "--runtime", "smol"]));
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(!second.stdout.contains("issued"), "{second:?}");
    assert_eq!(files(&worker), before);
}

#[test]
fn run_rotates_with_own_certificate_until_sigterm() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let signer = Signer::start(directory.path(), &["--signing-duration", "10s"]);
        // An early window, so that a busy machine does not rotate after expiry, when only the bootstrap credential helps.
        let more = ["--json", "--runtime", runtime, "--rotation-window", "20%-30%"];
        let mut run = start(directory.path(), &run_arguments(&more));
        run.event("kubeconfig", 1);
        // Later requests must not need the bootstrap credential.
        fs::remove_file(directory.path().join("signer/bootstrap.kubeconfig")).unwrap();
        let rotated = run.event("rotated", 2);
        let (now, _) = status(directory.path());
        assert!(now["not_after"].as_str() >= rotated["not_after"].as_str());

        let signalled = Instant::now();
        run.signal(Signal::TERM);
        let output = run.end();
        assert!(signalled.elapsed() < Duration::from_secs(10));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert_eq!(support::events(&output.stdout).last().unwrap()["event"], "stopped");
        let by_itself = |request: &CertificateSigningRequest| {
            let approved = request.status.conditions.iter().any(|approved| approved.message.contains("self kubelet"));
            approved && request.spec.username == "system:node:worker"
        };
        assert!(signer.requests().iter().any(by_itself), "{:?}", signer.requests());
    }
}

#[test]
fn signal_ends_run_with_unapproved_request_within_ten_seconds() {
    for (signal, once, code) in [(Signal::TERM, None, 0), (Signal::INT, Some("--once"), 1)] {
        let directory = TempDir::new().unwrap();
        let signer = Signer::start(directory.path(), &["--approve", "manual"]);
        let arguments = run_arguments(&["--json"]);
        let mut run = start(directory.path(), &[arguments.as_slice(), once.as_slice()].concat());
        let name = run.event("waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned();
        assert!(signer.requests().iter().any(|request| request.metadata.name == name));
        let signalled = Instant::now();
        run.signal(signal);
        let output = run.end();
        assert!(signalled.elapsed() < Duration::from_secs(10));
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(!directory.path().join("worker/kubeconfig").exists());
    }
}

#[test]
fn usable_kubeconfig_is_used_and_stays_unchanged() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let kubeconfig = directory.path().join("signer/bootstrap.kubeconfig");
    let before = fs::read(&kubeconfig).unwrap();
    let arguments =
        ["run", "--once", "--cert-dir", "pki", "--node-name", "a", "--kubeconfig", "signer/bootstrap.kubeconfig"];
    let output = perennial(directory.path(), &arguments);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(fs::read(&kubeconfig).unwrap(), before);
}

/// From the field, an expired certificate in the kubeconfig beside a rotated one:
/// <https://github.com/kubernetes/kubernetes/issues/99645>
#[test]
fn kubeconfig_with_expired_certificate_is_rewritten() {
    let directory = TempDir::new().unwrap();
    let signer = Signer::start(directory.path(), &[]);
    let expired = Ca::new().node(Duration::from_secs(7200), Duration::from_secs(3600));
    fs::create_dir(directory.path().join("worker")).unwrap();
    fs::write(directory.path().join("old.pem"), expired.to_pem().as_bytes()).unwrap();
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: ../signer/ca.crt}}}}]\n\
         users: [{{name: u, user: {{client-certificate: ../old.pem, client-key: ../old.pem}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
        signer.server
    );
    fs::write(directory.path().join("worker/kubeconfig"), &text).unwrap();
    let output = perennial(directory.path(), &run_arguments(&["--once"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    let written = fs::read_to_string(directory.path().join("worker/kubeconfig")).unwrap();
    assert!(written.contains("kubelet-client-current.pem") && !written.contains("old.pem"), "{written}");

    // The written kubeconfig needs neither the bootstrap kubeconfig nor the old certificate.
    fs::remove_file(directory.path().join("old.pem")).unwrap();
    fs::remove_file(directory.path().join("signer/bootstrap.kubeconfig")).unwrap();
    let again = perennial(directory.path(), &run_arguments(&["--once"]));
    assert_eq!(again.code, Some(0), "{again:?}");
}

#[test]
fn node_joining_another_cluster_never_contacts_old_one() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &[]);
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
    let mut ca = Ca::new();
    let now = clock::now().unix;
    fs::create_dir(directory.join("worker")).unwrap();
    let endpoint = Endpoint {
        server: format!("https://{}", old.local_addr().unwrap()),
        ca_pem: Some(ca.authority.certificate_pem().as_bytes().to_vec()),
        ..Endpoint::default()
    };
    for (what, from, lifetime) in [("expired", now.before(2 * hour), hour), ("not yet valid", now.after(hour), day)] {
        let credential = ca.node_from(from, lifetime);
        fs::write(directory.join("old.pem"), credential.to_pem().as_bytes()).unwrap();
        let in_a_file = node_kubeconfig(&endpoint, &directory.join("old.pem"));
        let inline = kubeconfig_with_certificate(&endpoint, "node", &credential);
        for text in [in_a_file.as_str(), inline.as_str()] {
            fs::write(directory.join("worker/kubeconfig"), text).unwrap();
            let output = perennial(directory, &run_arguments(&["--once"]));
            assert_eq!(output.code, Some(0), "{what}: {output:?}");
            let written = fs::read_to_string(directory.join("worker/kubeconfig")).unwrap();
            assert!(written.contains(&signer.server) && written.contains("kubelet-client-current.pem"), "{written}");
            fs::remove_dir_all(directory.join("worker/pki")).unwrap();
        }
    }
    old.set_nonblocking(true).unwrap();
    assert!(old.accept().is_err(), "no connection to the old server");
}

#[test]
fn status_computes_same_rotation_point_as_run() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let mut run = start(directory.path(), &run_arguments(&["--json"]));
    let rotate_at = run.event("resting", 1)["rotate_at"].clone();
    assert_eq!(run.events("issued").len(), 1, "issued before resting: {}", run.stdout());
    run.event("kubeconfig", 1);
    assert_eq!(status(directory.path()).0["rotate_at"], rotate_at);
}
