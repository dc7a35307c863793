//! `ProjectedVolume` and `VolumeStore`: volumes of pods on a real disk, and on a virtual one that loses power.

mod hostile;
mod power_loss;
mod store_power_loss;
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use perennial_rotation::volume::FileAccess;
use perennial_rotation::{ProjectedFile, ProjectedVolume};
use perennial_tests::disk::NOW;

/// The mode of files in these tests.
const MODE: u32 = 0o640;

fn access(mode: u32) -> FileAccess {
    FileAccess { owner: None, group: None, mode }
}

fn file(path: &str, contents: &str) -> ProjectedFile {
    ProjectedFile { path: path.into(), contents: contents.as_bytes().to_vec().into(), access: access(MODE) }
}

fn volume(path: &Path) -> ProjectedVolume {
    ProjectedVolume::new(path, None)
}

/// The files that a program finds below `path`, through links, with their contents.
fn found(path: &Path) -> BTreeMap<String, String> {
    fn below(path: &Path, prefix: &str, all: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("..") {
                continue;
            }
            let path = format!("{prefix}{name}");
            match fs::metadata(entry.path()).unwrap().is_dir() {
                true => below(&entry.path(), &format!("{path}/"), all),
                false => drop(all.insert(path, fs::read_to_string(entry.path()).unwrap())),
            }
        }
    }
    let mut all = BTreeMap::new();
    below(path, "", &mut all);
    all
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn files<const N: usize>(files: [(&str, &str); N]) -> BTreeMap<String, String> {
    files.into_iter().map(|(path, contents)| (path.into(), contents.into())).collect()
}

#[test]
fn set_writes_layout_of_kubelet() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("volume");
    let volume = volume(&path);
    assert!(volume.set(&[file("bundle.pem", "one"), file("tls/a/key.pem", "two")], NOW).unwrap());
    assert_eq!(found(&path), files([("bundle.pem", "one"), ("tls/a/key.pem", "two")]));
    let data = fs::read_link(path.join("..data")).unwrap().into_os_string().into_string().unwrap();
    assert!(data.starts_with("..2026_01_01_00_00_00."), "{data}");
    assert_eq!(fs::read_link(path.join("bundle.pem")).unwrap(), Path::new("..data/bundle.pem"));
    assert_eq!(fs::read_link(path.join("tls")).unwrap(), Path::new("..data/tls"));
    assert_eq!(names(&path), [data.as_str(), "..data", "bundle.pem", "tls"]);
    assert_eq!(fs::metadata(path.join("bundle.pem")).unwrap().mode() & 0o7777, MODE);
    assert_eq!(fs::metadata(path.join("tls/a")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn equal_files_change_nothing_and_another_mode_does() {
    let root = tempfile::tempdir().unwrap();
    let volume = volume(root.path());
    let all = [file("a", "one"), file("b/c", "two")];
    assert!(volume.set(&all, NOW).unwrap());
    let before = fs::read_link(root.path().join("..data")).unwrap();
    assert!(!volume.set(&all, NOW).unwrap());
    assert!(!volume.set(&all[..1], NOW).unwrap(), "a part of the files");
    assert!(!volume.retain(|_| true, NOW).unwrap());
    assert_eq!(fs::read_link(root.path().join("..data")).unwrap(), before);
    let stricter = ProjectedFile { access: access(0o600), ..file("a", "one") };
    assert!(volume.set(&[stricter], NOW).unwrap());
    assert_eq!(fs::metadata(root.path().join("a")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(root.path().join("b/c")).unwrap().mode() & 0o7777, MODE);
    assert_ne!(fs::read_link(root.path().join("..data")).unwrap(), before);
}

#[test]
fn sources_replace_their_own_files_only() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    let volume = volume(path);
    volume.set(&[file("one.pem", "one")], NOW).unwrap();
    volume.set(&[file("two/key.pem", "key"), file("two/chain.pem", "chain")], NOW).unwrap();
    volume.set(&[file("ca.pem", "ca")], NOW).unwrap();
    let inode = fs::metadata(path.join("two/key.pem")).unwrap().ino();
    volume.set(&[file("one.pem", "another")], NOW).unwrap();
    let all = [("ca.pem", "ca"), ("one.pem", "another"), ("two/chain.pem", "chain"), ("two/key.pem", "key")];
    assert_eq!(found(path), files(all));
    assert_eq!(fs::metadata(path.join("two/key.pem")).unwrap().ino(), inode, "carried over by a link, not copied");
    assert_eq!(names(path).len(), 5, "no directory of the time before is left: {:?}", names(path));
    assert!(volume.retain(|path| !path.starts_with("two/"), NOW).unwrap());
    assert_eq!(found(path), files([("ca.pem", "ca"), ("one.pem", "another")]));
    assert_eq!(names(path).len(), 4, "the link of the removed directory is gone: {:?}", names(path));
}

#[test]
fn read_finds_file_behind_data_link_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("volume");
    let read = |name: &str| volume(&path).read(name).unwrap().map(|contents| contents.to_vec());
    assert_eq!(read("a"), None);
    volume(&path).set(&[file("a", "one"), file("in/b", "two")], NOW).unwrap();
    assert_eq!((read("a"), read("in/b")), (Some(b"one".to_vec()), Some(b"two".to_vec())));
    fs::write(path.join("c"), "foreign").unwrap();
    assert_eq!((read("c"), read("in"), read("a/b")), (None, None, None));
    volume(&path).read("../c").unwrap_err();
}

#[test]
fn volume_that_lost_links_or_directory_is_completed() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("volume");
    let volume = volume(&path);
    let all = [file("a", "one"), file("b", "two")];
    volume.set(&all, NOW).unwrap();
    fs::remove_file(path.join("a")).unwrap();
    assert!(volume.set(&all, NOW).unwrap());
    let data = path.join(fs::read_link(path.join("..data")).unwrap());
    fs::remove_dir_all(&data).unwrap();
    assert!(volume.set(&all[..1], NOW).unwrap(), "the link ..data leads nowhere");
    assert_eq!(found(&path), files([("a", "one")]), "the other file is gone, and so is its link");
    fs::remove_dir_all(&path).unwrap();
    assert!(!volume.retain(|_| false, NOW).unwrap());
    assert!(!path.exists(), "retain creates no volume");
    assert!(volume.set(&all, NOW).unwrap());
    assert_eq!(found(&path), files([("a", "one"), ("b", "two")]));
}

