//! `perennial run` with a serving certificate or a kubelet configuration.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{
    self, Ca, Process, Signer, event_of, files, perennial, put_in_use, replace, run_arguments, start, until,
};
use perennial::Template;
use perennial_kubernetes::objects::{CertificateSigningRequest, KUBELET_SERVING_SIGNER};
use perennial_pki::{Credential, interim};
use perennial_rotation::clock;
use rustix::process::Signal;
use tempfile::TempDir;

fn pair(directory: &Path, name: &str) -> Credential {
    Credential::from_pem(&fs::read(directory.join("worker/pki").join(name)).unwrap()).unwrap()
}

fn addresses(directory: &Path, text: &str) {
    replace(&directory.join("addresses"), text);
}

#[test]
fn serving_certificate_is_replaced_when_addresses_change() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let _signer = Signer::start(directory, &[]);
        addresses(directory, "10.0.0.7 # eth0\n");
        let more = ["--json", "--rotate-server-certificates", "--node-addresses", "addresses", "--runtime", runtime];
        let run = start(directory, &run_arguments(&more));
        event_of(&run, "kubelet-client", "issued", 1);
        event_of(&run, "kubelet-server", "issued", 1);
        let facts = pair(directory, "kubelet-server-current.pem").chain().certificate().clone();
        assert_eq!(facts.common_name(), "system:node:worker");
        assert!(facts.names.organizations().eq(["system:nodes"]), "{facts:?}");
        assert!(facts.names.dns_names().eq(["worker"]), "{facts:?}");
        assert!(facts.names.ip_addresses().eq(["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]), "{facts:?}");

        addresses(directory, "10.0.0.8\n2001:db8::8\nworker.example\n");
        event_of(&run, "kubelet-server", "rotated", 1);
        let facts = pair(directory, "kubelet-server-current.pem").chain().certificate().clone();
        assert_eq!((facts.names.dns_names().count(), facts.names.ip_addresses().count()), (2, 2), "{facts:?}");
        // An unreadable file of addresses is logged, and changes nothing.
        addresses(directory, "10.0.0.8 10.0.0.9\n");
        until("complaint", || run.stderr().contains("line 1").then_some(()));
        run.signal(Signal::TERM);
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.stdout.contains("trouble"), "{}", ended.stdout);
    }
}

#[test]
fn sigusr1_rotates_and_runs_the_hook() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let hook = "echo $PERENNIAL_CERTIFICATE $PERENNIAL_SERIAL >> runs; test -s $PERENNIAL_FILE && echo found >> runs";
    let mut run = start(directory, &run_arguments(&["--json", "--on-rotated", hook]));
    let runs = |count| {
        until("calls", || {
            let runs = fs::read_to_string(directory.join("runs")).unwrap_or_default();
            (runs.lines().filter(|line| *line == "found").count() == count).then_some(runs)
        })
    };
    run.event("issued", 1);
    // A call that has not begun when the next certificate is there would be for that one.
    runs(1);
    run.signal(Signal::USR1);
    let serial = run.event("rotated", 1)["serial"].as_str().unwrap().to_owned();
    let runs = runs(2);
    assert!(runs.contains(&format!("kubelet-client {serial}\n")), "{runs}");
}

#[test]
fn run_once_waits_for_hook_and_fails_if_hook_fails() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let once =
        perennial(directory, &run_arguments(&["--once", "--json", "--on-rotated", "echo noise; sleep 0.2; exit 7"]));
    assert_eq!(once.code, Some(1), "{once:?}");
    assert!(once.stderr.contains("--on-rotated failed: exit status: 7"), "{}", once.stderr);
    assert!(!once.stdout.contains("noise") && once.stderr.contains("noise"), "{once:?}");
}

const CONFIG: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

#[test]
fn kubelet_configuration_is_reread_at_sighup() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let write = |text: &str| fs::write(directory.join("config.yaml"), format!("{CONFIG}{text}\n")).unwrap();
    write("rotateCertificates: false\nclusterDomain: cluster.local");
    let more = ["--json", "--config", "config.yaml", "--node-ip", "10.0.0.7"];
    // Without rotation, the kubeconfig's user is the identity for reading the Node object.
    let mut run = start(directory, &run_arguments(&more));
    run.event("disabled", 1);

    write("rotateCertificates: often");
    run.signal(Signal::HUP);
    until("complaint", || run.stderr().contains("config.yaml:3:21: rotateCertificates").then_some(()));

    write("rotateCertificates: true\nserverTLSBootstrap: true");
    run.signal(Signal::HUP);
    run.event("reloaded", 1);
    event_of(&run, "kubelet-client", "issued", 1);
    event_of(&run, "kubelet-server", "issued", 1);

    write("serverTLSBootstrap: false");
    run.signal(Signal::HUP);
    assert_eq!(run.event("reloaded", 2)["certificate"]["common_name"], "system:node:worker");
    run.signal(Signal::TERM);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// From the field, a kubelet configuration with the same key twice:
