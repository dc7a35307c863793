//! `FileStore`: public files of each layout on a real disk, and on a virtual one that loses power.

mod hostile;
mod others;
mod owners;
mod power_loss;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use perennial_pki::{Credential, KeyPair};
use perennial_rotation::{
    CaCopy, FileCredential, FileLayout, FileOptions, FileStore, KeyEncoding, LoadRequest, Restored, Store, Stored,
};
use perennial_tests::disk::{NOW, pair};

/// The common name of the certificates.
const NAME: &str = "etcd";

/// The names of the layouts.
const LAYOUTS: [&str; 3] = ["linked", "plain", "bundle"];

/// The public files in a directory, with the layout of this name.
fn files_in(directory: &Path, layout: &str) -> FileLayout {
    let at = |name: &str| directory.join(name);
    match layout {
        "linked" => {
            FileLayout::Linked { directory: directory.into(), certificate: "tls.crt".into(), key: "tls.key".into() }
        }
        "plain" => FileLayout::Plain { certificate: at("tls.crt"), key: at("tls.key") },
        _ => FileLayout::Bundle { file: at("tls.pem") },
    }
}

/// A temporary directory, and the paths of the public files in it.
struct Place {
    root: tempfile::TempDir,
    layout: FileLayout,
}

impl Place {
    fn new(layout: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = files_in(&root.path().join("pki"), layout);
        Self { root, layout }
    }

    fn store(&self, options: FileOptions) -> FileStore {
        FileStore::new(self.layout.clone(), options).unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join("pki").join(name)
    }

    /// The paths of certificate and key.
    fn files(&self) -> [PathBuf; 2] {
        match &self.layout {
            FileLayout::Bundle { file } => [file.clone(), file.clone()],
            _ => [self.at("tls.crt"), self.at("tls.key")],
        }
    }

    /// The pair that other programs find.
    fn public(&self) -> Result<Arc<Credential>, String> {
        let [certificate, key] = self.files();
        FileCredential::open(certificate, key).map(|files| files.credential()).map_err(|error| error.to_string())
    }

    /// The CA file from which the store copies.
    fn issuers(&self) -> PathBuf {
        self.root.path().join("issuers.pem")
    }

    /// Options with a copy of [`Self::issuers`] beside the pair, in `ca.crt`.
    fn with_ca(&self) -> FileOptions {
        FileOptions { ca: Some(CaCopy { from: self.issuers(), to: self.at("ca.crt") }), ..FileOptions::default() }
    }

    /// Writes a pair to the public files, as another program would.
    fn put(&self, credential: &Credential) {
        fs::create_dir_all(self.at("")).unwrap();
        let key = credential.key().to_pem();
        match &self.layout {
            FileLayout::Bundle { file } => fs::write(file, credential.to_pem().as_bytes()).unwrap(),
            _ => {
                fs::write(self.at("tls.crt"), credential.chain().pem()).unwrap();
                fs::write(self.at("tls.key"), key.as_bytes()).unwrap();
            }
        }
    }
}

fn request(common_name: &str) -> LoadRequest<'_> {
    LoadRequest { common_name: Some(common_name), has_signer: true, now: NOW, keys: None, request_digest: None }
}

fn load(store: &FileStore) -> Stored {
    store.load(&request(NAME)).unwrap()
}

fn write(store: &FileStore, credential: &Arc<Credential>) {
    store.write(credential, true, NOW).unwrap();
}

fn numbered(number: u8) -> Arc<Credential> {
    Arc::new(pair(NAME, number))
}

/// The PEM text of two CA files.
fn two_cas() -> [String; 2] {
    [pair("ca-1", 0), pair("ca-2", 1)].map(|ca| ca.chain().pem())
}

/// The names in a directory, sorted.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is(found: Option<&Credential>, wanted: &Credential) -> bool {
    found.is_some_and(|found| found.chain() == wanted.chain())
}

