//! SIGHUP while a disk is full, a request is in flight, files are missing or the configuration is bad.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::preload::library;
use crate::support::{self, Process, Signer, perennial, run_arguments, until};
use perennial_dev::Decision;
use perennial_pki::Credential;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use tempfile::TempDir;

/// Starts `perennial` with pipes for its output. [`let_write`] limits the sizes of files, which does not affect pipes.
fn start(directory: &Path, arguments: &[&str]) -> Process {
    start_program(directory, env!("CARGO_BIN_EXE_perennial"), arguments)
}

fn start_program(directory: &Path, program: &str, arguments: &[&str]) -> Process {
    let script = "trap '' XFSZ; mkfifo out err; cat out & cat err >&2 & exec \"$@\" >out 2>err";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", program]).args(arguments);
    Process::spawn(directory, command)
}

/// Limits the files that the process writes to a size of `most` bytes: writes fail as on a full disk. `None` removes
/// the limit.
fn let_write(process: &Process, most: Option<u64>) {
    let process = Pid::from_raw(process.id().try_into().unwrap());
    prlimit(process, Resource::Fsize, Rlimit { current: most, maximum: None }).unwrap();
}

fn on_disk(directory: &Path) -> String {
    let pem = fs::read(directory.join("worker/pki/kubelet-client-current.pem")).unwrap();
    Credential::from_pem(&pem).unwrap().chain().serial().to_owned()
}

/// Starts a run, waits for a certificate, fills the disk, and waits for a second certificate, which is in memory only.
/// Returns the process, and the serial number of the first certificate.
fn start_and_fill_the_disk(directory: &Path, more: &[&str]) -> (Process, String) {
    let mut run = start(directory, &run_arguments(&[&["--json"], more].concat()));
    run.event("kubeconfig", 1);
    let first = on_disk(directory);
    let_write(&run, Some(0));
    run.signal(Signal::USR1);
    let is_in_use = |log: &str| log.matches("a new certificate is in use").count() == 2;
    until("the next certificate", || is_in_use(&run.stderr()).then_some(()));
    assert_eq!(on_disk(directory), first);
    (run, first)
}

#[test]
fn unwritten_certificate_survives_sighup_and_is_written_later() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let signer = Signer::start(directory, &[]);
        let hook = ["--runtime", runtime, "--on-rotated", "echo $PERENNIAL_SERIAL"];
        let (mut run, first) = start_and_fill_the_disk(directory, &hook);

        run.signal(Signal::HUP);
        let served = run.event("reloaded", 1)["certificate"]["serial"].clone();
        assert_ne!(served, Value::from(first.as_str()), "{}", run.stdout());
        run.signal(Signal::HUP);
        assert_eq!(run.event("reloaded", 2)["certificate"]["serial"], served);
        assert_eq!(on_disk(directory), first);

        let_write(&run, None);
        assert_eq!(run.event("rotated", 1)["serial"], served);
        assert_eq!(Value::from(on_disk(directory)), served);
        until("the command of the operator", || run.stderr().contains(served.as_str().unwrap()).then_some(()));
        assert_eq!(signer.requests().len(), 2, "{:?}", signer.requests());
        run.signal(Signal::TERM);
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(support::events(&ended.stdout).iter().filter(|event| event["event"] == "rotated").count(), 1);
    }
}

#[test]
fn request_continues_after_sighup_if_its_record_could_not_be_written() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let signer = Signer::start(directory, &["--approve", "manual"]);
        let kubeconfigs =
            ["--kubeconfig", "worker/kubeconfig", "--bootstrap-kubeconfig", "signer/bootstrap.kubeconfig"];
        let fixed = ["run", "--json", "--node-name", "worker", "--cert-dir", "worker/pki", "--runtime", runtime];
        let limit = "ulimit -S -f 0; exec \"$@\"";
        let command = ["-c", limit, "sh", env!("CARGO_BIN_EXE_perennial")];
        let mut run = start_program(directory, "sh", &[command.as_slice(), &fixed, &kubeconfigs].concat());
        let csr = run.event("waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned();
        for n in 1..=2 {
            run.signal(Signal::HUP);
            run.event("reloaded", n);
        }
        assert!(!directory.join("worker/pki/kubelet-client-pending.json").exists());
        signer.decide(&csr, Decision::Approve);
        let_write(&run, None);
        run.event("kubeconfig", 1);
        assert_eq!(run.event("issued", 1)["serial"], on_disk(directory).as_str());
        assert_eq!(run.events("waiting_for_approval").len(), 1, "{}", run.stdout());
        assert_eq!(signer.requests().len(), 1, "{:?}", signer.requests());
    }
}