#[test]
fn leftovers_of_crash_are_removed_though_no_file_changes() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    let volume = volume(path);
    let all = [file("a", "one")];
    volume.set(&all, NOW).unwrap();
    let before = names(path);
    fs::create_dir_all(path.join("..2020_01_01_00_00_00.123456789/tls")).unwrap();
    fs::write(path.join("..2020_01_01_00_00_00.123456789/tls/key.pem"), "an old key").unwrap();
    std::os::unix::fs::symlink("..2020_01_01_00_00_00.123456789", path.join("..data_tmp")).unwrap();
    std::os::unix::fs::symlink("..data/gone", path.join("gone")).unwrap();
    fs::write(path.join("notes"), "of another program").unwrap();
    assert!(!volume.set(&all, NOW).unwrap());
    let mut expected = before;
    expected.push("notes".into());
    assert_eq!(names(path), expected);
}

#[test]
fn bad_paths_are_refused_before_a_change() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("volume");
    let long = "x".repeat(256);
    let deep = ["d"; 33].join("/");
    let table = [
        ("", "is empty"),
        ("/etc/shadow", "must be relative"),
        ("../shadow", "must not contain `..`"),
        ("a/../../shadow", "must not contain `..`"),
        ("..data", "must not begin with `..`"),
        ("a//b", "must consist of names"),
        ("a/", "must consist of names"),
        ("./a", "must consist of names"),
        ("a\0b", "control character"),
        ("a\nERROR forged", "control character"),
        (&long, "too long"),
        (&deep, "too long"),
    ];
    for (bad, why) in table {
        let error = volume(&path).set(&[file("good", "one"), file(bad, "two")], NOW).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains('\n'), "{bad:?}: {error}");
        assert!(!path.exists(), "{bad:?}");
    }
    for good in ["a", ".hidden", "a..b", "...", "a/b", &["d"; 32].join("/")] {
        let checked = ProjectedVolume::check_path(good);
        assert_eq!(checked.is_ok(), good != "...", "{good}: {checked:?}");
    }
}

