//! Bad input: `perennial` names the fault, exits with code 2, and changes no file.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use crate::support::{Ca, files, perennial, put_in_use};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

/// Runs `perennial` with these arguments. Expects exit code 2, these words on stderr, and no file changed.
fn refused(directory: &Path, arguments: &[&str], words: &[&str]) {
    let before = files(directory);
    let output = perennial(directory, arguments);
    output.expect_refusal(arguments, words);
    assert_eq!(files(directory), before, "{arguments:?}");
}

const RUN: [&str; 7] = ["run", "--node-name", "worker", "--cert-dir", "pki", "--kubeconfig", "kubeconfig"];

/// Expects that `run` refuses a kubeconfig with this text, with these words on stderr.
fn refused_kubeconfig(text: &str, words: &[&str]) {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("ca.crt"), Ca::new().authority.certificate_pem()).unwrap();
    fs::write(directory.path().join("kubeconfig"), text).unwrap();
    refused(directory.path(), &RUN, words);
}

fn kubeconfig(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: c
  cluster: {{{cluster}}}
users:
- name: u
  user: {{{user}}}
contexts:
- name: x
  context: {{cluster: c, user: u}}
current-context: x
"
    )
}

const CLUSTER: &str = "server: https://127.0.0.1:1, certificate-authority: ca.crt";

#[test]
fn malformed_kubeconfig_is_refused_with_line_and_column() {
    refused_kubeconfig("apiVersion: v1\nclusters: [\n", &["kubeconfig:", "not valid YAML"]);
    refused_kubeconfig("apiVersion: v1\nkind: Config\nclusters: 7\n", &["kubeconfig:3:11"]);
    refused_kubeconfig("", &["kubeconfig:1:1", "empty"]);
}

#[test]
fn policy_file_that_is_missing_or_has_unknown_key_is_refused() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("pki")).unwrap();
    fs::write(directory.path().join("policy.yaml"), "policy: kubelet\nrotation_window: 70%-90%\n").unwrap();
    let words = ["policy.yaml: rotation_window: unknown key", "rotationWindow", "line 2, column 1"];
    for command in [RUN.as_slice(), &["status", "--cert-dir", "pki"]] {
        refused(directory.path(), &[command, &["--policy-file", "policy.yaml"]].concat(), &words);
        refused(directory.path(), &[command, &["--policy-file", "missing.yaml"]].concat(), &["missing.yaml: "]);
    }
}

#[test]
fn kubeconfig_without_context_or_credential_is_refused() {
    let whole = kubeconfig(CLUSTER, "token: abcdef.0123456789abcdef");
    let unknown = whole.replace("current-context: x", "current-context: other");
    refused_kubeconfig(&unknown, &["there is no context \"other\"", "\"x\""]);
    refused_kubeconfig(&kubeconfig(CLUSTER, ""), &["neither a token nor a client certificate"]);
    refused_kubeconfig(&kubeconfig(CLUSTER, "exec: {command: aws}"), &["exec plugins are not supported"]);
    refused_kubeconfig(&kubeconfig("server: http://127.0.0.1:1", "token: t"), &["use https://"]);
    let empty = "server: https://127.0.0.1:1, certificate-authority: ''";
    refused_kubeconfig(&kubeconfig(empty, "token: t"), &["certificate-authority: this is empty"]);
}

#[test]
fn unusable_ca_file_is_refused() {
    let missing = CLUSTER.replace("ca.crt", "missing.crt");
    refused_kubeconfig(&kubeconfig(&missing, "token: t"), &["missing.crt", "cannot be read"]);
    let no_ca = CLUSTER.replace("ca.crt", "kubeconfig");
    refused_kubeconfig(&kubeconfig(&no_ca, "token: t"), &["no certificate"]);
}

