//! Without rotation, or with bad input, `run` changes nothing in a certificate directory: it creates no lock, record or
//! directory.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::{Ca, Signer, files, perennial, put_in_use, run_arguments, start, until};
use perennial_rotation::{Directory, clock};
use rustix::process::Signal;
use tempfile::TempDir;

const CURRENT: &str = "kubelet-client-current.pem";
const DAY: Duration = Duration::from_secs(86_400);

/// The names of all files in the directory, locks included, and the time when a file was last added or removed.
fn names(pki: &Path) -> (Vec<String>, SystemTime) {
    let mut names: Vec<String> =
        fs::read_dir(pki).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    (names, fs::metadata(pki).unwrap().modified().unwrap())
}

#[test]
fn run_without_rotation_observes_but_never_creates_directory() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    let mut run = start(path, &run_arguments(&["--json", "--rotate-certificates=false"]));
    run.event("disabled", 1);
    assert!(!path.join("worker").exists());
    put_in_use(&pki, Ca::new().node(Duration::ZERO, DAY).to_pem().as_bytes());
    let before = names(&pki);
    run.event("issued", 1);
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
    assert_eq!(names(&pki), before);
}

/// An externally managed certificate may be for another node than `--node-name` names.
#[test]
fn external_certificate_for_another_node_is_no_error() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    put_in_use(&path.join("worker/pki"), Ca::new().node(Duration::ZERO, DAY).to_pem().as_bytes());
    let mut arguments = run_arguments(&["--json", "--rotate-certificates=false"]);
    arguments[2] = "another";
    let mut run = start(path, &arguments);
    run.event("disabled", 1);
    run.signal(Signal::TERM);
    let output = run.end();
    assert!(output.code == Some(0) && !output.stderr.contains("ERROR"), "{output:?}");
}

#[test]
fn rotation_switched_off_by_reload_stops_all_writes() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    let config = path.join("config.yaml");
    let configure = |rotates: bool| {
        let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nrotateCertificates: ";
        fs::write(&config, format!("{text}{rotates}\n")).unwrap();
    };
    configure(true);
    let hook = ["--on-rotated", "date >> ran"];
    let mut run = start(path, &run_arguments(&[&["--json", "--config", "config.yaml"], &hook[..]].concat()));
    run.event("resting", 1);
    let ran = |times: usize| {
        let runs = || fs::read_to_string(path.join("ran")).map_or(0, |ran| ran.lines().count());
        until("run of the hook", || (runs() == times).then_some(()));
    };
    ran(1);
    let done = pki.join("kubelet-client-hook.json");
    until("the record of the hook", || {
        fs::read_to_string(&done).is_ok_and(|it| it.contains("\"done\":\"")).then_some(())
    });
    // The record without a key is the last one that a rotation writes.
    let record = pki.join("kubelet-client-pending.json");
    until("the last record", || fs::read_to_string(&record).is_ok_and(|it| !it.contains("PRIVATE KEY")).then_some(()));
    configure(false);
    let noted = fs::metadata(&done).unwrap().ino();
    let before = (files(&pki), names(&pki));
    run.signal(Signal::HUP);
    run.event("disabled", 1);
    // The lock is released, so that another process can manage the files.
    until("the lock", || Directory::at(&pki, "kubelet-client").unwrap().is_free().ok());
    run.signal(Signal::USR1);
    // A missing directory stays missing: without rotation, another program creates it.
    fs::rename(&pki, path.join("worker/moved")).unwrap();
    run.signal(Signal::HUP);
    run.event("reloaded", 2);
    assert!(!pki.exists());
    fs::rename(path.join("worker/moved"), &pki).unwrap();

    // The command runs for another program's pair, and no record of the run is written.
    let (target, other) = (fs::read_link(pki.join(CURRENT)).unwrap(), pki.join("other.pem"));
    let put = |target: &Path| {
        let link = path.join("link");
        symlink(target, &link).unwrap();
        fs::rename(&link, pki.join(CURRENT)).unwrap();
    };
    fs::write(&other, Ca::new().node(Duration::ZERO, DAY).to_pem().as_bytes()).unwrap();
    put(&other);
    ran(2);
    fs::remove_file(&other).unwrap();
    put(&target);
    ran(3);
    // Each run of the hook ends before the next begins, so by now the first would have written a record.
    assert_eq!(fs::metadata(&done).unwrap().ino(), noted, "the record of the hook was written again");
    let put_back = (files(&pki), names(&pki));
    assert!(put_back.0 == before.0 && put_back.1.0 == before.1.0, "{:?} became {:?}", before.1, put_back.1);
    let before = put_back;

    configure(true);
    run.signal(Signal::HUP);
    run.event("reloaded", 3);
    run.event("resting", 2);
    // With rotation, the record of the hook may be written again, and its temporary file exists meanwhile.
    until("the same files but for the record of the hook", || {
        let mut now = files(&pki);
        now.insert(done.clone(), before.0[&done].clone());
        (now == before.0 && names(&pki).0 == before.1.0).then_some(())
    });
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
}