/// <https://github.com/kubernetes/kubernetes/issues/83204>, and misspelt keys that are ignored without a warning:
/// <https://github.com/kubernetes/kubeadm/issues/2024>
#[test]
fn kubeadm_configuration_is_read_from_pipe_with_warnings() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let kubeadm = "---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n---\n";
    let odd = "ServerTLSBootstrap: true\nclusterDomain: a\nclusterDomain: b\nrotateCertificates: yes\n---\n";
    fs::write(directory.join("config"), [kubeadm, CONFIG, odd].concat()).unwrap();
    let mut command = Command::new("sh");
    let arguments = run_arguments(&["--once", "--json", "--config", "/dev/stdin"]);
    command.args(["-c", "cat config | \"$0\" \"$@\""]).arg(support::COMMAND).args(arguments);
    let once = Process::spawn(directory, command).end();
    assert_eq!(once.code, Some(0), "{once:?}");
    for warning in [
        "ignoring the unknown key ServerTLSBootstrap; did you mean serverTLSBootstrap?",
        ":9:16: the key of this value is repeated",
    ] {
        assert!(once.stderr.contains(warning), "no {warning:?} in {}", once.stderr);
    }
    assert!(directory.join("worker/pki/kubelet-client-current.pem").exists());
}

/// From the field, a kubeconfig in UTF-16: <https://github.com/kubernetes/kubernetes/issues/39007>
#[test]
fn kubeconfig_written_by_powershell_is_read() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let text = fs::read_to_string(directory.join("signer/bootstrap.kubeconfig")).unwrap();
    let utf16 = |mark: u16, unit: fn(u16) -> [u8; 2]| {
        [mark].into_iter().chain(text.encode_utf16()).flat_map(unit).collect::<Vec<u8>>()
    };
    for (n, bytes) in
        [utf16(0xfeff, u16::to_le_bytes), utf16(0xfeff, u16::to_be_bytes), [b"\xef\xbb\xbf", text.as_bytes()].concat()]
            .into_iter()
            .enumerate()
    {
        fs::write(directory.join("bootstrap"), bytes).unwrap();
        let (dir, node) = (format!("pki-{n}"), format!("kubeconfig-{n}"));
        let run = ["run", "--once", "--node-name", "worker", "--cert-dir", &dir, "--kubeconfig", &node];
        let once = perennial(directory, &[run.as_slice(), &["--bootstrap-kubeconfig", "bootstrap"]].concat());
        assert_eq!(once.code, Some(0), "{once:?}");
    }
}

#[test]
fn sighup_does_not_extend_time_limit_for_first_certificate() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--approve", "manual"]);
    let run = start(directory, &run_arguments(&["--json", "--exit-without-certificate", "2s"]));
    let mut reloads = 0;
    until("the end", || {
        let ended = run.events("failed").into_iter().next();
        if ended.is_none() && run.events("started").len() + run.events("reloaded").len() > reloads {
            run.signal(Signal::HUP);
            reloads += 1;
        }
        ended
    });
    assert_eq!(run.end().code, Some(1));
}

#[test]
fn replaced_external_serving_certificate_is_reported() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let write = |credential: &Credential| {
        fs::write(directory.join("tls.key"), credential.key().to_pem().as_bytes()).unwrap();
        fs::write(directory.join("tls.crt"), credential.chain().pem()).unwrap();
    };
    let pair = || interim(&Template::node("worker"), clock::now().unix).unwrap();
    let [first, second] = [pair(), pair()];
    write(&first);
    let more = ["--json", "--tls-cert-file", "tls.crt", "--tls-private-key-file", "tls.key"];
    let run = start(directory, &run_arguments(&more));
    assert_eq!(event_of(&run, "tls.crt", "kept", 1)["serial"], first.chain().serial());
    write(&second);
    assert_eq!(event_of(&run, "tls.crt", "rotated", 1)["serial"], second.chain().serial());
    // The chain of the same certificate becomes longer.
    fs::write(directory.join("tls.crt"), [second.chain().pem(), first.chain().pem()].concat()).unwrap();
    assert_eq!(event_of(&run, "tls.crt", "rotated", 2)["serial"], second.chain().serial());
    drop(run);
    fs::write(directory.join("tls.key"), "no key").unwrap();
    let refused = perennial(directory, &run_arguments(&more));
    assert!(refused.code == Some(2) && refused.stderr.contains("tls.key"), "{refused:?}");
}

#[test]
fn flags_override_kubelet_configuration() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    fs::write(directory.join("config.yaml"), format!("{CONFIG}rotateCertificates: false\nserverTLSBootstrap: true\n"))
        .unwrap();
    let more =
        ["--once", "--json", "--config", "config.yaml", "--rotate-certificates", "--rotate-server-certificates=false"];
    let once = perennial(directory, &run_arguments(&more));
    assert_eq!(once.code, Some(0), "{once:?}");
    assert!(directory.join("worker/pki/kubelet-client-current.pem").exists());
    assert!(!directory.join("worker/pki/kubelet-server-current.pem").exists());
}

