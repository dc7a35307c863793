//! `VolumeStore`: a certificate with its private copy, and its files in a volume.

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_pki::Credential;
use perennial_rotation::{
    Directory, FileCredential, LoadRequest, ProjectedVolume, Projection, Restored, Store, Stored, VolumeStore,
};
use perennial_tests::disk::{NOW, pair};

use super::{access, file, found, names};

/// A pod's volume and the state directories of its certificates.
struct Pod(tempfile::TempDir);

impl Pod {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn volume(&self) -> PathBuf {
        self.0.path().join("volume")
    }

    fn state(&self, name: &str) -> PathBuf {
        self.0.path().join("state").join(name)
    }

    /// The store of one certificate, with a volume of its own.
    fn store(&self, name: &str, projection: Projection) -> VolumeStore {
        self.store_in(Arc::new(ProjectedVolume::new(self.volume(), None)), name, projection)
    }

    fn store_in(&self, volume: Arc<ProjectedVolume>, name: &str, projection: Projection) -> VolumeStore {
        let private = Directory::private(self.state(name), "pod").unwrap();
        VolumeStore::new(private, volume, projection, access(0o600)).unwrap()
    }

    fn bundle(&self) -> VolumeStore {
        self.store("0", bundle("credential.pem"))
    }
}

fn bundle(path: &str) -> Projection {
    Projection::Bundle { path: path.into() }
}

fn two_files() -> Projection {
    Projection::Files { key: "tls/key.pem".into(), certificate_chain: "tls/chain.pem".into() }
}

fn numbered(number: u8) -> Arc<Credential> {
    Arc::new(pair("pod", number))
}

fn load(store: &VolumeStore) -> Stored {
    store
        .load(&LoadRequest { common_name: None, has_signer: true, now: NOW, keys: None, request_digest: None })
        .unwrap()
}

/// The pair that a container finds.
fn served(certificate: &Path, key: &Path) -> Arc<Credential> {
    FileCredential::open(certificate, key).unwrap().credential()
}

fn is(found: &Option<Arc<Credential>>, wanted: &Credential) -> bool {
    found.as_ref().is_some_and(|found| found.chain() == wanted.chain())
}

#[test]
fn bundle_has_key_before_chain() {
    let pod = Pod::new();
    let store = pod.bundle();
    let credential = numbered(0);
    store.write(&credential, true, NOW).unwrap();
    let text = fs::read_to_string(pod.volume().join("credential.pem")).unwrap();
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n"), "PKCS#8 first");
    assert_eq!(text, format!("{}{}", *credential.key().to_pem(), credential.chain().pem()));
    assert!(store.unpublished().is_none());
}

#[test]
fn two_files_are_a_pair_and_switch_together() {
    let pod = Pod::new();
    let store = pod.store("0", two_files());
    for number in 0..3 {
        let credential = numbered(number);
        store.write(&credential, true, NOW).unwrap();
        let [chain, key] = ["chain", "key"].map(|name| pod.volume().join(format!("tls/{name}.pem")));
        assert_eq!(served(&chain, &key).chain(), credential.chain());
        assert_eq!(fs::read_to_string(chain).unwrap(), credential.chain().pem());
    }
}

#[test]
fn pair_and_record_survive_restart_and_volume_is_completed() {
    let pod = Pod::new();
    let credential = numbered(0);
    let store = pod.bundle();
    store.write(&credential, true, NOW).unwrap();
    store.remember(b"record").unwrap();
    drop(store);
    // After a reboot, the volume is a new tmpfs.
    fs::remove_dir_all(pod.volume()).unwrap();
    let again = pod.bundle();
    assert!(is(&load(&again).credential, &credential));
    assert_eq!(again.recall().unwrap().unwrap().as_slice(), b"record");
    assert!(found(&pod.volume())["credential.pem"].contains(&credential.chain().pem()));
}

#[test]
fn load_without_signer_leaves_volume_as_it_is() {
    let pod = Pod::new();
    let store = pod.bundle();
    store.write(&numbered(0), true, NOW).unwrap();
    fs::remove_dir_all(pod.volume()).unwrap();
    let request = LoadRequest { common_name: None, has_signer: false, now: NOW, keys: None, request_digest: None };
    assert!(store.load(&request).unwrap().credential.is_some());
    assert!(!pod.volume().exists());
}

#[test]
fn waiting_certificate_is_not_in_volume_until_served() {
    let pod = Pod::new();
    let store = pod.bundle();
    let [now, next] = [numbered(0), numbered(1)];
    store.write(&now, true, NOW).unwrap();
    store.write(&next, false, NOW).unwrap();
    assert!(found(&pod.volume())["credential.pem"].contains(&now.chain().pem()));
    store.write(&next, true, NOW).unwrap();
    assert!(found(&pod.volume())["credential.pem"].contains(&next.chain().pem()));
}

