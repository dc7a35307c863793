//! `CaFile`: a file of CA certificates on a real disk, beside files of other programs.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;

use perennial_rotation::{CaFile, FileOptions, FileStoreError, Roots};
use perennial_tests::disk::pair;

/// A temporary directory, and a path in a directory that does not exist yet.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("trust").join("mesh.pem")
    }

    fn file(&self) -> CaFile {
        CaFile::new(self.path(), &FileOptions::default()).unwrap()
    }

    fn replacing(&self) -> CaFile {
        let options = FileOptions { replaces_foreign: true, certificate_mode: 0o640, ..FileOptions::default() };
        CaFile::new(self.path(), &options).unwrap()
    }

    /// Puts a file of another program in the place of the file.
    fn put(&self, contents: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path().parent().unwrap()).unwrap();
        fs::write(self.path(), contents).unwrap();
    }

    fn read(&self) -> Roots {
        Roots::from_pem(&fs::read(self.path()).unwrap()).unwrap()
    }

    /// The names in the directory of the file.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().parent().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn roots<const N: usize>(names: [&str; N]) -> Roots {
    let all = names.map(|name| Roots::from_pem(pair(name, 0).chain().pem().as_bytes()).unwrap());
    Roots::joined(&all).unwrap()
}

#[test]
fn file_is_replaced_only_if_certificates_change() {
    let place = Place::new();
    let (first, second) = (roots(["a"]), roots(["a", "b"]));
    place.file().is_free().unwrap();
    assert!(!place.path().parent().unwrap().exists());
    assert!(place.file().write(&first).unwrap());
    place.file().is_free().unwrap();
    let written = fs::metadata(place.path()).unwrap();
    assert_eq!(written.mode() & 0o7777, 0o644);
    assert_eq!(place.read(), first);
    // In the same process and in a later one.
    let file = place.file();
    assert!(!file.write(&first).unwrap() && !file.write(&first).unwrap());
    assert_eq!(fs::metadata(place.path()).unwrap().ino(), written.ino());
    assert!(file.write(&second).unwrap());
    assert_eq!((place.read(), place.names()), (second, vec!["mesh.pem".to_owned()]));
    assert_ne!(fs::metadata(place.path()).unwrap().ino(), written.ino());
}

#[test]
fn read_returns_own_certificates_only() {
    let place = Place::new();
    let read = || place.file().read().unwrap();
    assert_eq!(read(), None);
    let own = roots(["a", "b"]);
    place.file().write(&own).unwrap();
    assert_eq!(read().as_ref(), Some(&own));
    for foreign in [own.pem(), "", "text"] {
        place.put(foreign);
        assert_eq!(read(), None, "{foreign:?}");
    }
    fs::remove_file(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    assert_eq!(read(), None);
}

#[test]
fn file_removed_or_altered_by_another_program_is_written_again() {
    let place = Place::new();
    let (file, roots) = (place.file(), roots(["a"]));
    file.write(&roots).unwrap();
    fs::remove_file(place.path()).unwrap();
    assert!(file.write(&roots).unwrap());
    let cut = fs::read(place.path()).unwrap();
    place.put(&cut[..cut.len() / 2]);
    assert!(file.write(&roots).unwrap());
    assert_eq!(place.read(), roots);
}

#[test]
fn file_of_another_program_stays_unless_operator_allows() {
    let (wanted, other) = (roots(["a", "b"]), roots(["c"]));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for foreign in [other.pem(), "# my CAs\n", "no PEM", garbage] {
        let place = Place::new();
        place.put(foreign);
        let error = place.file().write(&wanted).unwrap_err();
        assert!(error.is_foreign(), "{error}");
        assert!(place.file().is_free().unwrap_err().is_foreign());
        place.replacing().is_free().unwrap();
        assert!(error.to_string().contains("perennial did not write these CA certificates"), "{error}");
        assert_eq!((fs::read_to_string(place.path()).unwrap().as_str(), place.names().len()), (foreign, 1));
        assert!(place.replacing().write(&wanted).unwrap());
        assert_eq!(place.read(), wanted);
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o7777, 0o640);
    }
}

#[test]
fn file_of_another_program_with_wanted_certificates_is_good_enough() {
    let place = Place::new();
    let [a, b] = [roots(["a"]), roots(["b"])];
    let foreign = format!("# from kubeadm\n{}{}", b.pem(), a.pem());
    place.put(&foreign);
    assert!(!place.file().write(&Roots::joined([&a, &b]).unwrap()).unwrap());
    assert_eq!(fs::read_to_string(place.path()).unwrap(), foreign);
    assert!(place.file().write(&a).unwrap_err().is_foreign());
}

#[test]
fn empty_file_is_replaced() {
    let place = Place::new();
    place.put("\n");
    assert!(place.file().write(&roots(["a"])).unwrap());
}

#[test]
fn link_directory_and_writable_file_stay() {
    let wanted = roots(["a"]);
    let place = Place::new();
    place.put("");
    fs::remove_file(place.path()).unwrap();
    // A link of a volume that kubelet switches, and one that leads nowhere.
    for target in ["..data/mesh.pem", "elsewhere"] {
        symlink(target, place.path()).unwrap();
        let error = place.file().write(&wanted).unwrap_err();
        assert!(matches!(&error, FileStoreError::Link { target: found, .. } if found == target), "{error}");
        assert_eq!(fs::read_link(place.path()).unwrap().to_str(), Some(target));
        fs::remove_file(place.path()).unwrap();
    }
    fs::create_dir(place.path()).unwrap();
    for file in [place.file(), place.replacing()] {
        let error = file.write(&wanted).unwrap_err();
        assert!(place.path().is_dir(), "{error}");
    }
    fs::remove_dir(place.path()).unwrap();
    place.file().write(&wanted).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o666)).unwrap();
    let error = place.file().write(&wanted).unwrap_err();
    assert!(matches!(error, FileStoreError::Untrusted { .. }), "{error}");
    assert!(place.replacing().write(&wanted).unwrap());
}

#[test]
fn bundle_larger_than_a_pair_is_compared() {
    let place = Place::new();
    let one = roots(["a"]);
    // A comment makes the file long; no store of certificates does.
    place.put(format!("{}{}", " \n".repeat(1 << 20), one.pem()));
    assert!(!place.file().write(&one).unwrap());
    place.put(format!("{}{}", " \n".repeat(5 << 20), one.pem()));
    let error = place.file().write(&one).unwrap_err().to_string();
    assert!(error.contains("it is not a regular file of at most 8 MiB"), "{error}");
}

#[test]
fn temporary_file_of_interrupted_write_is_removed() {
    let place = Place::new();
    let wanted = roots(["a"]);
    place.file().write(&wanted).unwrap();
    let left = place.path().with_file_name(".mesh.pem.perennial-new");
    fs::write(&left, "half").unwrap();
    assert!(!place.file().write(&wanted).unwrap());
    assert!(!left.exists());
}

#[test]
fn path_without_usable_file_name_is_refused() {
    for path in ["/", "trust/..", "trust/.hidden"] {
        assert!(matches!(CaFile::new(path, &FileOptions::default()), Err(FileStoreError::Layout { .. })), "{path}");
    }
}