#[test]
fn request_with_disallowed_serving_name_stays_pending() {
    for (allowed, approved) in [("10.0.0.8", false), ("10.0.0.7", true), ("*", true)] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let signer = Signer::start_at(directory, "127.0.0.1:0", &["--allow-serving-name", allowed]);
        let serving = ["--json", "--rotate-server-certificates", "--node-ip", "10.0.0.7"];
        let run = start(directory, &run_arguments(&serving));
        if approved {
            event_of(&run, "kubelet-server", "issued", 1);
        } else {
            event_of(&run, "kubelet-server", "waiting_for_approval", 1);
            let requests = signer.requests();
            let serving = |request: &&CertificateSigningRequest| request.spec.signer_name == KUBELET_SERVING_SIGNER;
            assert!(requests.iter().find(serving).unwrap().status.conditions.is_empty());
            assert!(!directory.join("worker/pki/kubelet-server-current.pem").exists());
        }
    }
}

#[test]
fn kubelet_flag_names_and_kubelet_serving_signer_are_accepted() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let fixed = ["run", "--once", "--hostname-override", "worker", "--cert-dir", "worker/pki"];
    let kubeconfigs = ["--kubeconfig", "worker/kubeconfig", "--bootstrap-kubeconfig", "signer/bootstrap.kubeconfig"];
    let both = ["--rotate-server-certificates", "--node-ip", "10.0.0.7,2001:db8::7"];
    let once = perennial(directory, &[fixed.as_slice(), &kubeconfigs, &both].concat());
    assert_eq!(once.code, Some(0), "{once:?}");
    let facts = pair(directory, "kubelet-server-current.pem").chain().certificate().clone();
    assert_eq!((facts.common_name(), facts.names.ip_addresses().count()), ("system:node:worker", 2));

    // kubelet-serving needs no --usage: the signer's usages are the default.
    let serving = ["--prefix", "web", "--signer-name", "kubernetes.io/kubelet-serving", "--ip", "10.0.0.7"];
    let once = perennial(directory, &[fixed.as_slice(), &kubeconfigs[..2], &serving].concat());
    assert_eq!(once.code, Some(0), "{once:?}");
}

#[test]
fn serving_certificate_of_unknown_ca_is_rejected() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let faults = "rules: [{ match: { user: system:node:worker }, fault: { certificate: otherAuthority } }]";
    fs::write(directory.join("faults.yaml"), faults).unwrap();
    let _signer = Signer::start(directory, &["--faults", "faults.yaml"]);
    let more = ["--json", "--issuer-ca-file", "signer/ca.crt", "--rotate-server-certificates", "--node-ip", "10.0.0.7"];
    let run = start(directory, &run_arguments(&more));
    event_of(&run, "kubelet-client", "issued", 1);
    let trouble = event_of(&run, "kubelet-server", "trouble", 1);
    assert!(trouble["reason"].as_str().unwrap().contains("does not lead to a trusted CA"), "{trouble}");
}

#[test]
fn run_without_certificate_in_time_exits_with_code_1() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--approve", "manual"]);
    let ended = perennial(directory, &run_arguments(&["--exit-without-certificate", "1s"]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no valid certificate for"), "{}", ended.stderr);
}

#[test]
fn external_client_certificate_is_reported_and_left_unchanged() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let _signer = Signer::start(directory, &[]);
        let (mut ca, hour, pki) = (Ca::new(), Duration::from_secs(3600), directory.join("worker/pki"));
        let old = ca.node(hour, hour + Duration::from_secs(3));
        put_in_use(&pki, old.to_pem().as_bytes());
        let off = ["--json", "--rotate-certificates=false", "--on-rotated", "echo $PERENNIAL_SERIAL > serial"];
        let mut run = start(directory, &run_arguments(&[off.as_slice(), &["--runtime", runtime]].concat()));
        run.event("disabled", 1);
        let trouble = event_of(&run, "kubelet-client", "trouble", 1);
        assert!(
            trouble["reason"].as_str().unwrap().contains("the program that rotates it has not replaced it"),
            "{trouble}"
        );

        // Replaces the pair as kubelet does: a dated file, then the link.
        let new = ca.node(Duration::ZERO, hour);
        fs::write(pki.join("kubelet-client-2026-01-02-00-00-00.pem"), new.to_pem().as_bytes()).unwrap();
        symlink(pki.join("kubelet-client-2026-01-02-00-00-00.pem"), pki.join("kubelet-client-updated.pem")).unwrap();
        fs::rename(pki.join("kubelet-client-updated.pem"), pki.join("kubelet-client-current.pem")).unwrap();
        let before = files(&pki);
        assert_eq!(event_of(&run, "kubelet-client", "rotated", 1)["serial"], new.chain().serial());
        let serial = || fs::read_to_string(directory.join("serial")).ok().filter(|text| text.ends_with('\n'));
        assert_eq!(until("the command of the operator", serial).trim(), new.chain().serial());
        assert_eq!(files(&pki), before, "nothing there is ours to change");
        drop(run);
        let run = start(directory, &run_arguments(&["--rotate-certificates=false"]));
        let says = "observing the client certificate of node worker, which another program rotates";
        until("the sentence", || run.stderr().contains(says).then_some(()));
    }
}
