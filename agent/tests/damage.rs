//! Damaged certificate directories: `run` still gets a certificate, and deletes no file.

use std::fs::{self, FileType};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Ca, Signer, files, perennial, run_arguments, start, until};
use tempfile::TempDir;

const CURRENT: &str = "kubelet-client-current.pem";
const DAY: Duration = Duration::from_secs(86_400);

/// A kind of damage to the current pair: the name of the damage, the function that causes it, and the end of a file
/// name. After `run`, a file whose name ends so must have the damaged contents. `None`: no contents have to remain.
type Damage = (&'static str, fn(&Path), Option<&'static str>);

const DAMAGES: &[Damage] = &[
    ("cut short", |pki| rewrite(pki, |pem| pem[..pem.len() / 2].to_vec()), Some(".pem")),
    ("empty", |pki| rewrite(pki, |_| Vec::new()), Some(".pem")),
    ("garbage", |pki| rewrite(pki, |_| vec![0xff; 4096]), Some(".pem")),
    ("another's key", |pki| rewrite(pki, |pem| another_key(&pem)), Some(".pem")),
    ("huge", |pki| rewrite(pki, |_| vec![b'\n'; 2 << 20]), Some(".pem")),
    ("a regular file", |pki| replace(pki, |current| fs::write(current, "x").unwrap()), Some(".pem")),
    ("a directory", |pki| replace(pki, |current| fs::create_dir(current).unwrap()), Some("current.pem.bad")),
    ("a pipe", |pki| replace(pki, pipe), Some("current.pem.bad")),
    ("a loop", |pki| replace(pki, |current| symlink(CURRENT, current).unwrap()), None),
    ("elsewhere", |pki| replace(pki, |current| symlink("/proc/version", current).unwrap()), None),
    ("nowhere", |pki| replace(pki, |current| symlink("gone.pem", current).unwrap()), None),
    ("removed", |pki| fs::remove_file(pki.join(CURRENT)).unwrap(), None),
];

fn rewrite(pki: &Path, how: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = pki.join(CURRENT);
    fs::write(&path, how(fs::read(&path).unwrap())).unwrap();
}

fn another_key(pem: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(pem.to_vec()).unwrap();
    let (chain, _) = text.split_once("-----BEGIN PRIVATE KEY").unwrap();
    let other = Ca::new().node(Duration::ZERO, DAY);
    [chain, &other.key().to_pem()].concat().into_bytes()
}

fn replace(pki: &Path, with: impl FnOnce(&Path)) {
    let current = pki.join(CURRENT);
    fs::remove_file(&current).unwrap();
    with(&current);
}

fn pipe(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// The type of the file that this path leads to, also through links, and the contents of a regular file.
fn found(path: &Path) -> (FileType, Vec<u8>) {
    let kind = fs::metadata(path).unwrap().file_type();
    (kind, if kind.is_file() { fs::read(path).unwrap() } else { Vec::new() })
}

/// From the field, a program that does not start if its pair is damaged:
/// <https://github.com/kubernetes/kubernetes/pull/131111>
#[test]
fn damaged_pair_is_replaced_and_its_files_stay() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    for (what, damage, kept) in DAMAGES {
        assert_eq!(perennial(path, &run_arguments(&["--once"])).code, Some(0));
        damage(&pki);
        let current = pki.join(CURRENT);
        let remains = kept.map(|_| found(&current));
        let output = perennial(path, &run_arguments(&["--once"]));
        assert_eq!(output.code, Some(0), "{what}: {output:?}");
        let paths = || fs::read_dir(&pki).unwrap().map(|entry| entry.unwrap().path());
        if let (Some(end), Some(remains)) = (kept, remains) {
            let is_kept = |path: &PathBuf| path.to_str().unwrap().ends_with(end) && found(path) == remains;
            assert!(paths().any(|path| is_kept(&path)), "{what}: {:?}", paths().collect::<Vec<_>>());
        }
        assert!(fs::symlink_metadata(&current).unwrap().is_symlink(), "{what}");
        let status = perennial(path, &["status", "--cert-dir", "worker/pki"]);
        assert_eq!(status.code, Some(0), "{what}: {status:?}");
        fs::remove_dir_all(&pki).unwrap();
        fs::remove_file(path.join("worker/kubeconfig")).unwrap();
    }
}