#[test]
fn files_that_contradict_each_other_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let volume = volume(root.path());
    volume.set(&[file("tls/key.pem", "one")], NOW).unwrap();
    let table = [
        (vec![file("tls", "two")], "is a file and, for another file of the volume, a directory"),
        (vec![file("tls/key.pem/x", "two")], "is a file and, for another file of the volume, a directory"),
        (vec![file("a", "two"), file("a", "three")], "two files of the volume have this path"),
    ];
    for (bad, why) in table {
        let error = volume.set(&bad, NOW).unwrap_err().to_string();
        assert!(error.contains(why), "{bad:?}: {error}");
        assert_eq!(found(root.path()), files([("tls/key.pem", "one")]));
    }
}

#[test]
fn foreign_file_in_place_of_link_is_left_and_reported() {
    for name in ["a", "..data"] {
        for is_folder in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let at = root.path().join(name);
            if is_folder { fs::create_dir(&at) } else { fs::write(&at, "foreign") }.unwrap();
            let error = volume(root.path()).set(&[file("a", "one")], NOW).unwrap_err().to_string();
            assert!(error.contains("of another program is in the place of a link of the volume; remove it"), "{error}");
            assert_eq!(names(root.path()), [name]);
        }
    }
}

#[test]
fn reader_of_data_directory_finds_files_of_one_moment() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    let volume = volume(path);
    let written = |round: usize| [("a", "b/c", round), ("d", "e/f", round)];
    for (first, second, round) in written(0) {
        volume.set(&[file(first, &round.to_string()), file(second, &round.to_string())], NOW).unwrap();
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut whole = 0;
            while !is_over.load(Ordering::Relaxed) {
                let data = path.join(fs::read_link(path.join("..data")).unwrap());
                let read = |name: &str| fs::read_to_string(data.join(name));
                for (first, second, _) in written(0) {
                    // Removed meanwhile, as after a switch.
                    let (Ok(first), Ok(second)) = (read(first), read(second)) else { continue };
                    assert_eq!(first, second);
                    whole += 1;
                }
            }
            whole
        });
        // Two sources, each with a thread of its own.
        let writers = [0, 1].map(|source| {
            let volume = &volume;
            scope.spawn(move || {
                for round in 1..=40 {
                    let (first, second, round) = written(round)[source];
                    volume.set(&[file(first, &round.to_string()), file(second, &round.to_string())], NOW).unwrap();
                }
            })
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(found(path), files([("a", "40"), ("b/c", "40"), ("d", "40"), ("e/f", "40")]));
}

#[test]
fn file_is_given_group_and_owner_of_pod() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("volume");
    let volume = ProjectedVolume::new(&path, Some(1000));
    let access = FileAccess { owner: Some(1000), group: Some(2000), mode: 0o440 };
    let owned = ProjectedFile { access, ..file("key.pem", "one") };
    if let Err(error) = volume.set(std::slice::from_ref(&owned), NOW) {
        println!("NOT TESTED: only root can give files to another user: {error}");
        return;
    }
    assert!(!volume.set(&[owned], NOW).unwrap());
    volume.set(&[file("other.pem", "two")], NOW).unwrap();
    let metadata = fs::metadata(path.join("key.pem")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777), (1000, 2000, 0o440));
}

#[test]
fn id_of_no_user_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("volume");
    let own = access(0o440);
    for access in [FileAccess { owner: Some(u32::MAX), ..own }, FileAccess { group: Some(u32::MAX), ..own }] {
        let error = volume(&path).set(&[ProjectedFile { access, ..file("a", "one") }], NOW).unwrap_err().to_string();
        assert!(error.contains("the ID of no user and no group"), "{error}");
        assert_eq!(found(&path), files([]));
    }
}
