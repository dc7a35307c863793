//! Disks that refuse operations. Existing pairs survive, no leftovers remain, and writes succeed once the disk works
//! again. `tests/src/bin/small_disk.rs` tests disks that are full or mounted read-only.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use perennial_pki::Credential;
use perennial_rotation::{Directory, DirectoryError};
use perennial_tests::command::copy_program;
use perennial_tests::disk::{Disk, Fate, NODE, NOW, PREFIX, Start, Virtual, pair};

const CURRENT: &str = "kubelet-client-current.pem";
const OLD: &str = "kubelet-client-2025-01-01-00-00-00-000.pem";
/// An environment variable that makes this program the child process of a test. The value is the path of the directory
/// that [`prepared`] made.
const REFUSED_IN: &str = "PERENNIAL_TEST_REFUSED_IN";
const NOBODY: u32 = 65_534;

#[test]
fn disk_that_fails_from_any_operation_on_loses_no_pair() {
    let (old, new) = (pair(NODE, 1), pair(NODE, 2));
    let link = Disk::default().with(OLD, Start::File(old.to_pem().as_bytes())).with(CURRENT, Start::Link(OLD));
    let file = Disk::default().with(CURRENT, Start::File(old.to_pem().as_bytes()));
    for (what, disk) in [("a link", link), ("a file", file)] {
        for kind in [ErrorKind::Interrupted, ErrorKind::StorageFull, ErrorKind::Other] {
            for nth in 0.. {
                let volume = Virtual::with_fates(
                    disk.clone(),
                    Box::new(move |call, _| if call >= nth { Fate::Failed(kind) } else { Fate::Done }),
                );
                let directory = volume.directory();
                let written = directory.write(&new, NOW);
                let reached = volume.calls() > nth;
                volume.set_fates(Box::new(|_, _| Fate::Done));
                let found = directory.recover(None, NOW).unwrap().credential.unwrap().0;
                let which = [&old, &new].iter().position(|pair| pair.chain() == found.chain());
                assert!(which == Some(1) || which == Some(0) && written.is_err(), "{what}, {kind}, {nth}: {which:?}");
                directory.write(&new, NOW).unwrap();
                assert_eq!(directory.load(None, NOW).unwrap().credential.unwrap().0.chain(), new.chain());
                if !reached {
                    break;
                }
            }
        }
    }
}

/// Checks that each write of `new` fails with an error of the kind `expected` and adds no file, and that the existing
/// pair is loaded afterwards.
fn is_refused(pki: &Path, expected: ErrorKind, new: &Credential) {
    let directory = Directory::open_existing(pki, PREFIX).unwrap();
    let names = || -> BTreeSet<OsString> { fs::read_dir(pki).unwrap().map(|it| it.unwrap().file_name()).collect() };
    let (before, found) = (names(), directory.recover(None, NOW).unwrap().credential.unwrap().0);
    for _ in 0..3 {
        let error = directory.write(new, NOW).unwrap_err();
        let DirectoryError::Io { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), expected, "{error}");
        assert!(error.to_string().contains(pki.to_str().unwrap()), "{error}");
    }
    assert_eq!(names(), before);
    assert_eq!(directory.load(None, NOW).unwrap().credential.unwrap().0.chain(), found.chain());
}

/// Makes the tests that start a process run one at a time. Between fork and exec, the process has all open files of this
/// one, so that it would still hold a lock that another test has just released.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn child() -> Option<PathBuf> {
    std::env::var_os(REFUSED_IN).map(PathBuf::from)
}

/// Makes a temporary directory that any user may enter. The directory contains a credential directory `pki` with one
/// pair, a copy of this program, and the pair `new` in a file. The copy runs as the child process, and tries to write
/// `new` into `pki`.
fn prepared(new: &Credential) -> tempfile::TempDir {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).unwrap();
    copy_program(&std::env::current_exe().unwrap(), &parent.path().join("test"));
    Directory::open(parent.path().join("pki"), PREFIX).unwrap().write(&pair(NODE, 1), NOW).unwrap();
    fs::write(parent.path().join("new.pem"), new.to_pem().as_bytes()).unwrap();
    parent
}

fn new(parent: &Path) -> Credential {
    Credential::from_pem(&fs::read(parent.join("new.pem")).unwrap()).unwrap()
}

fn succeeds(mut command: Command, parent: &Path) {
    let output = command.env(REFUSED_IN, parent).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

#[test]
fn write_over_file_size_limit_leaves_no_partial_file() {
    if let Some(parent) = child() {
        // The text of the lock file cannot be written either, which does no harm.
        let pki = parent.join("pki");
        drop(Directory::open(&pki, PREFIX).unwrap());
        return is_refused(&pki, ErrorKind::FileTooLarge, &new(&parent));
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let parent = prepared(&pair(NODE, 2));
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"]).arg(parent.path().join("test"));
    command.args(["--exact", "write_over_file_size_limit_leaves_no_partial_file"]);
    succeeds(command, parent.path());
}

#[test]
fn pair_in_unwritable_directory_is_still_loaded() {
    if let Some(parent) = child() {
        let pki = parent.join("pki");
        let error = Directory::open(&pki, PREFIX).unwrap_err();
        assert!(error.to_string().contains("write to"), "{error}");
        return is_refused(&pki, ErrorKind::PermissionDenied, &new(&parent));
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let parent = prepared(&pair(NODE, 2));
    let pki = parent.path().join("pki");
    let mut command = Command::new(parent.path().join("test"));
    command.args(["--exact", "pair_in_unwritable_directory_is_still_loaded"]);
    // Root may write to any directory: give this one to another user, and run as that user.
    if rustix::process::geteuid().is_root() {
        for path in [parent.path().join("new.pem"), pki.clone()] {
            chown(path, Some(NOBODY), None).unwrap();
        }
        for entry in fs::read_dir(&pki).unwrap() {
            std::os::unix::fs::lchown(entry.unwrap().path(), Some(NOBODY), None).unwrap();
        }
        command.uid(NOBODY);
    }
    fs::set_permissions(&pki, Permissions::from_mode(0o500)).unwrap();
    succeeds(command, parent.path());
    fs::set_permissions(&pki, Permissions::from_mode(0o700)).unwrap();
}