#[test]
fn kubeconfig_with_mismatched_pair_is_refused() {
    let mut ca = Ca::new();
    let (one, other) = (ca.node(Duration::ZERO, DAY), ca.node(Duration::ZERO, DAY));
    let mixed = [one.chain().pem().as_str(), &other.key().to_pem()].concat();
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("ca.crt"), ca.authority.certificate_pem()).unwrap();

    fs::write(path.join("mixed.pem"), &mixed).unwrap();
    let user = "client-certificate: mixed.pem, client-key: mixed.pem";
    fs::write(path.join("kubeconfig"), kubeconfig(CLUSTER, user)).unwrap();
    refused(path, &RUN, &["mixed.pem", "for another private key"]);
}

#[test]
fn start_without_any_credential_is_refused_with_advice() {
    let directory = TempDir::new().unwrap();
    refused(directory.path(), &RUN, &["kubeconfig does not exist", "--bootstrap-kubeconfig"]);
    let both = [RUN.as_slice(), &["--bootstrap-kubeconfig", "bootstrap"]].concat();
    refused(directory.path(), &both, &["neither kubeconfig nor bootstrap exists"]);

    // A path below a file cannot be checked for existence.
    let below_a_file = [RUN.as_slice(), &["--bootstrap-kubeconfig", "/proc/version/bootstrap"]].concat();
    refused(directory.path(), &below_a_file, &["/proc/version/bootstrap: cannot be read"]);

    // An expired certificate cannot authenticate the request for its successor.
    let expired = Ca::new().node(DAY / 2, DAY / 4);
    put_in_use(&directory.path().join("pki"), expired.to_pem().as_bytes());
    fs::write(directory.path().join("ca.crt"), Ca::new().authority.certificate_pem()).unwrap();
    let current = "pki/kubelet-client-current.pem";
    let own = format!("client-certificate: {current}, client-key: {current}");
    fs::write(directory.path().join("kubeconfig"), kubeconfig(CLUSTER, &own)).unwrap();
    refused(directory.path(), &RUN, &["expired at", "first request"]);
}

#[test]
fn unusable_certificate_directory_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("ca.crt"), Ca::new().authority.certificate_pem()).unwrap();
    fs::write(path.join("kubeconfig"), kubeconfig(CLUSTER, "token: t")).unwrap();
    let at = |cert_dir| ["run", "--node-name", "worker", "--kubeconfig", "kubeconfig", "--cert-dir", cert_dir];

    fs::write(path.join("file"), "").unwrap();
    refused(path, &at("file"), &["file"]);
    refused(path, &at("file/below"), &["cannot open file/below"]);
    // No user may create files in /proc, not even root.
    refused(path, &at("/proc/perennial"), &["cannot create /proc/perennial"]);
}

#[test]
fn unwritable_kubeconfig_is_refused_before_any_request() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("ca.crt"), Ca::new().authority.certificate_pem()).unwrap();
    fs::write(path.join("bootstrap"), kubeconfig(CLUSTER, "token: t")).unwrap();
    fs::create_dir(path.join("pki")).unwrap();
    let run = ["run", "--node-name", "worker", "--cert-dir", "pki", "--bootstrap-kubeconfig", "bootstrap"];
    // No user may create files in /proc, not even root.
    let nowhere = [run.as_slice(), &["--kubeconfig", "/proc/kubeconfig"]].concat();
    refused(path, &nowhere, &["cannot write /proc/kubeconfig"]);
}

#[test]
fn invalid_node_name_is_refused() {
    let directory = TempDir::new().unwrap();
    let named = ["run", "--node-name", "Worker_1", "--cert-dir", "pki", "--kubeconfig", "kubeconfig"];
    refused(directory.path(), &named, &["Worker_1", "lower-case"]);
}

#[test]
fn malformed_listen_address_is_refused_with_example() {
    let directory = TempDir::new().unwrap();
    for bad in ["9090", "worker:9090", "::1:9090", "localhost"] {
        let example = "for example 127.0.0.1:9090";
        refused(directory.path(), &[RUN.as_slice(), &["--metrics-listen", bad]].concat(), &[bad, example]);
    }
}

