//! `perennial-dev signer`: its arguments and its files.

mod command_support;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use command_support::{Process, files, perennial_dev, until};
use perennial_dev::{Authority, Random};
use perennial_rotation::clock;
use rustix::process::Signal;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);
const SECRETS: [&str; 4] = ["ca.key", "bootstrap.token", "bootstrap.kubeconfig", "admin.kubeconfig"];

/// Expects exit code 2, these words on stderr, and no file changed.
fn refused(directory: &Path, arguments: &[&str], words: &[&str]) {
    let before = files(directory);
    let output = perennial_dev(directory, arguments);
    assert_eq!(output.code, Some(2), "{arguments:?}: {output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{arguments:?}: no {word:?} in: {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    assert_eq!(files(directory), before, "{arguments:?}");
}

/// A signer that serves, its files in `signer/`.
fn start(directory: &Path) -> Process {
    let process = Process::start(directory, &["signer", "--listen", "127.0.0.1:0", "--dir", "signer"]);
    until("introduction", || process.stdout().contains("--bootstrap-kubeconfig").then_some(()));
    process
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn durations_that_make_no_sense_are_refused_with_an_example() {
    let directory = TempDir::new().unwrap();
    for bad in ["6", "soon", "0s", "-6s", "1s", "1 month"] {
        let lifetime = format!("--lifetime={bad}");
        refused(directory.path(), &["demo", &lifetime], &["--lifetime", bad]);
    }
    for option in ["--signing-duration=0s", "--signing-duration=999ms", "--backdate=never", "--backdate=-1s"] {
        refused(directory.path(), &["signer", option], &["for example 6s"]);
    }
    refused(directory.path(), &["signer", "--backdate=9999d"], &["at most 365d"]);
    refused(directory.path(), &["demo", "--rotations=0"], &["--rotations"]);
    refused(directory.path(), &["demo", "--runtime=tokio"], &["std, smol"]);
}

#[test]
fn an_address_that_is_taken_is_refused_before_anything_is_written() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = TempDir::new().unwrap();
    refused(directory.path(), &["signer", "--dir", "new", "--listen", &address], &["cannot listen on", &address]);
}

#[test]
fn half_a_ca_is_not_made_whole_by_overwriting_it() {
    let directory = TempDir::new().unwrap();
    let state = directory.path().join("signer");
    let start = ["signer", "--listen", "127.0.0.1:0", "--dir", "signer"];
    fs::create_dir(&state).unwrap();
    let (mut random, now) = (Random::from_os().unwrap(), clock::now().unix);
    let authority = Authority::generate(&mut random, now, 10 * DAY).unwrap();
    fs::write(state.join("ca.crt"), authority.certificate_pem()).unwrap();
    refused(directory.path(), &start, &["only one of", "ca.key"]);

    let foreign = authority.client_credential("system:node:worker", &["system:nodes"], &mut random, now, DAY).unwrap();
    fs::write(state.join("ca.key"), foreign.key().to_pem().as_bytes()).unwrap();
    refused(directory.path(), &start, &["ca.crt", "for another private key"]);
    fs::write(state.join("ca.crt"), foreign.chain().pem()).unwrap();
    refused(directory.path(), &start, &["may not sign"]);

    fs::write(directory.path().join("file"), "").unwrap();
    refused(directory.path(), &["signer", "--listen", "127.0.0.1:0", "--dir", "file"], &["cannot create file"]);
}

#[test]
fn a_plan_of_faults_that_makes_no_sense_is_refused_with_line_and_field() {
    let directory = TempDir::new().unwrap();
    let signer = ["signer", "--listen", "127.0.0.1:0", "--dir", "new", "--faults", "faults.yaml"];
    refused(directory.path(), &signer, &["faults.yaml"]);
    fs::write(directory.path().join("faults.yaml"), "rules:\n- fault: { answer: { status: much } }\n").unwrap();
    refused(directory.path(), &signer, &["faults.yaml", "line 2", "status"]);
}

#[test]
fn a_signers_files_and_directory_are_private_whatever_they_were_before() {
    let directory = TempDir::new().unwrap();
    let state = directory.path().join("signer");
    fs::create_dir(&state).unwrap();
    set_mode(&state, 0o777);
    for _ in 0..2 {
        let signer = start(directory.path());
        signer.signal(Signal::TERM);
        assert_eq!(signer.end().code, Some(0));
        assert_eq!(mode(&state), 0o700);
        for secret in SECRETS {
            assert_eq!(mode(&state.join(secret)), 0o600, "{secret}");
            set_mode(&state.join(secret), 0o666);
        }
        set_mode(&state, 0o755);
    }
}

#[test]
fn a_directory_that_holds_other_things_keeps_its_mode() {
    let directory = TempDir::new().unwrap();
    let state = directory.path().join("signer");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("notes"), "not ours").unwrap();
    for path in [state.clone(), state.join("notes")] {
        set_mode(&path, 0o755);
    }
    let _signer = start(directory.path());
    assert_eq!((mode(&state), mode(&state.join("notes"))), (0o755, 0o755));
    assert_eq!(SECRETS.map(|secret| mode(&state.join(secret))), [0o600; 4]);
}

#[test]
fn listen_address_without_ip_or_port_is_refused_with_example() {
    let directory = TempDir::new().unwrap();
    for bad in ["9090", "worker:9090", "::1:9090", "localhost"] {
        let example = "for example 127.0.0.1:9090";
        refused(directory.path(), &["signer", "--dir", "new", "--listen", bad], &[bad, example]);
    }
}