#[test]
fn written_pair_is_public_and_loaded_by_next_start() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let store = place.store(FileOptions::default());
        assert!(load(&store).credential.is_none());
        for number in 0..3 {
            let credential = numbered(number);
            write(&store, &credential);
            assert!(is(place.public().ok().as_deref(), &credential), "{layout} {number}");
            assert!(is(load(&store).credential.as_deref(), &credential), "{layout} {number}");
        }
        store.remember(b"record").unwrap();
        drop(store);
        let again = place.store(FileOptions::default());
        assert!(is(load(&again).credential.as_deref(), &place.public().unwrap()));
        assert_eq!(again.recall().unwrap().unwrap().as_slice(), b"record");
        let public = match layout {
            "linked" => vec!["..data", "tls.crt", "tls.key"],
            "plain" => vec!["tls.crt", "tls.key"],
            _ => vec!["tls.pem"],
        };
        let mut found = names(&place.at(""));
        found.retain(|name| !name.starts_with("..perennial-") && name != ".perennial");
        assert_eq!(found, public, "{layout}");
        let private = fs::metadata(place.at(".perennial")).unwrap();
        assert_eq!(private.mode() & 0o7777, 0o700, "{layout}");
        for entry in fs::read_dir(place.at(".perennial")).unwrap() {
            let found = entry.unwrap().metadata().unwrap();
            assert!(found.is_symlink() || found.mode() & 0o7777 == 0o600, "{layout}");
        }
    }
}

#[test]
fn linked_files_switch_together_and_old_directory_is_removed() {
    let place = Place::new("linked");
    let store = place.store(FileOptions::default());
    let mut before = None;
    for number in 0..3 {
        write(&store, &numbered(number));
        let target = fs::read_link(place.at("..data")).unwrap();
        assert!(target.to_str().unwrap().starts_with("..perennial-"), "{target:?}");
        assert_ne!(Some(&target), before.as_ref());
        assert_eq!(fs::read_link(place.at("tls.key")).unwrap(), Path::new("..data/tls.key"));
        assert_eq!(names(&place.at("..data")), ["tls.crt", "tls.key"]);
        let folders = names(&place.at("")).into_iter().filter(|name| name.starts_with("..perennial-")).count();
        assert_eq!(folders, 1);
        before = Some(target);
    }
}

#[test]
fn reader_never_finds_mixed_pair_while_store_writes() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let store = place.store(FileOptions::default());
        let pairs: Vec<_> = (0..4).map(numbered).collect();
        write(&store, &pairs[0]);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let [mut good, mut bad] = [0; 2];
                while !is_over.load(Ordering::Relaxed) {
                    match place.public() {
                        Ok(found) => {
                            assert!(pairs.iter().any(|pair| is(Some(&found), pair)));
                            good += 1;
                        }
                        Err(error) => {
                            assert!(layout == "plain" || error.contains("switched again"), "{layout}: {error}");
                            bad += 1;
                        }
                    }
                }
                (good, bad)
            });
            for round in 0..60 {
                write(&store, &pairs[round % 4]);
            }
            is_over.store(true, Ordering::Relaxed);
            let (good, bad) = reader.join().unwrap();
            println!("{layout}: {good} whole pairs, {bad} reads between two renames");
            assert!(good > 0);
        });
    }
}

#[test]
fn restore_beside_writes_disturbs_no_write() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let store = place.store(FileOptions::default());
        let pairs: Vec<_> = (0..60).map(numbered).collect();
        write(&store, &pairs[0]);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let restorer = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(
                        store.restore(NOW).unwrap(),
                        Restored::Unchanged,
                        "{layout}: wrote files of a write in progress"
                    );
                }
            });
            let written: Vec<_> = pairs.iter().map(|pair| store.write(pair, true, NOW)).collect();
            is_over.store(true, Ordering::Relaxed);
            restorer.join().unwrap();
            assert!(written.iter().all(Result::is_ok), "{layout}: {written:?}");
        });
        assert!(is(place.public().ok().as_deref(), pairs.last().unwrap()), "{layout}");
    }
}

#[test]
fn waiting_pair_becomes_public_only_when_served() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let store = place.store(FileOptions::default());
        let [now, next] = [numbered(0), numbered(1)];
        write(&store, &now);
        store.write(&next, false, NOW).unwrap();
        assert!(is(place.public().ok().as_deref(), &now), "{layout}");
        write(&store, &next);
        assert!(is(place.public().ok().as_deref(), &next), "{layout}");
    }
}