/// From the field, a program that crashes at each start, since its pair is damaged:
/// <https://github.com/kubernetes/kubernetes/pull/97868>
#[test]
fn previous_pair_authenticates_request_to_replace_damaged_one() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    assert_eq!(perennial(path, &run_arguments(&["--once"])).code, Some(0));
    let pki = path.join("worker/pki");
    let good = fs::read_link(pki.join(CURRENT)).unwrap();
    let later = "kubelet-client-2099-01-01-00-00-00-000.pem";
    fs::write(pki.join(later), "cut sh").unwrap();
    fs::remove_file(pki.join(CURRENT)).unwrap();
    symlink(later, pki.join(CURRENT)).unwrap();
    // The bootstrap token is not needed.
    fs::remove_file(path.join("signer/bootstrap.kubeconfig")).unwrap();

    let status = perennial(path, &["status", "--cert-dir", "worker/pki"]);
    assert!(status.code == Some(1) && status.stdout.contains("problems found"), "{status:?}");
    assert!(status.stdout.contains("problem") && status.stdout.contains(CURRENT), "{status:?}");
    let requests = || signer.requests().len();
    let before = requests();
    let output = perennial(path, &run_arguments(&["--once"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains(CURRENT), "stderr names the damaged file: {output:?}");
    assert_eq!(output.stderr.matches("reading again for 5s").count(), 1, "the wait is logged: {output:?}");
    let new = fs::read_link(pki.join(CURRENT)).unwrap();
    assert!(new != good && new != Path::new(later), "{new:?}");
    assert_eq!(fs::read_to_string(pki.join(later)).unwrap(), "cut sh");
    assert_eq!(requests(), before + 1);
    let status = perennial(path, &["status", "--cert-dir", "worker/pki"]);
    assert!(status.code == Some(0) && status.stdout.contains(later), "{status:?}");
}

#[test]
fn second_run_on_same_directory_is_refused_while_status_works() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let first = start(path, &run_arguments(&[]));
    let current = path.join("worker/pki").join(CURRENT);
    until("first certificate", || current.exists().then_some(()));
    // Pairs only: the first process may still write its pending record.
    let pairs = || {
        let mut files = files(&path.join("worker/pki"));
        files.retain(|file, _| file.extension().is_some_and(|extension| extension == "pem"));
        files
    };
    let before = pairs();
    let second = perennial(path, &run_arguments(&["--once"]));
    assert_eq!(second.code, Some(2), "{second:?}");
    let owner = format!("process {} holds this lock", first.id());
    assert!(second.stderr.contains(&owner) && second.stderr.contains("stop one of them"), "{second:?}");
    assert_eq!(pairs(), before);
    assert_eq!(perennial(path, &["status", "--cert-dir", "worker/pki"]).code, Some(0));

    // A killed process holds no lock.
    first.signal(rustix::process::Signal::KILL);
    let _ = first.end();
    assert_eq!(perennial(path, &run_arguments(&["--once"])).code, Some(0));
}

/// `run` reports that other users can read the key file, but does not change its mode: programs of the file's group may
/// need to read the key.
#[test]
fn key_readable_by_group_is_reported_and_its_mode_stays() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    assert_eq!(perennial(path, &run_arguments(&["--once"])).code, Some(0));
    let current = path.join("worker/pki").join(CURRENT);
    fs::set_permissions(&current, fs::Permissions::from_mode(0o640)).unwrap();
    let output = perennial(path, &run_arguments(&["--once"]));
    assert!(output.code == Some(0) && output.stderr.contains("users other than its owner"), "{output:?}");
    assert_eq!(fs::metadata(&current).unwrap().permissions().mode() & 0o777, 0o640);
}
