//! `perennial run` with flags that name any certificate of any signer.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Signer, event_of, perennial, run_arguments, start};

#[test]
fn pending_record_contains_names_and_signer_given_by_flags() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--approve", "manual"]);
    let arguments = [
        "run",
        "--cert-dir",
        "pki",
        "--kubeconfig",
        "signer/admin.kubeconfig",
        "--json",
        "--prefix",
        "proxy",
        "--signer-name",
        "kubernetes.io/kube-apiserver-client",
        "--common-name",
        "proxy-1",
        "--organization",
        "proxies",
        "--dns",
        "proxy.example",
        "--uri",
        "spiffe://a.example/proxy",
        "--usage",
        "digital signature",
        "--usage",
        "client auth",
        "--key-type",
        "p384",
        "--requested-lifetime",
        "20m",
        "--rotation-window",
        "50%-60%",
        "--request-timeout",
        "1h",
    ];
    let mut run = start(directory, &arguments);
    let csr = run.event("waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned();
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
    let record = fs::read_to_string(directory.join("pki/proxy-pending.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["csrName"], &record["commonName"]), (&csr.into(), &"proxy-1".into()));
    assert_eq!((&record["organizations"][0], &record["dnsNames"][0]), (&"proxies".into(), &"proxy.example".into()));
    assert_eq!(record["rareNames"]["uris"][0], "spiffe://a.example/proxy");
    assert_eq!(record["signerName"], "kubernetes.io/kube-apiserver-client");
    drop(signer);
}

#[test]
fn kubeconfig_authenticates_requests_for_two_serving_certificates() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    assert_eq!(perennial(directory, &run_arguments(&["--once"])).code, Some(0));
    let fixed = ["run", "--json", "--node-name", "worker", "--cert-dir", "web", "--kubeconfig", "worker/kubeconfig"];
    let first = ["--prefix", "web", "--signer-name", "kubernetes.io/kubelet-serving", "--ip", "10.0.0.7"];
    let serving = ["--usage", "digital signature", "--usage", "server auth", "--rotate-server-certificates"];
    let arguments = [fixed.as_slice(), &first, &serving, &["--node-ip", "10.0.0.8"]].concat();
    let run = start(directory, &arguments);
    event_of(&run, "web", "issued", 1);
    event_of(&run, "kubelet-server", "issued", 1);
    run.signal(Signal::USR1);
    event_of(&run, "kubelet-server", "rotated", 1);
    assert_eq!(run.events("trouble"), [] as [Value; 0]);
}

#[test]
fn certificate_lacking_requested_usage_is_rejected() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    // The signer issues a certificate with one of both usages.
    fs::write(directory.join("faults.yaml"), "rules: [{ fault: { certificate: otherUsage } }]").unwrap();
    let _signer = Signer::start(directory, &["--faults", "faults.yaml"]);
    let fixed = ["run", "--json", "--cert-dir", "pki", "--kubeconfig", "signer/admin.kubeconfig"];
    let wanted = ["--prefix", "agent", "--signer-name", "example.com/agents", "--common-name", "agent-1"];
    let usages = ["--usage", "digital signature", "--usage", "client auth", "--usage", "server auth"];
    let mut run = start(directory, &[fixed.as_slice(), &wanted, &usages].concat());
    let reason = run.event("trouble", 1)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("extended key usage lacks `server auth`"), "{reason}");
}

#[test]
fn invalid_request_flags_are_refused_with_reason() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    for (more, why) in [
        (["--dns", "a.example"].as_slice(), "signs no DNS names"),
        (&["--uri", "spiffe://a.example/b"], "signs no URIs: leave out --uri"),
        (&["--uri", "a.example/b"], "cannot request the URI `a.example/b`: it has no scheme"),
        (&["--dns", "10.0.0.256"], "no DNS name either, since none ends in a number"),
        (&["--dns", "10.0.0.7"], "this is an IP address"),
        (&["--organization", "proxies"], "for the organization system:nodes alone"),
        (&["--usage", "code signing"], "'client auth' or 'server auth'"),
        (&["--rotate-server-certificates", "--node-addresses", "nowhere"], "nowhere: No such file"),
        (&["--tls-cert-file", "a.crt"], "--tls-private-key-file"),
        (&["--requested-lifetime", "1m"], "ten minutes"),
        (&["--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (&["--config", "/dev/null"], "/dev/null: this pipe was empty"),
        (&["--rotate-server-certificates", "--node-addresses", "/dev/tty"], "/dev/tty: it is not a regular file"),
        (&["--issuer-ca-file", "signer/ca.key"], "signer/ca.key"),
        (&["--key-type", "rsa1024"], "p256"),
        (&["--key-type", "rsa"], "the feature aws-lc-rs"),
        (&["--prefix", "../escape"], "file name prefix"),
    ] {
        let refused = perennial(directory, &run_arguments(more));
        assert_eq!(refused.code, Some(2), "{more:?}: {refused:?}");
        assert!(refused.stderr.contains(why), "{more:?}: {}", refused.stderr);
    }
    assert!(!directory.join("worker").exists());
}