#[test]
fn key_is_written_in_chosen_encoding() {
    for (layout, encoding, label) in [
        ("plain", KeyEncoding::Sec1, "BEGIN EC PRIVATE KEY"),
        ("linked", KeyEncoding::Pkcs8, "BEGIN PRIVATE KEY"),
        ("bundle", KeyEncoding::Sec1, "BEGIN EC PRIVATE KEY"),
    ] {
        let place = Place::new(layout);
        let store = place.store(FileOptions { key_encoding: encoding, ..FileOptions::default() });
        let credential = numbered(0);
        write(&store, &credential);
        let text = fs::read_to_string(&place.files()[1]).unwrap();
        assert!(text.contains(label), "{text}");
        assert_eq!(KeyPair::from_pem(&text).unwrap().public_key_der(), credential.key().public_key_der());
    }
    let place = Place::new("plain");
    let store = place.store(FileOptions { key_encoding: KeyEncoding::Pkcs1, ..FileOptions::default() });
    let error = store.write(&numbered(0), true, NOW).unwrap_err();
    assert!(error.to_string().contains("cannot be written in the chosen encoding; use PKCS#8"), "{error}");
    assert!(place.public().is_err(), "nothing was written");
}

#[test]
fn ca_file_is_copied_and_kept_while_its_source_is_unreadable() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let (from, store) = (place.issuers(), place.store(place.with_ca()));
        write(&store, &numbered(0));
        assert!(!place.at("ca.crt").exists(), "{layout}: the source does not exist yet");
        let [one, other] = two_cas();
        fs::write(&from, &one).unwrap();
        assert_eq!(store.restore(NOW).unwrap(), Restored::Written, "{layout}");
        assert_eq!(fs::read_to_string(place.at("ca.crt")).unwrap(), one, "{layout}");
        assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged, "{layout}: nothing has changed");
        fs::write(&from, "no certificate").unwrap();
        write(&store, &numbered(1));
        assert_eq!(fs::read_to_string(place.at("ca.crt")).unwrap(), one, "{layout}");
        fs::write(&from, &other).unwrap();
        write(&store, &numbered(2));
        assert_eq!(fs::read_to_string(place.at("ca.crt")).unwrap(), other, "{layout}");
    }
}

#[test]
fn leftovers_of_crash_are_removed_and_files_completed_at_start() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let credential = numbered(0);
        write(&place.store(FileOptions::default()), &credential);
        for name in ["tls.crt", "tls.key", "tls.pem"] {
            fs::write(place.at(&format!(".{name}.perennial-new")), "half").unwrap();
        }
        fs::create_dir(place.at("..perennial-2020-01-01-00-00-00-000")).unwrap();
        fs::write(place.at("..perennial-2020-01-01-00-00-00-000/tls.key"), "old").unwrap();
        std::os::unix::fs::symlink("..perennial-2020-01-01-00-00-00-000", place.at("...data.perennial-new")).unwrap();
        // A crash between two renames.
        fs::remove_file(&place.files()[0]).unwrap();
        assert!(is(load(&place.store(FileOptions::default())).credential.as_deref(), &credential), "{layout}");
        assert!(is(place.public().ok().as_deref(), &credential), "{layout}");
        let left: Vec<_> = names(&place.at("")).into_iter().filter(|name| name.contains("perennial-")).collect();
        let expected = match layout {
            "linked" => 2,
            // The files of other layouts are not this store's to remove.
            "plain" => 3,
            _ => 4,
        };
        assert_eq!(left.len(), expected, "{layout}: {left:?}");
    }
}

#[test]
fn second_process_is_refused_by_lock() {
    let place = Place::new("plain");
    let store = place.store(FileOptions::default());
    store.claim().unwrap();
    let other = place.store(FileOptions::default());
    assert!(other.is_free().is_err_and(|error| error.to_string().contains("holds this lock")));
    assert!(other.write(&numbered(0), true, NOW).is_err());
    store.release();
    other.claim().unwrap();
}
