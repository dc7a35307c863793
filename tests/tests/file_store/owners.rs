//! Owner, group and modes of public files. Only root can give a file to another user.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::Command;

use perennial_rotation::{FileOptions, Restored};
use perennial_tests::command::copy_program;
use perennial_tests::disk::NOW;

use super::{LAYOUTS, Place, is, load, numbered, write};

#[test]
fn public_files_have_owner_group_and_modes_of_options() {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("NOT TESTED: owner and group, which only root can set");
    }
    let me = fs::metadata(tempfile::tempdir().unwrap().path()).map(|found| (found.uid(), found.gid())).unwrap();
    for layout in LAYOUTS {
        for (owner, group, key_mode, certificate_mode) in [
            (None, None, 0o600, 0o644),
            (None, None, 0o440, 0o444),
            (Some(1234), None, 0o400, 0o600),
            (None, Some(4321), 0o640, 0o644),
            (Some(1234), Some(4321), 0o640, 0o640),
        ] {
            if !is_root && (owner.is_some() || group.is_some()) {
                continue;
            }
            let place = Place::new(layout);
            let options = FileOptions { owner, group, key_mode, certificate_mode, ..FileOptions::default() };
            let store = place.store(options.clone());
            for number in 0..2 {
                let credential = numbered(number);
                write(&store, &credential);
                let [certificate, key] = place.files();
                for (path, mode) in [(&key, key_mode), (&certificate, certificate_mode)] {
                    let found = fs::metadata(path).unwrap();
                    let mode = if layout == "bundle" { key_mode } else { mode };
                    let owner = (owner.unwrap_or(me.0), group.unwrap_or(me.1));
                    assert_eq!((found.mode() & 0o7777, (found.uid(), found.gid())), (mode, owner), "{layout} {path:?}");
                }
                assert!(is(load(&store).credential.as_deref(), &credential), "{layout}: files of the owner are read");
            }
        }
    }
}

#[test]
fn private_files_stay_private_whatever_public_modes_are() {
    let place = Place::new("plain");
    let options = FileOptions { key_mode: 0o640, certificate_mode: 0o644, ..FileOptions::default() };
    write(&place.store(options), &numbered(0));
    for entry in fs::read_dir(place.at(".perennial")).unwrap() {
        let found = entry.unwrap().metadata().unwrap();
        assert!(found.is_symlink() || found.mode() & 0o077 == 0);
        assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
    }
}

#[test]
fn directory_of_service_user_is_used_and_keeps_its_owner() {
    let place = Place::new("linked");
    fs::create_dir(place.at("")).unwrap();
    if chown(place.at(""), Some(1234), Some(1234)).is_err() {
        println!("NOT TESTED: only root can give a directory to another user");
        return;
    }
    let options = FileOptions { owner: Some(1234), group: Some(1234), ..FileOptions::default() };
    let store = place.store(options);
    write(&store, &numbered(0));
    assert_eq!(fs::metadata(place.at("")).unwrap().uid(), 1234);
    assert_eq!(fs::metadata(place.at("..data/tls.key")).unwrap().uid(), 1234);
    // The service cannot change these directories.
    for private in ["..data", ".perennial"] {
        assert_eq!(fs::metadata(place.at(private)).unwrap().uid(), 0, "{private}");
    }
}

/// Needs root and `setpriv`, to run this test again as another user.
#[test]
fn process_with_documented_capabilities_writes_files_of_another_owner() {
    const ROLE: &str = "PERENNIAL_TEST_CAPABILITIES";
    if std::env::var_os(ROLE).is_some() {
        for layout in LAYOUTS {
            let place = Place::new(layout);
            let store = place.store(FileOptions { owner: Some(1234), ..FileOptions::default() });
            for number in 0..2 {
                let credential = numbered(number);
                write(&store, &credential);
                assert_eq!(fs::metadata(&place.files()[1]).unwrap().uid(), 1234, "{layout}");
                assert!(is(load(&store).credential.as_deref(), &credential), "{layout}");
                assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged, "{layout}: the files can be compared");
            }
        }
        return;
    }
    run_as_another_user(
        ROLE,
        "owners::process_with_documented_capabilities_writes_files_of_another_owner",
        "-all,+chown,+fowner,+dac_read_search",
    );
}

/// Needs root and `setpriv`, to run this test again as another user.
#[test]
fn store_below_directory_that_can_only_be_searched_is_used() {
    const ROLE: &str = "PERENNIAL_TEST_SEARCH";
    if std::env::var_os(ROLE).is_some() {
        for layout in LAYOUTS {
            let place = Place::new(layout);
            fs::create_dir(place.at("")).unwrap();
            fs::set_permissions(place.root.path(), Permissions::from_mode(0o311)).unwrap();
            let (store, credential) = (place.store(FileOptions::default()), numbered(0));
            store.claim().unwrap();
            write(&store, &credential);
            assert!(is(load(&store).credential.as_deref(), &credential), "{layout}");
            assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged, "{layout}");
            fs::set_permissions(place.root.path(), Permissions::from_mode(0o700)).unwrap();
        }
        return;
    }
    run_as_another_user(ROLE, "owners::store_below_directory_that_can_only_be_searched_is_used", "-all");
}

/// Runs a test of this program again as user 4321, with these capabilities, and with the variable `role` set.
fn run_as_another_user(role: &str, test: &str, capabilities: &str) {
    let home = tempfile::tempdir().unwrap();
    if !rustix::process::geteuid().is_root() || chown(home.path(), Some(4321), Some(4321)).is_err() {
        println!("NOT TESTED: only root can start a process as another user");
        return;
    }
    // The directory of the build may be closed to that user.
    let program = home.path().join("program");
    copy_program(&std::env::current_exe().unwrap(), &program);
    let ran = Command::new("setpriv")
        .args([
            "--reuid=4321",
            "--regid=4321",
            "--clear-groups",
            "--inh-caps",
            capabilities,
            "--ambient-caps",
            capabilities,
        ])
        .arg(&program)
        .args(["--exact", test, "--nocapture"])
        .env(role, "1")
        .env("TMPDIR", home.path())
        .output();
    let ran = match ran {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("NOT TESTED: setpriv, of util-linux, is not installed");
            return;
        }
        ran => ran.unwrap(),
    };
    let output = [ran.stdout, ran.stderr].map(|output| String::from_utf8_lossy(&output).into_owned()).concat();
    assert!(ran.status.success() && output.contains("1 passed"), "{output}");
}
