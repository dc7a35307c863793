//! Files that another user could have written. perennial ignores and reports such files, and leaves them in place.
//!
//! Only root can change the owner of a file. Without root, these tests make files writable by others instead.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use perennial_pki::Credential;
use perennial_rotation::{Directory, DirectoryError, Distrust};
use perennial_tests::disk::{NODE, NOW, PREFIX, pair};

const CURRENT: &str = "kubelet-client-current.pem";
const DATED: &str = "kubelet-client-2025-02-01-00-00-00-000.pem";
const BEFORE: &str = "kubelet-client-2025-01-01-00-00-00-000.pem";
const RECORD: &str = "kubelet-client-pending.json";
const NOBODY: u32 = 65_534;

struct Pki(tempfile::TempDir);

impl Pki {
    fn with_mode(mode: u32) -> Self {
        let pki = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(pki.0.path(), Permissions::from_mode(mode)).unwrap();
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, contents: &[u8]) {
        fs::write(self.path(name), contents).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(0o600)).unwrap();
    }

    fn put_in_use(&self, credential: &Credential) {
        self.put(DATED, credential.to_pem().as_bytes());
        symlink(DATED, self.path(CURRENT)).unwrap();
    }

    fn directory(&self) -> Directory {
        Directory::open(self.0.path(), PREFIX).unwrap()
    }
}

/// Gives the file to another user or, without root, makes it writable by others.
fn plant(path: &Path) {
    if rustix::process::geteuid().is_root() {
        lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    } else if !fs::symlink_metadata(path).unwrap().is_symlink() {
        fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    }
}

fn untrusted(problems: &[DirectoryError]) -> Vec<&Path> {
    let untrusted = problems.iter().filter_map(|problem| match problem {
        DirectoryError::Untrusted { path, .. } => Some(path.as_path()),
        _ => None,
    });
    untrusted.collect()
}

#[test]
fn own_pair_in_directory_writable_by_others_is_used_with_warning() {
    for (mode, is_shared) in [(0o777, true), (0o1777, true), (0o770, true), (0o755, false)] {
        let pki = Pki::with_mode(mode);
        let (old, new) = (pair(NODE, 1), pair(NODE, 2));
        pki.put_in_use(&old);
        let directory = pki.directory();
        directory.remember(b"{}").unwrap();
        for (write, expected) in [(None, &old), (Some(&new), &new)] {
            if let Some(credential) = write {
                directory.write(credential, NOW).unwrap();
            }
            let loaded = directory.recover(None, NOW).unwrap();
            assert_eq!(loaded.credential.unwrap().0.chain(), expected.chain());
            let warned = matches!(&loaded.problems[..], [DirectoryError::Shared { path }] if path == pki.0.path());
            assert!(warned == is_shared && loaded.problems.len() == usize::from(is_shared), "{:?}", loaded.problems);
        }
        assert_eq!(directory.recall().unwrap().unwrap().as_slice(), b"{}");
    }
}

#[test]
fn file_that_others_could_have_written_is_ignored() {
    let modes = [0o660, 0o606, 0o622].map(Some);
    for mode in modes.into_iter().chain([None]) {
        let pki = Pki::with_mode(0o1777);
        pki.put_in_use(&pair(NODE, 1));
        pki.put(RECORD, b"{}");
        for name in [DATED, RECORD] {
            match mode {
                Some(mode) => fs::set_permissions(pki.path(name), Permissions::from_mode(mode)).unwrap(),
                None => plant(&pki.path(name)),
            }
        }
        let directory = pki.directory();
        let loaded = directory.recover(None, NOW).unwrap();
        assert!(loaded.credential.is_none(), "{loaded:?}");
        assert_eq!(untrusted(&loaded.problems), [pki.path(CURRENT), pki.path(RECORD)]);
        assert!(matches!(directory.recall(), Err(DirectoryError::Untrusted { .. })));
        let kept = |name: &str| pki.path(name).exists();
        assert!(kept(DATED) && kept(RECORD) && fs::read_link(pki.path(CURRENT)).unwrap() == Path::new(DATED));

        // Our own certificate replaces the untrusted one.
        let new = pair(NODE, 2);
        directory.write(&new, NOW).unwrap();
        directory.remember(b"ours").unwrap();
        let loaded = directory.recover(None, NOW).unwrap();
        assert!(loaded.in_use && untrusted(&loaded.problems).is_empty(), "{loaded:?}");
        assert_eq!(loaded.credential.unwrap().0.chain(), new.chain());
        assert_eq!(directory.recall().unwrap().unwrap().as_slice(), b"ours");
    }
}