/// A reload that switches rotation on locks the directory. If another process holds the lock, the reload fails and
/// `run` continues without rotation.
#[test]
fn reload_that_enables_rotation_needs_directory_lock() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    fs::create_dir_all(&pki).unwrap();
    let config = path.join("config.yaml");
    let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nrotateCertificates: ";
    fs::write(&config, format!("{text}false\n")).unwrap();
    let mut run = start(path, &run_arguments(&["--json", "--config", "config.yaml"]));
    run.event("disabled", 1);
    let other = Directory::open(&pki, "kubelet-client").unwrap();
    fs::write(&config, format!("{text}true\n")).unwrap();
    run.signal(Signal::HUP);
    let why = run.event("trouble", 1)["reason"].as_str().unwrap().to_owned();
    assert!(why.contains("holds this lock"), "{why}");
    drop(other);
    // A process that is being started for another test may have inherited the lock.
    until("the lock", || Directory::at(&pki, "kubelet-client").unwrap().is_free().ok());
    run.signal(Signal::HUP);
    run.event("issued", 1);
    assert!(matches!(Directory::open(&pki, "kubelet-client"), Err(perennial_rotation::DirectoryError::Owned { .. })));
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
}

/// A reload switches rotation on. Like a start, the reload finds a waiting certificate on disk, so `run` submits no
/// request.
#[test]
fn reload_that_enables_rotation_finds_waiting_certificate() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    let (pki, mut ca) = (path.join("worker/pki"), Ca::new());
    // The certificate is due and has an hour left. The waiting one is valid in half an hour.
    put_in_use(&pki, ca.node(DAY - DAY / 24, DAY).to_pem().as_bytes());
    let next = ca.node_from(clock::now().unix.after(DAY / 48), DAY);
    let config = path.join("config.yaml");
    let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nrotateCertificates: ";
    fs::write(&config, format!("{text}false\n")).unwrap();
    let mut run = start(path, &run_arguments(&["--json", "--config", "config.yaml"]));
    run.event("disabled", 1);
    fs::write(pki.join("kubelet-client-2030-01-01-00-00-00.pem"), next.to_pem().as_bytes()).unwrap();
    fs::write(&config, format!("{text}true\n")).unwrap();
    run.signal(Signal::HUP);
    run.event("reloaded", 1);
    until("the next certificate", || run.stderr().contains("the new certificate is not valid before").then_some(()));
    run.signal(Signal::HUP);
    run.event("reloaded", 2);
    assert!(signer.requests().is_empty(), "{}", run.stderr());
}

#[test]
fn directory_locked_by_another_process_stays_unchanged() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    let _other = Directory::open(&pki, "kubelet-server").unwrap();
    let before = names(&pki);
    let output = perennial(path, &run_arguments(&["--once", "--rotate-server-certificates", "--node-ip", "192.0.2.1"]));
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains(".kubelet-server.lock: process"), "{output:?}");
    assert_eq!(names(&pki), before);
}
