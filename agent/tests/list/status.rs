//! `perennial status` and `verify` with a certificate list, and the status for systemd.

use super::*;
use crate::service::Systemd;

#[test]
fn status_and_verify_cover_all_certificates_of_list() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let list = List::new(directory).with_node().with_other("one", "mesh");
    list.write();
    // Before the first start there is no directory.
    let list_of = |command: &str, more: &[&str]| {
        perennial(directory, &[[command, "--certificates", "list.yaml"].as_slice(), more].concat())
    };
    let before = list_of("verify", &[]);
    assert_eq!(before.code, Some(1), "{before:?}");
    assert!(before.stderr.contains("node (perennial): could not start: "), "{before:?}");
    assert!(before.stderr.contains("signer/bootstrap.kubeconfig: there is no such file"), "{before:?}");
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    let before = list_of("verify", &[]);
    assert_eq!(before.code, Some(0), "{before:?}");
    let would = "and would request this certificate with the identity in the list";
    assert_eq!(before.stdout.matches(would).count(), 2, "{before:?}");
    assert_eq!(list_of("status", &[]).code, Some(1));

    assert_eq!(perennial(directory, &run_list(&["--once"])).code, Some(0));
    let good = list_of("status", &["--json"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    let status: Value = serde_json::from_str(&good.stdout).unwrap();
    for (name, signer) in [("node", "kubernetes.io/kube-apiserver-client-kubelet"), ("one", "example.com/mesh")] {
        let of = &status["certificates"][name];
        assert_eq!((&of["state"], &of["signer"]), (&"good".into(), &signer.into()), "{of}");
    }
    let text = list_of("status", &[]).stdout;
    assert!(
        text.starts_with("list        list.yaml\ncertificate node\n") && text.contains("\ncertificate one\n"),
        "{text}"
    );
    let verified = list_of("verify", &["--json"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let verified: Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(
        (&verified["good"], &verified["certificates"]["one"]["perennial"]["good"]),
        (&true.into(), &true.into())
    );
    assert!(verified["certificates"]["one"]["kubelet"].is_null());

    // The rotation point is that of `run`.
    let mut run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0"]));
    let point = event_of(&run, "one", "resting", 1)["rotate_at"].clone();
    // Known from the start, although a member at rest takes no step before that point.
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    let gauge = "perennial_certificate_rotation_point_timestamp_seconds{certificate=\"one\"} ";
    until("rotation point", || get(&address, "/metrics").contains(gauge).then_some(()));
    assert_eq!(status["certificates"]["one"]["rotate_at"], point);
    stop(run);

    fs::write(directory.join("one/one-current.pem"), "no pair").unwrap();
    fs::remove_dir_all(directory.join("node")).unwrap();
    let bad = list_of("status", &[]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.stderr.contains("list.yaml: node: ") && bad.stderr.contains("; 1 more of 2 certificates"), "{bad:?}");
    for command in ["status", "verify"] {
        list_of(command, &["--cert-dir", "pki"]).expect_refusal(&[command], &["cannot be used with"]);
        perennial(directory, &[command]).expect_refusal(&[command], &["--cert-dir <DIR>"]);
    }
}

#[test]
fn verify_finds_what_prevents_start_of_run() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    let at = directory.display();
    let mesh = "signer: example.com/mesh, identity: {certificate: node}, commonName";
    let token = format!(
        "signer: example.com/mesh, commonName: token, identity: {{tokenFile: {at}/token}}, \
         clusterKubeconfig: {at}/signer/bootstrap.kubeconfig"
    );
    let list = List::new(directory).with_node();
    let list = list.with("ca", &format!("{mesh}: ca, issuerCAFile: {at}/ca.crt"));
    list.with("cluster", &format!("{mesh}: cluster, clusterKubeconfig: {at}/absent")).with("token", &token).write();

    let verified = perennial(directory, &["verify", "--certificates", "list.yaml", "--json"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let verified: Value = serde_json::from_str(&verified.stdout).unwrap();
    let why = |name: &str| {
        let faults = &verified["certificates"][name]["perennial"]["faults"];
        faults[0]["why"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(why("node"), "");
    assert!(why("token").contains("there is no valid one, and ") && why("token").contains("/token"), "{verified}");
    let run = start(directory, &run_list(&[]));
    for name in ["ca", "cluster"] {
        let trouble = event_of(&run, name, "trouble", 1)["reason"].as_str().unwrap().to_owned();
        let reason = trouble.strip_prefix("cannot start: ").unwrap();
        assert_eq!(why(name), format!("could not start: {reason}"));
    }
    event_of(&run, "node", "issued", 1);
    stop(run);
}

#[test]
fn systemd_status_counts_certificates_and_names_failing_ones() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let absent = format!(
        "signer: example.com/mesh, commonName: lost, identity: {{tokenFile: {0}/t}}, \
         clusterKubeconfig: {0}/signer/bootstrap.kubeconfig",
        directory.display()
    );
    List::new(directory).with_node().with_other("one", "mesh").with("lost", &absent).write();
    let mut systemd = Systemd::new(directory);
    let run = systemd.start(directory, &run_list(&[]));
    systemd.hear("STATUS=3 certificates: 2 resting, 1 failing: lost");
    fs::copy(directory.join("signer/bootstrap.token"), directory.join("t")).unwrap();
    run.signal(Signal::HUP);
    systemd.hear("READY=1");
    systemd.hear("STATUS=3 certificates: 3 resting");
    drop(signer);
    stop(run);
}
