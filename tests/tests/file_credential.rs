//! `FileCredential`, a pair in externally managed files: complete pairs are used, incomplete ones are not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use perennial::Template;
use perennial_pki::{Credential, interim};
use perennial_rotation::{FileCredential, clock};

fn pair() -> Credential {
    interim(&Template::new("server").with_dns_names(["localhost"]), clock::now().unix).unwrap()
}

fn write(directory: &Path, certificate: &Credential, key: &Credential) {
    fs::write(directory.join("tls.crt"), certificate.chain().pem()).unwrap();
    fs::write(directory.join("tls.key"), key.key().to_pem().as_bytes()).unwrap();
}

fn open(directory: &Path) -> FileCredential {
    let files = FileCredential::open(directory.join("tls.crt"), directory.join("tls.key")).unwrap();
    files.every(Duration::ZERO)
}

fn serial(files: &FileCredential) -> String {
    files.credential().chain().serial().to_owned()
}

/// A problem of another program: a reader combines the chain of one pair with the key of another.
/// <https://github.com/spiffe/spiffe-helper/issues/422>
#[test]
fn file_credential_takes_complete_pairs_only() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let [first, second] = [pair(), pair()];
    write(directory, &first, &first);
    let files = open(directory);
    assert_eq!(serial(&files), first.chain().serial());

    // A program that writes two files writes one of them first.
    write(directory, &second, &first);
    assert_eq!(serial(&files), first.chain().serial());
    assert!(files.trouble().unwrap().contains("tls.crt"), "{:?}", files.trouble());
    write(directory, &second, &second);
    assert_eq!(serial(&files), second.chain().serial());
    assert_eq!(files.trouble(), None);
}

#[test]
fn on_change_reports_each_complete_new_pair_once() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let [first, second] = [pair(), pair()];
    write(directory, &first, &first);
    let (sender, receiver) = mpsc::channel();
    let files = open(directory).on_change(move |rotated| sender.send(rotated.clone()).unwrap());
    let reported = || (files.credential(), receiver.try_iter().collect::<Vec<_>>()).1;
    assert!(reported().is_empty());
    write(directory, &second, &first);
    assert!(reported().is_empty());
    write(directory, &second, &second);
    let rotations = reported();
    let [rotated] = rotations.as_slice() else { panic!("{} reports instead of one", rotations.len()) };
    assert_eq!(rotated.old.as_ref().unwrap().chain(), first.chain());
    assert_eq!(rotated.new.chain(), second.chain());
    assert!(reported().is_empty());
}

#[test]
fn last_good_pair_stays_in_use_if_files_are_damaged_or_missing() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let good = pair();
    write(directory, &good, &good);
    let files = open(directory);
    let whole = good.chain().pem().len();
    for cut in [0, 1, whole / 2, whole - 20] {
        fs::write(directory.join("tls.crt"), &good.chain().pem()[..cut]).unwrap();
        assert_eq!(serial(&files), good.chain().serial());
        assert!(files.trouble().is_some(), "cut at {cut}");
    }
    fs::write(directory.join("tls.crt"), vec![b'a'; 2 << 20]).unwrap();
    assert_eq!(serial(&files), good.chain().serial());
    assert!(files.trouble().unwrap().contains("longer than 1 MiB"));
    fs::remove_file(directory.join("tls.crt")).unwrap();
    assert_eq!(serial(&files), good.chain().serial());
    assert!(files.trouble().unwrap().contains("cannot be read"));
}

#[test]
fn new_pair_is_used_after_link_of_projected_volume_is_switched() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let pairs = [pair(), pair()];
    for (name, pair) in ["..one", "..two"].iter().zip(&pairs) {
        fs::create_dir(directory.join(name)).unwrap();
        write(&directory.join(name), pair, pair);
    }
    symlink("..one", directory.join("..data")).unwrap();
    symlink("..data/tls.crt", directory.join("tls.crt")).unwrap();
    symlink("..data/tls.key", directory.join("tls.key")).unwrap();
    let files = open(directory);
    assert_eq!(serial(&files), pairs[0].chain().serial());
    symlink("..two", directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    assert_eq!(serial(&files), pairs[1].chain().serial());
}

#[test]
fn open_error_names_unusable_file_and_reason() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let error = |directory: &Path| {
        FileCredential::open(directory.join("tls.crt"), directory.join("tls.key")).unwrap_err().to_string()
    };
    assert!(error(directory).contains("tls.crt: cannot be read"), "{}", error(directory));
    let [one, other] = [pair(), pair()];
    write(directory, &one, &other);
    assert!(error(directory).contains("tls.crt"), "{}", error(directory));
    fs::write(directory.join("tls.key"), "no key").unwrap();
    assert!(error(directory).contains("tls.key"), "{}", error(directory));
}