/// Another user made the link `PREFIX-current.pem`. Its target is an older pair of the node, or a pair outside of the
/// directory; the start must use neither.
#[test]
fn link_that_another_user_made_is_ignored() {
    if !rustix::process::geteuid().is_root() {
        // Without root this test cannot make a link of another user.
        return file_that_others_could_have_written_is_ignored();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let theirs = elsewhere.path().join("pair.pem");
    fs::write(&theirs, pair(NODE, 3).to_pem().as_bytes()).unwrap();
    fs::set_permissions(&theirs, Permissions::from_mode(0o600)).unwrap();
    for target in [Path::new(BEFORE), &theirs] {
        let pki = Pki::with_mode(0o1777);
        let (older, newer) = (pair(NODE, 1), pair(NODE, 2));
        pki.put(BEFORE, older.to_pem().as_bytes());
        pki.put(DATED, newer.to_pem().as_bytes());
        symlink(target, pki.path(CURRENT)).unwrap();
        plant(&pki.path(CURRENT));
        let loaded = pki.directory().recover(None, NOW).unwrap();
        assert_eq!(untrusted(&loaded.problems), [pki.path(CURRENT)], "{loaded:?}");
        let owner = loaded.problems.iter().find_map(|problem| match problem {
            DirectoryError::Untrusted { why: Distrust::Owner(owner), .. } => Some(*owner),
            _ => None,
        });
        assert_eq!(owner, Some(NOBODY));
        // Our own pair is found without the other user's link, and does not count as in use.
        assert_eq!(loaded.credential.unwrap().0.chain(), newer.chain());
        assert!(!loaded.in_use && fs::read_link(pki.path(CURRENT)).unwrap() == target);
    }
}

#[test]
fn pair_is_found_through_chain_of_links() {
    let pki = Pki::with_mode(0o700);
    let good = pair(NODE, 1);
    // Links as in the volume of a Secret that a kubelet mounts.
    fs::create_dir(pki.path("..2026_01_01")).unwrap();
    symlink("..2026_01_01", pki.path("..data")).unwrap();
    pki.put("..2026_01_01/tls.pem", good.to_pem().as_bytes());
    symlink("..data/tls.pem", pki.path(DATED)).unwrap();
    for target in [Path::new(DATED), &pki.path(DATED), Path::new("..data/../..data/tls.pem")] {
        let _ = fs::remove_file(pki.path(CURRENT));
        symlink(target, pki.path(CURRENT)).unwrap();
        let loaded = pki.directory().load(None, NOW).unwrap();
        assert_eq!(loaded.credential.expect("a pair").0.chain(), good.chain(), "{target:?}");
        assert!(loaded.in_use && loaded.problems.is_empty(), "{:?}", loaded.problems);
    }
}

#[test]
fn untrusted_lock_file_blocks_no_start() {
    type Put = fn(&Pki);
    const LOCK: &str = ".kubelet-client.lock";
    let file: Put = |pki| pki.put(LOCK, b"theirs");
    let folder: Put = |pki| fs::create_dir(pki.path(LOCK)).unwrap();
    let link: Put = |pki| symlink("elsewhere", pki.path(LOCK)).unwrap();
    // Without root only the regular file can be made untrusted.
    let last = if rustix::process::geteuid().is_root() { 3 } else { 1 };
    for put in &[file, folder, link][..last] {
        let pki = Pki::with_mode(0o1777);
        put(&pki);
        plant(&pki.path(LOCK));
        let theirs = fs::File::open(pki.path(LOCK)).ok().inspect(|theirs| theirs.lock().unwrap());
        let directory = pki.directory();
        let new = pair(NODE, 1);
        directory.write(&new, NOW).unwrap();
        assert_eq!(directory.recover(None, NOW).unwrap().credential.unwrap().0.chain(), new.chain());
        assert!(fs::symlink_metadata(pki.path(LOCK)).is_ok() && !pki.path("elsewhere").exists());
        assert!(
            theirs.is_none_or(|theirs| theirs.metadata().unwrap().is_dir() || theirs.metadata().unwrap().len() == 6)
        );
        // Once the untrusted entry is removed, the lock works again.
        let remove = if pki.path(LOCK).is_dir() { fs::remove_dir } else { fs::remove_file };
        remove(pki.path(LOCK)).unwrap();
        directory.write(&pair(NODE, 2), NOW).unwrap();
        assert!(matches!(Directory::open(pki.0.path(), PREFIX), Err(DirectoryError::Owned { .. })));
    }
}

#[test]
fn lock_file_that_is_a_hard_link_is_locked_but_not_written() {
    let pki = Pki::with_mode(0o777);
    pki.put("precious", b"precious");
    fs::hard_link(pki.path("precious"), pki.path(".kubelet-client.lock")).unwrap();
    let _held = pki.directory();
    assert_eq!(fs::read(pki.path("precious")).unwrap(), b"precious");
    assert!(matches!(Directory::open(pki.0.path(), PREFIX), Err(DirectoryError::Owned { .. })));
}