#[test]
fn failed_write_to_volume_is_an_error_and_private_copy_is_durable() {
    let pod = Pod::new();
    fs::write(pod.volume(), "a file in the place of the volume").unwrap();
    let store = pod.bundle();
    let credential = numbered(0);
    let error = store.write(&credential, true, NOW).unwrap_err().to_string();
    assert!(error.contains("cannot create"), "{error}");
    assert_eq!(store.unpublished().unwrap().error, error);
    assert!(is(&load(&store).credential, &credential), "a volume that cannot be written prevents no start");
    assert!(store.unpublished().is_some());
    fs::remove_file(pod.volume()).unwrap();
    assert_eq!(store.restore(NOW).unwrap(), Restored::Written);
    assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged);
    assert!(store.unpublished().is_none());
    assert!(found(&pod.volume())["credential.pem"].contains(&credential.chain().pem()));
    store.write(&credential, true, NOW).unwrap();
}

#[test]
fn certificates_and_other_files_share_a_volume() {
    let pod = Pod::new();
    let volume = Arc::new(ProjectedVolume::new(pod.volume(), None));
    let [one, two] =
        [("0", bundle("one.pem")), ("1", two_files())].map(|(name, to)| pod.store_in(volume.clone(), name, to));
    let [first, second, third] = [0, 1, 2].map(numbered);
    one.write(&first, true, NOW).unwrap();
    volume.set(&[file("ca.pem", "ca")], NOW).unwrap();
    two.write(&second, true, NOW).unwrap();
    one.write(&third, true, NOW).unwrap();
    let found = found(&pod.volume());
    assert_eq!(found.keys().collect::<Vec<_>>(), ["ca.pem", "one.pem", "tls/chain.pem", "tls/key.pem"]);
    assert!(found["one.pem"].contains(&third.chain().pem()));
    assert_eq!(found["tls/chain.pem"], second.chain().pem());
    assert_eq!(found["ca.pem"], "ca");
}

#[test]
fn closed_store_changes_nothing_and_its_directory_can_be_used_again() {
    let pod = Pod::new();
    let store = pod.bundle();
    store.write(&numbered(0), true, NOW).unwrap();
    store.close();
    fs::remove_dir_all(pod.state("0")).unwrap();
    fs::remove_dir_all(pod.volume()).unwrap();
    store.write(&numbered(1), true, NOW).unwrap();
    store.remember(b"record").unwrap();
    assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged);
    assert!(load(&store).credential.is_none());
    assert!(!pod.state("0").exists() && !pod.volume().exists());
    let again = pod.bundle();
    again.claim().unwrap();
    again.write(&numbered(2), true, NOW).unwrap();
    assert_eq!(names(&pod.volume()).len(), 3);
}

#[test]
fn private_copy_is_not_behind_link_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("state"));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    Directory::private(link.join("pod"), "pod").unwrap().claim().unwrap();
    lchown(&link, Some(65_534), Some(65_534)).unwrap();
    Directory::private(link.join("pod"), "pod").unwrap().claim().unwrap_err();
    Directory::private(link.join("new"), "pod").unwrap().claim().unwrap_err();
    assert!(!real.join("new").exists());
    // A directory of another user, too.
    lchown(real.join("pod"), Some(65_534), Some(65_534)).unwrap();
    Directory::private(real.join("pod"), "pod").unwrap().claim().unwrap_err();
}

#[test]
fn bad_projection_is_refused() {
    let pod = Pod::new();
    for path in ["../credential.pem", "/credential.pem", "..data", ""] {
        let private = Directory::private(pod.state("0"), "pod").unwrap();
        let volume = Arc::new(ProjectedVolume::new(pod.volume(), None));
        assert!(VolumeStore::new(private, volume, bundle(path), access(0o600)).is_err(), "{path}");
    }
}

#[test]
fn old_pairs_with_other_names_are_removed_from_private_copy() {
    let pod = Pod::new();
    let store = pod.bundle();
    for number in 0..6 {
        // A signer may choose another name each time.
        store.write(&Arc::new(pair(&format!("pod-{number}"), number)), true, NOW).unwrap();
    }
    let dated = names(&pod.state("0")).into_iter().filter(|name| name.starts_with("pod-2026-")).count();
    assert_eq!(dated, 2, "{:?}", names(&pod.state("0")));
    assert_eq!(load(&store).credential.unwrap().chain().certificate().common_name(), "pod-5");
}
