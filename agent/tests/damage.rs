//! A directory that was damaged does not keep a node off the cluster, and nothing of it is lost.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use support::{Ca, Process, Signer, files, perennial, run_arguments, until};
use tempfile::TempDir;

const CURRENT: &str = "kubelet-client-current.pem";
const DAY: Duration = Duration::from_secs(86_400);

/// What was done to the pair in use, and what is to be found afterwards under the name that is told.
type Damage = (&'static str, fn(&Path), fn(&str) -> bool);

const DAMAGES: &[Damage] = &[
    ("cut short", |pki| rewrite(pki, |pem| pem[..pem.len() / 2].to_vec()), |name| name.ends_with(".pem.bad")),
    ("empty", |pki| rewrite(pki, |_| Vec::new()), |name| name.ends_with(".pem.bad")),
    ("garbage", |pki| rewrite(pki, |_| vec![0xff; 4096]), |name| name.ends_with(".pem.bad")),
    ("another's key", |pki| rewrite(pki, |pem| another_key(&pem)), |name| name.ends_with(".pem.bad")),
    ("huge", |pki| rewrite(pki, |_| vec![b'\n'; 2 << 20]), |name| name.ends_with(".pem.bad")),
    ("a regular file", |pki| replace(pki, |current| fs::write(current, "x").unwrap()), |name| name == bad_link()),
    ("a directory", |pki| replace(pki, |current| fs::create_dir(current).unwrap()), |name| name == bad_link()),
    ("a pipe", |pki| replace(pki, pipe), |name| name == bad_link()),
    ("a loop", |pki| replace(pki, |current| symlink(CURRENT, current).unwrap()), |name| name == bad_link()),
    ("elsewhere", |pki| replace(pki, |current| symlink("/proc/version", current).unwrap()), |name| name == bad_link()),
    ("nowhere", |pki| replace(pki, |current| symlink("gone.pem", current).unwrap()), |name| name == CURRENT),
    ("removed", |pki| fs::remove_file(pki.join(CURRENT)).unwrap(), |name| name == CURRENT),
];

fn bad_link() -> String {
    format!("{CURRENT}.bad")
}

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

/// From the field: <https://github.com/kubernetes/kubernetes/pull/131111>
#[test]
fn whatever_became_of_the_pair_in_use_there_is_one_again_and_the_remains_are_kept() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    for (what, damage, is_kept) in DAMAGES {
        assert_eq!(perennial(path, &run_arguments(&["--once"])).code, Some(0));
        damage(&pki);
        let output = perennial(path, &run_arguments(&["--once"]));
        assert_eq!(output.code, Some(0), "{what}: {output:?}");
        let names: Vec<String> =
            fs::read_dir(&pki).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| is_kept(name)), "{what}: {names:?}");
        let status = perennial(path, &["status", "--cert-dir", "worker/pki"]);
        assert_eq!(status.code, Some(0), "{what}: {status:?}");
        fs::remove_dir_all(&pki).unwrap();
        fs::remove_file(path.join("worker/kubeconfig")).unwrap();
    }
}

/// From the field: <https://github.com/kubernetes/kubernetes/pull/97868>
#[test]
fn the_pair_before_the_damaged_one_comes_into_use_and_nobody_is_asked() {
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

    let status = perennial(path, &["status", "--cert-dir", "worker/pki"]);
    assert!(status.code == Some(1) && status.stdout.contains("will put it right"), "{status:?}");
    assert!(status.stdout.contains("problem") && status.stdout.contains(CURRENT), "{status:?}");
    let before = signer.process.stdout().matches("pending").count();
    let output = perennial(path, &run_arguments(&["--once"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains(CURRENT), "what was wrong is said: {output:?}");
    assert_eq!(fs::read_link(pki.join(CURRENT)).unwrap(), good);
    assert_eq!(fs::read_to_string(pki.join(format!("{later}.bad"))).unwrap(), "cut sh");
    assert_eq!(signer.process.stdout().matches("pending").count(), before);
    let status = perennial(path, &["status", "--cert-dir", "worker/pki"]);
    assert!(status.code == Some(0) && status.stdout.contains(&format!("{later}.bad")), "{status:?}");
}

#[test]
fn a_directory_has_one_owner_and_who_only_looks_is_not_in_the_way() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let first = Process::start(path, &run_arguments(&[]));
    let current = path.join("worker/pki").join(CURRENT);
    until("first certificate", || current.exists().then_some(()));
    // Its owner may still be about to note that it has it.
    let pairs = || {
        let mut files = files(&path.join("worker/pki"));
        files.retain(|file, _| file.extension().is_some_and(|extension| extension == "pem"));
        files
    };
    let before = pairs();
    let second = perennial(path, &run_arguments(&["--once"]));
    assert_eq!(second.code, Some(2), "{second:?}");
    let owner = format!("is held by process {}", first.id());
    assert!(second.stderr.contains(&owner) && second.stderr.contains("end one"), "{second:?}");
    assert_eq!(pairs(), before);
    assert_eq!(perennial(path, &["status", "--cert-dir", "worker/pki"]).code, Some(0));

    // However it ended: the next one may.
    first.signal(rustix::process::Signal::KILL);
    let _ = first.end();
    assert_eq!(perennial(path, &run_arguments(&["--once"])).code, Some(0));
}

#[test]
fn a_key_others_could_read_is_made_private_and_that_is_said() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    assert_eq!(perennial(path, &run_arguments(&["--once"])).code, Some(0));
    let current = path.join("worker/pki").join(CURRENT);
    fs::set_permissions(&current, fs::Permissions::from_mode(0o644)).unwrap();
    let output = perennial(path, &run_arguments(&["--once"]));
    assert!(output.code == Some(0) && output.stderr.contains("others than its owner"), "{output:?}");
    assert_eq!(fs::metadata(&current).unwrap().permissions().mode() & 0o777, 0o600);
}