/// From the field, a node that is registered with a link-local address:
/// <https://github.com/kubernetes/kubernetes/issues/130409>, and a serving certificate for 127.0.0.1:
/// <https://github.com/k0sproject/k0s/issues/3300>
#[test]
fn node_ip_that_no_peer_can_dial_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("kubeconfig"), kubeconfig("server: https://127.0.0.1:1", "token: t")).unwrap();
    let serving = [RUN.as_slice(), &["--rotate-server-certificates"]].concat();
    for (bad, why) in [
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("169.254.1.1", "link-local"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("ff02::1", "multicast"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("worker", "expected one like 10.0.0.7"),
        ("10.0.0.7,fe80::1", "link-local"),
        ("::,10.0.0.7", "one of them alone"),
        ("0.0.0.0,::", "one of them alone"),
    ] {
        refused(path, &[serving.as_slice(), &["--node-ip", bad]].concat(), &["--node-ip", why]);
        // In a file of addresses, unlike in --node-ip, the unspecified addresses are invalid.
        fs::write(path.join("addresses"), format!("10.0.0.8\n{}\n", bad.split(',').next_back().unwrap())).unwrap();
        if bad != "::,10.0.0.7" && bad != "worker" {
            refused(path, &[serving.as_slice(), &["--node-addresses", "addresses"]].concat(), &["addresses: line 2"]);
        }
    }
}

#[test]
fn status_of_missing_directory_exits_with_code_2() {
    let directory = TempDir::new().unwrap();
    refused(directory.path(), &["status", "--cert-dir", "nowhere"], &["cannot open nowhere"]);
    refused(directory.path(), &["status"], &["--cert-dir"]);
}

#[test]
fn input_file_that_is_huge_or_not_regular_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("ca.crt"), Ca::new().authority.certificate_pem()).unwrap();
    File::create(path.join("huge")).unwrap().set_len(9 << 20).unwrap();
    mknodat(CWD, path.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let whole = kubeconfig(CLUSTER, "token: t");
    for (bad, why) in
        [("huge", "longer than 8 MiB"), ("fifo", "not a regular file"), ("/dev/zero", "not a regular file")]
    {
        let run = ["run", "--node-name", "worker", "--cert-dir", "pki", "--kubeconfig"];
        refused(path, &[run.as_slice(), &[bad]].concat(), &[bad, why]);
        for text in [
            kubeconfig(&CLUSTER.replace("ca.crt", bad), "token: t"),
            kubeconfig(CLUSTER, &format!("tokenFile: {bad}")),
            kubeconfig(CLUSTER, &format!("client-certificate: {bad}, client-key: {bad}")),
        ] {
            fs::write(path.join("kubeconfig"), text).unwrap();
            refused(path, &RUN, &[bad, why]);
        }
        fs::write(path.join("kubeconfig"), &whole).unwrap();
        let serving = ["--rotate-server-certificates", "--node-addresses", bad];
        refused(path, &[RUN.as_slice(), &serving].concat(), &[bad, why]);
    }
    // Files that are read once may be pipes, but must end.
    for (flag, bad, why) in [
        ("--config", "huge", "longer than 8 MiB"),
        ("--config", "/dev/zero", "longer than 8 MiB"),
        ("--config", "/dev/null", "this pipe was empty"),
        ("--issuer-ca-file", "huge", "longer than 8 MiB"),
        ("--issuer-ca-file", "/dev/zero", "longer than 8 MiB"),
    ] {
        refused(path, &[RUN.as_slice(), &[flag, bad]].concat(), &[bad, why]);
    }
}

#[test]
fn kubeconfig_in_unknown_encoding_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let whole = kubeconfig(CLUSTER, "token: t");
    let utf16: Vec<u8> = whole.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(path.join("kubeconfig"), &utf16).unwrap();
    refused(path, &RUN, &["kubeconfig: cannot be read", "UTF-16 without a byte order mark", "save the file as UTF-8"]);
    fs::write(path.join("kubeconfig"), [whole.as_bytes(), b"# \xff\n"].concat()).unwrap();
    refused(path, &RUN, &["kubeconfig: cannot be read", "line 13 is not UTF-8"]);
}
