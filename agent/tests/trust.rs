//! Whom a run trusts, and what it says of a kubeconfig that is of no use to a kubelet.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use support::{Ca, Process, Signer, perennial, until};
use tempfile::TempDir;

const RUN: [&str; 10] = [
    "run",
    "--json",
    "--node-name",
    "worker",
    "--cert-dir",
    "pki",
    "--kubeconfig",
    "kubeconfig",
    "--bootstrap-kubeconfig",
    "bootstrap",
];

/// A bootstrap kubeconfig for this server, with these fields in its cluster.
fn bootstrap(directory: &Path, signer: &Signer, cluster: &str) {
    let token = fs::read_to_string(directory.join("signer/bootstrap.token")).unwrap();
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{}'{cluster}}}}}]\n\
         users: [{{name: u, user: {{token: {}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
        signer.server,
        token.trim()
    );
    fs::write(directory.join("bootstrap"), text).unwrap();
}

/// From the field: <https://github.com/kubernetes/kubernetes/issues/119483>
/// From the field: <https://github.com/kubernetes/kubernetes/issues/46287>
/// From the field: <https://github.com/kube-rs/kube/issues/1953>
#[test]
fn replaced_ca_file_counts_without_sighup() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        let signer = Signer::start(path, &[]);
        bootstrap(path, &signer, ", certificate-authority: ca.crt");
        fs::write(path.join("ca.crt"), Ca::new().authority.certificate_pem()).unwrap();
        let run = [RUN.as_slice(), &["--runtime", runtime, "--retry", "100ms-1s"]].concat();
        let mut run = Process::start(path, &run);
        let told = until("complaint", || run.events("trouble").into_iter().next());
        let told = told["reason"].as_str().unwrap();
        assert!(told.contains("certificate-authority (ca.crt, read at 20"), "{told}");
        fs::copy(path.join("signer/ca.crt"), path.join("ca.crt")).unwrap();
        run.event("issued", 1);
        assert!(run.stderr().contains("ca.crt: the CA bundle has changed"), "{}", run.stderr());
    }
}

/// From the field: <https://github.com/kube-rs/kube/issues/2028>
#[test]
fn systems_cas_count_where_none_is_named() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    bootstrap(path, &signer, "");
    let system = path.join("signer/ca.crt");
    let mut run = Process::start_with(path, &RUN, &[("SSL_CERT_FILE", system.to_str().unwrap())]);
    run.event("issued", 1);
    assert!(run.stderr().contains("is checked against the system's CA certificates"), "{}", run.stderr());
    // What is not named stays so: the next start trusts the system, too.
    let written = until("kubeconfig", || fs::read_to_string(path.join("kubeconfig")).ok());
    assert!(!written.contains("certificate-authority"), "{written}");
    drop(run);

    fs::remove_dir_all(path.join("pki")).unwrap();
    fs::remove_file(path.join("kubeconfig")).unwrap();
    let run = Process::start_with(path, &RUN, &[("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")]);
    let told = until("complaint", || run.events("trouble").into_iter().next());
    let told = told["reason"].as_str().unwrap();
    assert!(told.contains("no certificate-authority is named, and the system has no CA certificates"), "{told}");
}

/// From the field: <https://github.com/kubernetes/kubeadm/issues/1317>
#[test]
fn kubeconfig_that_no_kubelet_could_start_from_is_warned_about() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    bootstrap(path, &signer, ", certificate-authority: signer/ca.crt");
    let once = [RUN.as_slice(), &["--once"]].concat();
    assert_eq!(perennial(path, &once).code, Some(0));
    // kubeadm embeds a pair, and nobody renews that one.
    let day = Duration::from_secs(86_400);
    let expired = Ca::new().node(day * 2, day);
    fs::write(path.join("expired.pem"), expired.to_pem().as_bytes()).unwrap();
    let user = "client-certificate: expired.pem, client-key: expired.pem";
    let text = fs::read_to_string(path.join("bootstrap")).unwrap();
    let from = text.find("{token").unwrap();
    let to = from + text[from..].find('}').unwrap();
    let embedded = format!("{}{{{user}{}", &text[..from], &text[to..]);
    fs::write(path.join("kubeconfig"), &embedded).unwrap();
    fs::rename(path.join("bootstrap"), path.join("away")).unwrap();
    let ended = perennial(path, &once);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("kubeconfig: a kubelet could not start from this kubeconfig"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(path.join("kubeconfig")).unwrap(), embedded);
    // With a bootstrap kubeconfig it is written anew, as the warning says.
    fs::rename(path.join("away"), path.join("bootstrap")).unwrap();
    assert_eq!(perennial(path, &once).code, Some(0));
    assert!(fs::read_to_string(path.join("kubeconfig")).unwrap().contains("kubelet-client-current.pem"));
    assert!(!perennial(path, &once).stderr.contains("could not start"));
}
