//! A volume that another user can write to: no file outside of it changes, and none is linked into it. These tests need
//! root, which alone can give links to another user.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;

use perennial_tests::disk::NOW;

use super::{file, found, names, volume};

const HOSTILE: u32 = 1234;

/// A volume with a key, in a directory of a hostile user, beside a directory of root that must not change. `None` without
/// root.
fn place() -> Option<tempfile::TempDir> {
    let root = tempfile::tempdir().unwrap();
    for name in ["volume", "victim"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    fs::write(root.path().join("victim/key.pem"), "secret").unwrap();
    fs::set_permissions(root.path().join("victim/key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    if chown(root.path().join("volume"), Some(HOSTILE), Some(HOSTILE)).is_err() {
        println!("NOT TESTED: only root can give files to another user");
        return None;
    }
    volume(&root.path().join("volume")).set(&[file("key.pem", "ours"), file("tls/key.pem", "ours")], NOW).unwrap();
    Some(root)
}

fn plant(link: &Path, target: &str) {
    if fs::symlink_metadata(link).is_ok_and(|found| found.is_dir()) {
        fs::remove_dir_all(link).unwrap();
    }
    let _ = fs::remove_file(link);
    symlink(target, link).unwrap();
    lchown(link, Some(HOSTILE), Some(HOSTILE)).unwrap();
}

fn check_victim(root: &Path, what: &str) {
    assert_eq!(names(&root.join("victim")), ["key.pem"], "{what}");
    let victim = fs::metadata(root.join("victim/key.pem")).unwrap();
    assert_eq!((victim.uid(), victim.mode() & 0o7777, victim.nlink()), (0, 0o600, 1), "{what}");
    assert_eq!(fs::read_to_string(root.join("victim/key.pem")).unwrap(), "secret", "{what}");
}

#[test]
fn planted_link_never_leads_outside_of_volume() {
    for (link, target) in [
        ("key.pem", "../victim/key.pem"),
        ("tls", "../victim"),
        ("..data", "../victim"),
        ("..data_tmp", "../victim"),
        (".key.pem.perennial-new", "../victim/key.pem"),
        ("..2020_01_01_00_00_00.1", "../victim"),
        ("DATA", "../victim"),
        ("DATA/tls", "../../victim"),
        ("DATA/key.pem", "../../victim/key.pem"),
    ] {
        let Some(root) = place() else { return };
        let path = root.path().join("volume");
        let data = fs::read_link(path.join("..data")).unwrap();
        plant(&path.join(link.replace("DATA", data.to_str().unwrap())), target);
        let volume = volume(&path);
        for new in [file("key.pem", "new"), file("other.pem", "new"), file("tls/key.pem", "new")] {
            let _ = volume.set(&[new], NOW);
            check_victim(root.path(), link);
        }
        let _ = volume.retain(|path| path == "key.pem", NOW);
        check_victim(root.path(), link);
    }
}

#[test]
fn planted_link_in_place_of_file_is_replaced() {
    let Some(root) = place() else { return };
    let path = root.path().join("volume");
    plant(&path.join("key.pem"), "../victim/key.pem");
    assert!(volume(&path).set(&[file("key.pem", "ours")], NOW).unwrap());
    assert_eq!(found(&path)["key.pem"], "ours");
    assert_eq!(fs::read_link(path.join("key.pem")).unwrap(), Path::new("..data/key.pem"));
}

#[test]
fn planted_data_link_is_reported_and_nothing_is_written() {
    for (target, why) in [
        ("../victim", "another program switches this link"),
        ("..2030_01_01_00_00_00.1", "another user could have made this directory"),
    ] {
        let Some(root) = place() else { return };
        let path = root.path().join("volume");
        let theirs = path.join("..2030_01_01_00_00_00.1");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("key.pem"), "theirs").unwrap();
        chown(&theirs, Some(HOSTILE), Some(HOSTILE)).unwrap();
        plant(&path.join("..data"), target);
        let before = names(&path);
        let error = volume(&path).set(&[file("key.pem", "new")], NOW).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(names(&path), before);
    }
}