#[test]
fn unwritten_certificate_is_written_at_exit_and_reported() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let _signer = Signer::start(directory, &[]);
        let hook = ["--runtime", runtime, "--on-rotated", "sleep 0.3; echo $PERENNIAL_SERIAL >> serials"];
        let (run, _) = start_and_fill_the_disk(directory, &hook);
        let_write(&run, None);
        run.signal(Signal::TERM);
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let rotated = support::events(&ended.stdout).into_iter().rfind(|event| event["event"] == "rotated").unwrap();
        let serials = fs::read_to_string(directory.join("serials")).unwrap();
        assert_eq!(serials.lines().last().map(Value::from).as_ref(), Some(&rotated["serial"]));
        assert_eq!(rotated["serial"], on_disk(directory).as_str());
    }
}

/// Removes a directory, and tries again if `perennial run` wrote its pending record into the directory meanwhile.
fn remove(directory: &Path) {
    until("the removal", || fs::remove_dir_all(directory).ok());
}

#[test]
fn sighup_after_removal_of_directory_writes_pair_again() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let mut run = support::start(directory, &run_arguments(&["--json"]));
    run.event("kubeconfig", 1);
    let first = on_disk(directory);
    remove(&directory.join("worker/pki"));
    run.signal(Signal::HUP);
    assert_eq!(run.event("reloaded", 1)["certificate"]["serial"], first.as_str());
    until("the pair", || directory.join("worker/pki/kubelet-client-current.pem").exists().then_some(()));
    assert_eq!(on_disk(directory), first);
}

#[test]
fn sighup_takes_over_newer_pair_put_into_directory() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let mut run = support::start(directory, &run_arguments(&["--json"]));
    run.event("kubeconfig", 1);
    // Gets a later certificate for the same node in another directory.
    let elsewhere = ["--cert-dir", "other/pki", "--kubeconfig", "other/kubeconfig", "--once"];
    let other = ["run", "--node-name", "worker", "--bootstrap-kubeconfig", "signer/bootstrap.kubeconfig"];
    assert_eq!(perennial(directory, &[&other, elsewhere.as_slice()].concat()).code, Some(0));
    let current = directory.join("worker/pki/kubelet-client-current.pem");
    fs::remove_file(&current).unwrap();
    fs::copy(directory.join("other/pki/kubelet-client-current.pem"), &current).unwrap();
    let put_there = on_disk(directory);
    run.signal(Signal::HUP);
    assert_eq!(run.event("rotated", 1)["serial"], put_there.as_str());
    assert_eq!(on_disk(directory), put_there);
}

#[test]
fn failed_reload_keeps_configuration() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let mut run = support::start(directory, &run_arguments(&["--json"]));
    run.event("kubeconfig", 1);
    let kubeconfig = directory.join("worker/kubeconfig");
    let good = fs::read(&kubeconfig).unwrap();
    fs::write(&kubeconfig, "clusters: 7\n").unwrap();
    run.signal(Signal::HUP);
    until("complaint", || run.stderr().contains("reload failed, keeping the current configuration").then_some(()));
    run.signal(Signal::USR1);
    run.event("rotated", 1);

    fs::write(&kubeconfig, good).unwrap();
    run.signal(Signal::HUP);
    run.event("reloaded", 1);
    run.signal(Signal::TERM);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn sighup_applies_changed_policy_file() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &[]);
    let set = |policy: &str| fs::write(directory.join("policy.yaml"), policy).unwrap();
    set("rotationWindow: 40%-50%\nrequestTimeout: 5m\n");
    let file = ["--policy-file", "policy.yaml"];
    let mut run = support::start(directory, &run_arguments(&[&["--json"], file.as_slice()].concat()));
    let status = |more: &[&str]| {
        let options = ["status", "--json", "--cert-dir", "worker/pki"];
        let status = perennial(directory, &[&options, more].concat());
        assert_eq!(status.code, Some(0), "{}", status.stderr);
        serde_json::from_str::<Value>(&status.stdout).unwrap()["rotate_at"].clone()
    };
    let first = run.event("resting", 1)["rotate_at"].clone();
    assert_eq!(status(&file), first);

    set("rotationWindow: 80%-90%\n");
    run.signal(Signal::HUP);
    let second = run.event("resting", 2)["rotate_at"].clone();
    assert!(second.as_str() > first.as_str(), "{first} {second}");
    assert_eq!(status(&file), second);
    // A flag overrides the file.
    assert_eq!(status(&[file.as_slice(), &["--rotation-window", "40%-50%"]].concat()), first);

    set("rotationWindow: 90%-80%\n");
    run.signal(Signal::HUP);
    let trouble = run.event("trouble", 1)["reason"].as_str().unwrap().to_owned();
    for part in
        ["reload failed, keeping the current configuration", "policy.yaml: rotationWindow: ", "line 1, column 1"]
    {
        assert!(trouble.contains(part), "{trouble}");
    }
    // An unchanged policy is no event for the rotation.
    set("rotationWindow: 80%-90%\n");
    run.signal(Signal::HUP);
    run.event("reloaded", 2);
    assert_eq!((run.events("resting").len(), signer.requests().len()), (2, 1), "{}", run.stdout());
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
}

