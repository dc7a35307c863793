//! `perennial-dev signer`: its arguments and its files.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::perennial_dev;
use perennial::Template;
use perennial_dev::{Authority, Random};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubeconfig::Kubeconfig;
use perennial_pki::{Credential, Expected, Roots};
use perennial_rotation::{Authentication, Directory, Handle, IdentitySource, Rotator, Token, clock};
use perennial_tests::address;
use perennial_tests::command::{BOUND, Process, files, mode, set_mode, until};
use rustix::process::Signal;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);
const SECRETS: [&str; 4] = ["ca.key", "bootstrap.token", "bootstrap.kubeconfig", "admin.kubeconfig"];

/// Runs the command, and expects exit code 2, these words on stderr, and no file changed.
fn refused(directory: &Path, arguments: &[&str], words: &[&str]) {
    let before = files(directory);
    let output = perennial_dev(directory, arguments);
    output.expect_refusal(arguments, words);
    assert_eq!(files(directory), before, "{arguments:?}");
}

/// Starts `perennial-dev signer` on a free port, with its files in `signer/`.
pub(crate) fn start(directory: &Path) -> Process {
    start_at(directory, "127.0.0.1:0")
}

fn start_at(directory: &Path, address: &str) -> Process {
    let process = crate::support::start(directory, &["signer", "--listen", address, "--dir", "signer"]);
    until("introduction", || process.stdout().contains("--bootstrap-kubeconfig").then_some(()));
    process
}

#[test]
fn other_signers_are_served_with_flag_only() {
    for (flags, is_served) in [([].as_slice(), false), (&["--other-signers"], true)] {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        let arguments = [["signer", "--listen", "127.0.0.1:0", "--dir", "signer"].as_slice(), flags].concat();
        let process = crate::support::start(path, &arguments);
        until("introduction", || process.stdout().contains("--bootstrap-kubeconfig").then_some(()));
        let introduction = process.stdout();
        let named = ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving", "--other-signers"];
        assert_eq!(named.map(|name| introduction.contains(name)), [true, true, !is_served], "{introduction}");
        let signer = CsrSigner {
            signer_name: "example.com/mesh".into(),
            ..CsrSigner::kubelet_client(cluster(path), Some(token(path)))
        };
        let mesh = perennial_std::start(Rotator::new().template(Template::node("worker")).signer(signer)).unwrap();
        if is_served {
            mesh.ready().within(BOUND).unwrap();
        } else {
            let hint = "from signer example.com/mesh; waiting for `kubectl certificate approve`";
            until("hint", || process.stdout().contains(hint).then_some(()));
        }
    }
}

/// The API server that the bootstrap kubeconfig names.
fn cluster(directory: &Path) -> Arc<Cluster> {
    let path = directory.join("signer/bootstrap.kubeconfig");
    let kubeconfig = Kubeconfig::parse(&path, &fs::read_to_string(&path).unwrap()).unwrap();
    let endpoint = kubeconfig.select(None).unwrap().cluster(&mut |path| fs::read(path)).unwrap();
    let roots = Roots::from_pem(&endpoint.ca_pem.unwrap()).unwrap();
    Arc::new(Cluster::from_url(&endpoint.server).unwrap().with_roots(roots))
}

fn token(directory: &Path) -> Arc<dyn IdentitySource> {
    Arc::new(Token::new(&fs::read_to_string(directory.join("signer/bootstrap.token")).unwrap()).unwrap())
}

/// Starts a node with its certificate in `pki/`. The node authenticates with the bootstrap token until it has a
/// certificate.
pub(crate) fn node(directory: &Path) -> Handle {
    let signer = CsrSigner::kubelet_client(cluster(directory), Some(token(directory)));
    let store = Directory::open(directory.join("pki"), "kubelet-client").unwrap();
    perennial_std::start(Rotator::new().template(Template::node("worker")).signer(signer).store(store)).unwrap()
}

/// Waits until `issued` certificates were issued to the node, and the last one is on disk. Returns the node's
/// credential.
fn written(node: &Handle, issued: u64) -> Arc<Credential> {
    let snapshot = node.wait_for(|now| now.issued == issued && !now.unwritten).within(BOUND);
    snapshot.and_then(|now| now.credential.clone()).expect("a certificate")
}

#[test]
fn invalid_durations_are_refused_with_an_example() {
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
fn listen_address_in_use_is_refused_before_any_write() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = TempDir::new().unwrap();
    refused(directory.path(), &["signer", "--dir", "new", "--listen", &address], &["cannot listen on", &address]);
}

