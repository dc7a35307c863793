//! `RootFiles`, CAs in files that another program replaces: the CAs of the last good read are trusted.

use std::fs;
use std::time::Duration;

use perennial_rotation::{RootFiles, RootsError, RootsSource as _};
use perennial_tests::loopback::new_authority;

fn ca() -> String {
    new_authority().certificate_pem().to_owned()
}

#[test]
fn last_good_cas_are_used_while_ca_file_is_damaged_or_missing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    let (first, second) = (ca(), ca());
    fs::write(&path, &first).unwrap();
    let source = RootFiles::open([&path]).unwrap().every(Duration::ZERO);
    let trusted = || source.roots().unwrap().pem().to_owned();
    assert!(source.origin().contains("ca.crt, read at 20"), "{}", source.origin());
    assert_eq!(trusted(), first);
    fs::write(&path, &second).unwrap();
    assert_eq!(trusted(), second);
    assert!(source.origin().contains("ca.crt, read at ") && !source.origin().contains("cannot"), "{}", source.origin());
    for damage in ["", "hello", &second[..second.len() / 2]] {
        fs::write(&path, damage).unwrap();
        assert_eq!(trusted(), second, "{damage:?}");
        assert!(source.origin().contains("it cannot be read now"), "{}", source.origin());
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(trusted(), second);
    fs::write(&path, &first).unwrap();
    assert_eq!(trusted(), first);
    assert!(!source.origin().contains("cannot"), "{}", source.origin());
}

#[test]
fn cas_of_all_files_are_trusted_once_each() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["one.crt", "two.crt"].map(|name| directory.path().join(name));
    let [first, second, third] = [ca(), ca(), ca()];
    fs::write(&paths[0], &first).unwrap();
    fs::write(&paths[1], first.clone() + &second).unwrap();
    let source = RootFiles::open(&paths).unwrap().every(Duration::ZERO);
    let trusted = || source.roots().unwrap().pem().to_owned();
    assert_eq!(trusted(), first.clone() + &second);
    // A file that is damaged keeps its own CAs, and the other file is followed.
    fs::write(&paths[0], "hello").unwrap();
    fs::write(&paths[1], &third).unwrap();
    assert_eq!(trusted(), first + &third);
    let origin = source.origin();
    assert!(origin.contains("one.crt, read at ") && origin.contains("two.crt, read at "), "{origin}");
    assert_eq!(origin.matches("it cannot be read now").count(), 1, "{origin}");
}

#[test]
fn files_without_usable_ca_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    assert!(matches!(RootFiles::open([&path; 0]), Err(RootsError::NoPath)));
    let refused = || RootFiles::open([&path]).unwrap_err().to_string();
    assert!(refused().contains("ca.crt: cannot be read: "), "{}", refused());
    fs::write(&path, "hello").unwrap();
    assert!(refused().contains("ca.crt: no certificate found"), "{}", refused());
    fs::File::create(&path).unwrap().set_len((8 << 20) + 1).unwrap();
    assert!(refused().contains("ca.crt: longer than 8 MiB"), "{}", refused());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused().contains("it is not a regular file"), "{}", refused());
}