#[test]
fn pair_of_removed_directory_is_written_again_without_signal() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let mut run = support::start(directory, &run_arguments(&["--json"]));
    run.event("kubeconfig", 1);
    let first = on_disk(directory);
    remove(&directory.join("worker/pki"));
    until("the pair", || directory.join("worker/pki/kubelet-client-current.pem").exists().then_some(()));
    assert_eq!(on_disk(directory), first);
    run.logged("was removed by another program; writing the certificate again");
    assert_eq!(run.events("rotated").len(), 0, "nothing is requested for that");
}

/// Sends a thousand SIGHUPs while the first client certificate is requested, and a thousand more while the next one is
/// requested. `run` may answer several SIGHUPs with one reload.
#[test]
fn thousand_sighups_neither_add_nor_lose_a_request() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let signer = Signer::start(directory, &["--approve", "manual"]);
        let both = ["--json", "--runtime", runtime, "--rotate-server-certificates", "--node-ip", "10.0.0.7"];
        let mut run = support::start(directory, &run_arguments(&both));
        for round in 1..=2 {
            let csr = run.event("waiting_for_approval", 2 * round - 1)["csr"].as_str().unwrap().to_owned();
            for n in 0..1000 {
                run.signal(Signal::HUP);
                if n % 10 == 0 {
                    thread::sleep(Duration::from_millis(2));
                }
                if n == 500 {
                    signer.decide(&csr, Decision::Approve);
                }
            }
            let reloads = run.events("reloaded").len();
            run.signal(Signal::HUP);
            run.event("reloaded", reloads + 1);
            let other = run.event("waiting_for_approval", 2 * round)["csr"].as_str().unwrap().to_owned();
            signer.decide(&other, Decision::Approve);
            let name = if round == 1 { "issued" } else { "rotated" };
            run.event(name, 2);
            assert_eq!(signer.requests().len(), 2 * round, "one request for each certificate");
            if round == 1 {
                run.signal(Signal::USR1);
            }
        }
        let last = run.events("rotated").into_iter().find(|event| event["of"] == "kubelet-client").unwrap();
        assert_eq!(last["serial"], on_disk(directory).as_str());
        assert_eq!((run.events("started").len(), run.events("trouble").len()), (1, 0), "{}", run.stdout());
        run.signal(Signal::TERM);
        assert_eq!(run.end().code, Some(0));
    }
}

#[test]
fn sighup_while_first_input_hangs_reloads_after_start() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    fs::write(directory.join("hung"), "").unwrap();
    let preload = library().to_str().unwrap();
    let faults = [("LD_PRELOAD", preload), ("HANG_OPEN", "bootstrap.kubeconfig")];
    let mut run = support::start_with(directory, &run_arguments(&["--json"]), &faults);
    until("hanging file", || run.stderr().contains("hanging").then_some(()));
    run.signal(Signal::HUP);
    fs::write(directory.join("freed"), "").unwrap();
    run.event("issued", 1);
    run.event("reloaded", 1);
    run.signal(Signal::TERM);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(support::events(&ended.stdout).iter().filter(|event| event["event"] == "reloaded").count(), 1);
}
