//! Another CA for a `signer` that runs.

mod support;

use std::fs;
use std::path::Path;

use perennial_pki::{Chain, Credential, Expected, Roots, Usage};
use perennial_std::clock;
use rustix::process::Signal;
use support::{Signer, perennial, run_arguments, until};
use tempfile::TempDir;

/// Whether the certificate of this directory leads to `roots`.
fn leads_to(certificates: &Path, roots: &[u8]) -> bool {
    let pem = fs::read(certificates.join("kubelet-client-current.pem")).unwrap();
    let held = Credential::from_pem(&pem).unwrap();
    let chain: &Chain = held.chain();
    let roots = Roots::from_pem(roots).unwrap();
    let expected = Expected {
        public_key_der: chain.public_key_der(),
        usage: Usage::ClientAuth,
        skew: std::time::Duration::ZERO,
        roots: Some(&roots),
    };
    expected.check(chain, clock::now().unix).is_ok()
}

#[test]
fn a_signer_takes_up_another_authority_and_nobody_is_shut_out() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    assert_eq!(perennial(path, &run_arguments(&["--once"])).code, Some(0));
    let first = fs::read(path.join("signer/ca.crt")).unwrap();
    assert!(leads_to(&path.join("worker/pki"), &first));

    signer.process.signal(Signal::HUP);
    until("a look without a find", || signer.process.stdout().contains("the CA is the same").then_some(()));
    for file in ["ca.crt", "ca.key"] {
        fs::rename(path.join("signer").join(file), path.join(file)).unwrap();
    }
    signer.process.signal(Signal::HUP);
    until("another CA", || signer.process.stdout().contains("another CA signs from now on").then_some(()));
    let second = fs::read(path.join("signer/ca.crt")).unwrap();
    assert_ne!(first, second);

    // By the certificate of the first, and by the token.
    let old = ["run", "--once", "--node-name", "worker", "--cert-dir", "old", "--kubeconfig", "worker/kubeconfig"];
    let output = perennial(path, &old);
    assert_eq!(output.code, Some(0), "{output:?}");
    let new = ["--node-name", "new", "--cert-dir", "new", "--kubeconfig", "new.kubeconfig"];
    let bootstrap = ["run", "--once", "--bootstrap-kubeconfig", "signer/bootstrap.kubeconfig"];
    let output = perennial(path, &[bootstrap.as_slice(), &new].concat());
    assert_eq!(output.code, Some(0), "{output:?}");
    for certificates in ["old", "new"] {
        assert!(leads_to(&path.join(certificates), &second) && !leads_to(&path.join(certificates), &first));
    }
}

#[test]
fn a_signer_goes_on_as_it_was_if_it_cannot_use_what_it_finds() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    fs::remove_file(path.join("signer/ca.key")).unwrap();
    signer.process.signal(Signal::HUP);
    until("complaint", || signer.process.stdout().contains("nothing changes: only one of").then_some(()));
    let output = perennial(path, &run_arguments(&["--once"]));
    assert_eq!(output.code, Some(0), "{output:?}");
}
