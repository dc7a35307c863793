//! `perennial check`: shows a good list, reports all errors of a bad one, and changes no file.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{files, start_with};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/certificates.yaml");
const PAGE: &str = include_str!("../docs/certificates.md");

/// The exit code, stdout and stderr of `perennial check` with these arguments, and with a node's variables.
fn check(directory: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let arguments = [&["check", "--node-name", "worker-1"], arguments].concat();
    let output = start_with(directory, &arguments, &[("NODE_IP", "10.0.0.7")]).end();
    (output.code, output.stdout, output.stderr)
}

#[test]
fn shipped_list_is_good_and_covers_the_certificates_of_a_node() {
    let directory = TempDir::new().unwrap();
    let (code, stdout, stderr) = check(directory.path(), &["--json", SHIPPED]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let list: Value = serde_json::from_str(&stdout).unwrap();
    let certificates = list["certificates"].as_array().unwrap();
    let names: Vec<_> = certificates.iter().map(|member| member["name"].as_str().unwrap()).collect();
    let expected = [
        "kubelet-client",
        "kubelet-server",
        "kube-proxy",
        "etcd-server",
        "etcd-peer",
        "etcd-client",
        "cni",
        "node-agent",
    ];
    assert_eq!(names, expected);
    assert_eq!(certificates[0]["common_name"], "system:node:worker-1");
    assert_eq!(certificates[1]["usages"], serde_json::json!(["digital signature", "server auth"]));
    assert_eq!(certificates[4]["after"], serde_json::json!(["kubelet-client", "etcd-server"]));
    let (code, text, _) = check(directory.path(), &[SHIPPED]);
    assert_eq!(code, Some(0));
    for line in [
        "good, 8 certificates",
        "  usages    digital signature, client auth",
        "  identity  its own certificate; without a valid one, the user of /etc/kubernetes/bootstrap-kubelet.conf",
        "  files     /var/lib/kube-proxy/pki/client.pem (mode 0600)",
        "  rotation  at 50% to 70% of 1 d: 12 h to 16 h 48 min after notBefore; ecdsa-p256 key",
        "  signals   SIGHUP to the process in /run/node-agent.pid",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(files(directory.path()).is_empty(), "nothing is written");
}

#[test]
fn shipped_list_of_pods_is_good() {
    let directory = TempDir::new().unwrap();
    let variables = [("NODE_UID", "n1"), ("POD_UID", "u1"), ("SERVICE_ACCOUNT_UID", "s1")];
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/pods.yaml");
    let check = |arguments: &[&str]| {
        let arguments = [&["check", "--node-name", "worker-1"], arguments].concat();
        let output = start_with(directory.path(), &arguments, &variables).end();
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
        output.stdout
    };
    let list: Value = serde_json::from_str(&check(&["--json", path])).unwrap();
    let database = &list["certificates"][2];
    assert_eq!((&database["name"], &database["common_name"]), (&"web-0-database".into(), &"".into()));
    assert_eq!(database["pod"]["node_name"], "worker-1");
    assert_eq!(database["lifetime_seconds"], 86_400);
    assert_eq!(database["pod"]["user_annotations"]["database.example.com/role"], "reader");
    let files = ["tls.crt", "tls.key"].map(|file| format!("/var/lib/pods/u1/volumes/tls/database/{file}"));
    assert_eq!(database["files"], serde_json::json!(files));
    let text = check(&[path]);
    for line in [
        "good, 3 certificates, 1 trust bundle",
        "  request   pod shop/web-0 with service account web on node worker-1 from example.com/mesh",
        "  usages    as the signer chooses",
        "  identity  the certificate node",
        "  server    the API server of /etc/kubernetes/bootstrap-kubelet.conf",
        "  files     /var/lib/pods/u1/volumes/tls/mesh.pem (mode 0600); private copy in /var/lib/perennial/u1/web-0-mesh",
        "  rotation  at 70% to 90% of 1 d (the API's default for pods): 16 h 48 min to 21 h 36 min after notBefore; ",
        "  after     node",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(text.contains("tls.crt and ") && text.contains("(mode 0600), switched together; private copy"), "{text}");
}

#[test]
fn list_on_the_page_is_good() {
    let directory = TempDir::new().unwrap();
    let text = PAGE.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    fs::write(directory.path().join("list.yaml"), text).unwrap();
    let (code, stdout, stderr) = check(directory.path(), &["list.yaml"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("  runs      systemctl reload nginx, for at most 5 min"), "{stdout}");
}

#[test]
fn bad_list_is_refused_with_every_error_and_no_change() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("list.yaml");
    fs::write(&path, "apiVersion: perennial/v1\ncertificates:\n- nam: a\n  after: [b]\n").unwrap();
    let before = files(directory.path());
    let (code, stdout, stderr) = check(directory.path(), &["list.yaml"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    for line in [
        "the certificate list has 6 errors; nothing was changed",
        "list.yaml:3:3: certificate 1: nam: unknown key; did you mean name?",
        "list.yaml:3:3: certificate 1: `signer` is missing; add it, for example `signer: ",
        "list.yaml:3:3: certificate 1: `store` is missing; add it, for example `store: ",
    ] {
        assert!(stderr.contains(line), "{line}\n{stderr}");
    }
    let (code, _, stderr) = check(directory.path(), &["missing.yaml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("cannot read the certificate list"), "{stderr}");
    assert_eq!(files(directory.path()), before);
}