#[test]
fn ca_certificate_or_key_alone_is_not_overwritten() {
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
fn invalid_fault_plan_is_refused_with_line_and_field() {
    let directory = TempDir::new().unwrap();
    let signer = ["signer", "--listen", "127.0.0.1:0", "--dir", "new", "--faults", "faults.yaml"];
    refused(directory.path(), &signer, &["faults.yaml"]);
    fs::write(directory.path().join("faults.yaml"), "rules:\n- fault: { answer: { status: much } }\n").unwrap();
    refused(directory.path(), &signer, &["faults.yaml", "line 2", "status"]);
}

#[test]
fn files_and_directory_of_signer_are_made_private() {
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
fn directory_with_other_files_keeps_its_mode() {
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

/// True if the client certificate verifies by the CA certificates `roots`.
fn leads_to(credential: &Credential, roots: &[u8]) -> bool {
    let roots = Roots::from_pem(roots).unwrap();
    let chain = credential.chain();
    let expected = Expected {
        public_key_der: chain.public_key_der(),
        usages: &[perennial_pki::Usage::ClientAuth],
        skew: Duration::ZERO,
        roots: Some(&roots),
    };
    expected.check(chain, clock::now().unix).is_ok()
}

#[test]
fn sighup_without_ca_files_generates_ca_and_still_trusts_old_one() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = start(path);
    let node = node(path);
    let first = fs::read(path.join("signer/ca.crt")).unwrap();
    assert!(leads_to(&written(&node, 1), &first));

    signer.signal(Signal::HUP);
    until("reload without a change", || signer.stdout().contains("the CA is unchanged").then_some(()));
    for file in ["ca.crt", "ca.key"] {
        fs::rename(path.join("signer").join(file), path.join(file)).unwrap();
    }
    signer.signal(Signal::HUP);
    until("another CA", || signer.stdout().contains("another CA signs from now on").then_some(()));
    let second = fs::read(path.join("signer/ca.crt")).unwrap();
    assert_ne!(first, second);

    // Authenticates with the certificate of the first authority.
    node.rotate_now();
    let rotated = written(&node, 2);
    assert!(leads_to(&rotated, &second) && !leads_to(&rotated, &first));
    // Authenticates with the token of the rewritten kubeconfig.
    let other = CsrSigner::kubelet_client(cluster(path), Some(token(path)));
    let other = perennial_std::start(Rotator::new().template(Template::node("other")).signer(other)).unwrap();
    let issued = other.ready().within(BOUND).unwrap();
    assert!(leads_to(&issued, &second) && !leads_to(&issued, &first));
}

#[test]
fn sighup_with_missing_ca_key_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = start(path);
    fs::remove_file(path.join("signer/ca.key")).unwrap();
    signer.signal(Signal::HUP);
    until("complaint", || signer.stdout().contains("reload failed, nothing changed: only one of").then_some(()));
    node(path).ready().within(BOUND).unwrap();
}

#[test]
fn restarted_signer_accepts_earlier_credentials() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let address = address::unused().to_string();
    let signer = start_at(path, &address);
    let first = node(path);
    written(&first, 1);
    first.shutdown().wait();
    let kept = |name: &str| fs::read(path.join("signer").join(name)).unwrap();
    let before = ["ca.crt", "ca.key", "bootstrap.token", "bootstrap.kubeconfig"].map(kept);
    signer.signal(Signal::TERM);
    let ended = signer.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let _again = start_at(path, &address);
    assert_eq!(["ca.crt", "ca.key", "bootstrap.token", "bootstrap.kubeconfig"].map(kept), before);
    // The restarted signer still accepts the node's certificate.
    let signer = CsrSigner {
        authentication: Authentication::Own { bootstrap: None },
        ..CsrSigner::kubelet_client(cluster(path), None)
    };
    let store = Directory::open(path.join("pki"), "kubelet-client").unwrap();
    let again = Rotator::new().template(Template::node("worker")).signer(signer).store(store);
    let again = perennial_std::start(again).unwrap();
    again.rotate_now();
    written(&again, 1);
}

#[test]
fn log_shows_each_step_of_a_request_and_who_has_to_act() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = start(path);
    let node = node(path);
    written(&node, 1);
    node.rotate_now();
    written(&node, 2);
    until("log of the rotation", || signer.stdout().contains("self kubelet").then_some(()));
    // The log follows the API, which the node sees first.
    until("log of both certificates", || (signer.stdout().matches("issued").count() == 2).then_some(()));
    let log = signer.stdout();
    assert!(log.contains("system:node:worker requests system:node:worker"), "{log}");

    let serving = CsrSigner::kubelet_serving(cluster(path), Arc::new(node.credential().unwrap()));
    let template = Template::node("worker").with_ip_addresses(["10.0.0.7".parse().unwrap()]);
    let _waits = perennial_std::start(Rotator::new().template(template).signer(serving)).unwrap();
    let hint = "from signer kubernetes.io/kubelet-serving; waiting for `kubectl certificate approve`";
    until("hint", || signer.stdout().contains(hint).then_some(()));
}

#[test]
fn log_contains_no_secrets_whatever_clients_send() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let read = |name: &str| fs::read_to_string(path.join("signer").join(name)).unwrap();
    let signer = start(path);
    written(&node(path), 1);
    let (token, url) = (read("bootstrap.token"), cluster(path).to_string());
    let mut plain = TcpStream::connect(url.strip_prefix("https://").unwrap()).unwrap();
    plain.write_all(format!("GET /{token} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n").as_bytes()).unwrap();
    // The server answers with a TLS alert, or closes the connection.
    let _ = plain.read_to_end(&mut Vec::new());
    signer.signal(Signal::TERM);
    let ended = signer.end();
    let output = ended.stdout + &ended.stderr;
    let key = read("ca.key");
    let lines = key.lines().filter(|line| line.len() >= 16 && !line.starts_with("-----"));
    for secret in lines.chain([token.split_once('.').unwrap().1]) {
        assert!(output.contains("issued") && !output.contains(secret), "a secret was logged");
    }
}
