//! Credential directories with many entries, or with entries of other programs. perennial leaves the entries of others
//! unchanged, and the time of a write stays bounded.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use perennial_pki::Credential;
use perennial_rotation::Directory;
use perennial_tests::disk::{NODE, NOW, PREFIX, pair};

const CURRENT: &str = "kubelet-client-current.pem";

fn put(path: &Path, credential: &Credential) {
    fs::write(path, credential.to_pem().as_bytes()).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn names(path: &Path) -> BTreeSet<OsString> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn found(directory: &Directory) -> Credential {
    (*directory.load(None, NOW).unwrap().credential.unwrap().0).clone()
}

/// A problem of Kubernetes: old pairs are never removed. <https://github.com/kubernetes/kubernetes/issues/53027>
#[test]
fn writes_prune_five_thousand_old_files_in_bounded_time() {
    const OLD: usize = 5000;
    let parent = tempfile::tempdir().unwrap();
    let (old, new) = (pair(NODE, 1), pair(NODE, 2));
    for n in 0..OLD {
        put(&parent.path().join(format!("{PREFIX}-2025-01-01-00-{:02}-{:02}-000.pem", n / 60, n % 60)), &old);
    }
    let directory = Directory::open(parent.path(), PREFIX).unwrap();
    let mut longest = Duration::ZERO;
    let mut writes = 0;
    while names(parent.path()).len() > 4 {
        let begun = Instant::now();
        directory.write(&new, NOW).unwrap();
        longest = longest.max(begun.elapsed());
        writes += 1;
        assert!(writes <= OLD / 500, "{} are left", names(parent.path()).len());
    }
    assert!(longest < Duration::from_secs(20), "far more than it takes on a busy machine: {longest:?}");
    println!("{OLD} old files: {writes} writes, the longest {longest:?}");
    assert_eq!(found(&directory).chain(), new.chain());
}

#[test]
fn link_targets_outside_directory_stay_unchanged() {
    let parent = tempfile::tempdir().unwrap();
    let (pki, elsewhere) = (parent.path().join("pki"), parent.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let directory = Directory::open(&pki, PREFIX).unwrap();
    let secret = elsewhere.join("secret.pem");
    put(&secret, &pair(NODE, 1));
    // Readable by others: perennial must not change the mode of a file outside the directory.
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    for name in [CURRENT, "kubelet-client-updated.pem", "kubelet-client-2025-01-01-00-00-00-000.pem"] {
        symlink(&secret, pki.join(name)).unwrap();
    }
    symlink("../elsewhere/secret.pem", pki.join("kubelet-client-2025-02-01-00-00-00-000.pem")).unwrap();
    let before = fs::read(&secret).unwrap();
    assert_eq!(found(&directory).chain(), directory.recover(None, NOW).unwrap().credential.unwrap().0.chain());
    for n in 2..6 {
        directory.write(&pair(NODE, n), NOW).unwrap();
    }
    assert_eq!(fs::read(&secret).unwrap(), before);
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn prefixes_that_begin_alike_never_touch_each_others_files() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path();
    let prefixes = ["kubelet", "kubelet-client", "kubelet-client-2025-01-01-00-00-00"];
    let directories = prefixes.map(|prefix| Directory::open(path, prefix).unwrap());
    for round in 0..4 {
        for (at, directory) in directories.iter().enumerate() {
            let before = names(path);
            let mine = pair(NODE, round * 3 + u8::try_from(at).unwrap());
            assert_eq!(directory.recover(None, NOW).unwrap().problems.len(), 0);
            directory.write(&mine, NOW).unwrap();
            assert_eq!(found(directory).chain(), mine.chain());
            let gone: Vec<_> = before.difference(&names(path)).cloned().collect();
            let pairs = directories.iter().map(|other| other.load(None, NOW).unwrap().credential.is_some());
            assert!(round == 0 || pairs.into_iter().all(|there| there));
            // Each write removes one old pair at most, and only of its own prefix.
            assert!(gone.len() == usize::from(round >= 2), "{gone:?}");
        }
    }
}

#[test]
fn foreign_pairs_and_non_utf8_names_are_never_pruned() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path();
    let strange = OsString::from_vec(b"kubelet-client-\xff.pem".to_vec());
    put(&path.join(&strange), &pair(NODE, 1));
    let foreign = OsString::from("kubelet-client-2025-01-01-00-00-00-000.pem");
    put(&path.join(&foreign), &pair("system:node:worker-2", 1));
    let directory = Directory::open(path, PREFIX).unwrap();
    for n in 2..6 {
        directory.write(&pair(NODE, n), NOW).unwrap();
    }
    let names = names(path);
    assert!(names.contains(&strange) && names.contains(&foreign), "{names:?}");
}

#[test]
fn kubelets_files_are_adopted_and_later_pruned() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path();
    // Local time, and an absolute link.
    let kubelets = ["2025-01-01-00-00-00", "2025-02-01-02-00-00"].map(|time| format!("{PREFIX}-{time}.pem"));
    for (n, name) in (1..).zip(&kubelets) {
        put(&path.join(name), &pair(NODE, n));
    }
    symlink(path.join(&kubelets[1]), path.join(CURRENT)).unwrap();
    let directory = Directory::open(path, PREFIX).unwrap();
    assert_eq!(directory.recover(None, NOW).unwrap().credential.unwrap().1, path.join(CURRENT));
    let left = |name: &String| path.join(name).exists();
    directory.write(&pair(NODE, 3), NOW).unwrap();
    assert_eq!(kubelets.each_ref().map(left), [false, true], "its last one is kept as the one before");
    directory.write(&pair(NODE, 4), NOW).unwrap();
    assert_eq!(kubelets.each_ref().map(left), [false, false]);
}

/// A signer may backdate a certificate so far that the previous certificate has the later notBefore. The file of the
/// previous pair still stays, since a reader may have read the link already and may be about to open that file.
#[test]
fn previous_pair_is_retained_whatever_its_not_before() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path();
    let directory = Directory::open(path, PREFIX).unwrap();
    for n in [1, 9, 2] {
        directory.write(&pair(NODE, n), NOW).unwrap();
    }
    let before = fs::read_link(path.join(CURRENT)).unwrap();
    directory.write(&pair(NODE, 1), NOW).unwrap();
    assert!(path.join(before).exists());
}
