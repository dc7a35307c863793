//! Files that another user put into a certificate directory, and mount points in it. perennial reports them, and never
//! uses or replaces them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{self, Ca, Output, Process, Signer, files, perennial, record, run_arguments};
use perennial_pki::{Credential, KeyAlgorithm, KeyPair};
use tempfile::TempDir;

const CURRENT: &str = "kubelet-client-current.pem";
const DATED: &str = "kubelet-client-2026-01-01-00-00-00-000.pem";
const DAY: Duration = Duration::from_secs(86_400);

/// Writes a file that another user may have written: a file of user 65534 or, if the test is not root, a file that all
/// users may write to.
fn plant(path: &Path, contents: &[u8]) {
    fs::write(path, contents).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    fs::set_permissions(path, Permissions::from_mode(if is_root { 0o600 } else { 0o666 })).unwrap();
    if is_root {
        lchown(path, Some(65_534), Some(65_534)).unwrap();
    }
}

/// A key that another user knows must not become the key of the node.
#[test]
fn planted_key_never_gets_a_certificate() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    fs::create_dir_all(&pki).unwrap();
    fs::set_permissions(&pki, Permissions::from_mode(0o1777)).unwrap();
    let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let planted = Ca::new().node(Duration::ZERO, DAY);
    plant(&pki.join("kubelet-client-pending.json"), &record(Some(key.clone()), false).encode());
    plant(&pki.join(DATED), planted.to_pem().as_bytes());
    symlink(DATED, pki.join(CURRENT)).unwrap();

    for command in ["status", "verify"] {
        let Output { code, stdout, .. } = perennial(path, &[command, "--cert-dir", "worker/pki"]);
        assert_eq!(code, Some(1), "{stdout}");
        for words in [CURRENT, "kubelet-client-pending.json", "left in place", "create and replace files", "chown it"] {
            assert!(stdout.contains(words), "{command}: no {words:?} in {stdout}");
        }
    }
    let output = perennial(path, &run_arguments(&["--once"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("ERROR") && output.stderr.contains("left in place"), "{output:?}");
    let issued = Credential::from_pem(&fs::read(pki.join(CURRENT)).unwrap()).unwrap();
    for known in [key.public_key_der(), planted.key().public_key_der()] {
        assert_ne!(issued.key().public_key_der(), known);
    }
    assert_eq!(fs::read(pki.join(DATED)).unwrap(), planted.to_pem().as_bytes());
}

/// Runs `perennial` in a mount namespace in which `file` is a mount point.
fn with_bound_file(directory: &Path, file: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", "mount --bind \"$0\" \"$0\" && exec \"$@\"", file]);
    command.arg(support::COMMAND).args(arguments);
    Process::spawn(directory, command).end()
}

#[test]
fn run_and_verify_fail_if_a_file_is_a_mount_point() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    fs::create_dir_all(&pki).unwrap();
    fs::write(pki.join(CURRENT), Ca::new().node(Duration::ZERO, DAY).to_pem().as_bytes()).unwrap();
    fs::set_permissions(pki.join(CURRENT), Permissions::from_mode(0o600)).unwrap();
    let before = files(&path.join("worker"));
    let current = format!("worker/pki/{CURRENT}");
    let refused = |output: Output, name: &str, code| {
        assert_eq!(output.code, Some(code), "{output:?}");
        let printed = output.stdout + &output.stderr;
        assert!(printed.contains(name) && printed.contains("mount the directory"), "{printed}");
    };
    refused(with_bound_file(path, &current, &run_arguments(&["--once"])), CURRENT, 2);
    refused(with_bound_file(path, &current, &["verify", "--cert-dir", "worker/pki"]), CURRENT, 1);
    assert_eq!(files(&path.join("worker")), before);
    assert!(!pki.join(".kubelet-client.lock").exists());

    // An unusable kubeconfig as a mount point, as a container runtime provides a single file.
    fs::remove_file(pki.join(CURRENT)).unwrap();
    let unusable =
        fs::read_to_string(path.join("signer/bootstrap.kubeconfig")).unwrap().replace("token:", "tokenFile:");
    fs::write(path.join("worker/kubeconfig"), unusable).unwrap();
    refused(with_bound_file(path, "worker/kubeconfig", &run_arguments(&["--once"])), "worker/kubeconfig", 2);
    assert!(!pki.join(CURRENT).exists());
}
