//! A target directory that another user can write to: no file outside of it changes, and no secret is written to a
//! place of that user's choice. These tests need root, which alone can give links to another user.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;

use perennial_rotation::{FileOptions, Store as _};
use perennial_tests::disk::NOW;

use super::{LAYOUTS, Place, names, numbered, write};

const HOSTILE: u32 = 1234;

/// A place whose directory belongs to a hostile user, beside a directory of root with a file that must not change.
/// `None` without root.
fn place(layout: &str) -> Option<Place> {
    let place = Place::new(layout);
    fs::create_dir(place.at("")).unwrap();
    let victim = place.root.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(victim.join("shadow"), "secret").unwrap();
    fs::set_permissions(victim.join("shadow"), fs::Permissions::from_mode(0o600)).unwrap();
    if chown(place.at(""), Some(HOSTILE), Some(HOSTILE)).is_err() {
        println!("NOT TESTED: only root can give files to another user");
        return None;
    }
    Some(place)
}

impl Place {
    /// Makes a link of the hostile user.
    fn plant(&self, name: &str, target: impl AsRef<Path>) {
        symlink(target, self.at(name)).unwrap();
        lchown(self.at(name), Some(HOSTILE), Some(HOSTILE)).unwrap();
    }

    /// Fails if anything outside of the hostile user's directory has changed.
    fn check_victim(&self, what: &str) {
        let victim = self.root.path().join("victim");
        assert_eq!(names(&victim), ["shadow"], "{what}");
        let found = fs::metadata(victim.join("shadow")).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600), "{what}");
        assert_eq!(fs::read_to_string(victim.join("shadow")).unwrap(), "secret", "{what}");
    }
}

#[test]
fn planted_link_never_leads_a_write_outside() {
    for layout in LAYOUTS {
        for (name, target) in [
            (".perennial", "../victim"),
            ("tls.key", "../victim/shadow"),
            ("tls.crt", "../victim/shadow"),
            ("tls.pem", "../victim/shadow"),
            ("..data", "../victim"),
            (".tls.key.perennial-new", "../victim/shadow"),
            (".tls.crt.perennial-new", "../victim/new"),
            (".tls.pem.perennial-new", "../victim/new"),
            ("...data.perennial-new", "../victim"),
            ("..perennial-2020-01-01-00-00-00-000", "../victim"),
        ] {
            let Some(place) = place(layout) else { return };
            place.plant(name, target);
            let options = FileOptions { owner: Some(HOSTILE), ..FileOptions::default() };
            for replaces_foreign in [false, true] {
                let store = place.store(FileOptions { replaces_foreign, ..options.clone() });
                let _ = store.load(&super::request(super::NAME));
                let written = store.write(&numbered(0), true, NOW);
                let what = format!("{layout} {name} {replaces_foreign}: {written:?}");
                place.check_victim(&what);
                // A write that succeeds has written to the directory itself.
                if written.is_ok() {
                    assert!(place.public().is_ok(), "{what}");
                }
                let _ = store.restore(NOW);
                place.check_victim(&what);
            }
        }
    }
}

#[test]
fn planted_temporary_link_does_not_stop_writes() {
    for layout in LAYOUTS {
        let Some(place) = place(layout) else { return };
        for name in ["tls.key", "tls.crt", "tls.pem"] {
            place.plant(&format!(".{name}.perennial-new"), "../victim/shadow");
        }
        write(&place.store(FileOptions::default()), &numbered(0));
        assert!(place.public().is_ok(), "{layout}");
        place.check_victim(layout);
    }
}

#[test]
fn private_directory_of_another_user_is_refused() {
    for layout in LAYOUTS {
        let Some(place) = place(layout) else { return };
        fs::create_dir(place.at(".perennial")).unwrap();
        chown(place.at(".perennial"), Some(HOSTILE), Some(HOSTILE)).unwrap();
        let store = place.store(FileOptions::default());
        let error = store.write(&numbered(0), true, NOW).unwrap_err().to_string();
        assert!(error.contains(".perennial") && error.contains("its owner is user 1234"), "{layout}: {error}");
        assert!(store.remember(b"record").is_err(), "{layout}");
        assert_eq!(names(&place.at(".perennial")), [""; 0], "{layout}");
    }
}

#[test]
fn link_of_another_user_on_the_path_is_refused() {
    for layout in LAYOUTS {
        let Some(place) = place(layout) else { return };
        fs::remove_dir(place.at("")).unwrap();
        let path = place.root.path().join("pki");
        symlink("victim", &path).unwrap();
        lchown(&path, Some(HOSTILE), Some(HOSTILE)).unwrap();
        let store = place.store(FileOptions::default());
        let error = store.write(&numbered(0), true, NOW).unwrap_err().to_string();
        assert!(error.contains("its owner is user 1234"), "{layout}: {error}");
        place.check_victim(layout);
    }
}

#[test]
fn planted_pair_is_not_adopted() {
    for layout in LAYOUTS {
        let Some(place) = place(layout) else { return };
        place.put(&numbered(0));
        for path in place.files() {
            chown(path, Some(4321), Some(4321)).unwrap();
        }
        let store = place.store(FileOptions::default());
        assert!(super::load(&store).credential.is_none(), "{layout}");
        let error = store.write(&numbered(1), true, NOW).unwrap_err().to_string();
        assert!(error.contains("not replaced: its owner is user 4321"), "{layout}: {error}");
    }
}
