//! Tests a credential directory on a small disk, which `.ci/small-disk` mounts. While the disk is full or read-only,
//! each write fails, and the pair in the directory stays usable. Once the disk can be written to again, a write
//! succeeds.
//!
//! The first argument selects the test: `small_disk full DIRECTORY` fills the disk itself. `small_disk read-only
//! DIRECTORY` expects a read-only disk with a lock file, and `small_disk unlocked DIRECTORY` expects a read-only disk
//! without a lock file. These two commands remount the disk for writing.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use perennial_pki::Credential;
use perennial_rotation::{Directory, DirectoryError};
use perennial_tests::disk::{NODE, NOW, PREFIX, pair};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (what, disk) = (arguments.next().unwrap(), PathBuf::from(arguments.next().unwrap()));
    match what.as_str() {
        "full" => full(&disk),
        "read-only" => read_only(&disk, true),
        "unlocked" => read_only(&disk, false),
        what => panic!("{what}?"),
    }
    println!("{what}: what was there is still there");
}

fn full(disk: &Path) {
    let directory = Directory::open(disk, PREFIX).unwrap();
    directory.write(&pair(NODE, 1), NOW).unwrap();
    // The disk has no room for contents, and later none for names.
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    drop(file);
    refuses(disk, ErrorKind::StorageFull, &pair(NODE, 2));
    fs::remove_file(&filler).unwrap();
    directory.write(&pair(NODE, 3), NOW).unwrap();
    let many = || (0..).map(|n| disk.join(format!("filler-{n}")));
    let filled = many().take_while(|path| fs::File::create(path).is_ok()).count();
    refuses(disk, ErrorKind::StorageFull, &pair(NODE, 4));
    drop(directory);
    let directory = starts_unlocked(disk, &many().nth(filled).unwrap());
    // Leave room for the file, but none for the link to it.
    fs::remove_file(many().next().unwrap()).unwrap();
    refuses(disk, ErrorKind::StorageFull, &pair(NODE, 5));
    many().skip(1).take(filled - 1).for_each(|path| fs::remove_file(path).unwrap());
    directory.write(&pair(NODE, 6), NOW).unwrap();
}

/// Checks a credential directory without a lock file on a disk that has no room for a lock file: the directory opens
/// without a lock. Once there is room, the directory creates the lock file and takes the lock. Returns the open
/// directory. `filler` is the name to which the lock file is renamed.
fn starts_unlocked(disk: &Path, filler: &Path) -> Directory {
    let lock = disk.join(format!(".{PREFIX}.lock"));
    fs::rename(&lock, filler).unwrap();
    let directory = Directory::open(disk, PREFIX).unwrap();
    assert!(!lock.exists() && directory.recover(None, NOW).unwrap().credential.is_some());
    refuses(disk, ErrorKind::StorageFull, &pair(NODE, 4));
    directory.write(&pair(NODE, 4), NOW).unwrap_err();
    fs::remove_file(filler).unwrap();
    directory.remember(b"{}").unwrap_err();
    let other = Directory::open(disk, PREFIX).unwrap_err();
    assert!(lock.exists() && matches!(other, DirectoryError::Owned { .. }), "{other}");
    directory
}

fn read_only(disk: &Path, locked: bool) {
    refuses(disk, ErrorKind::ReadOnlyFilesystem, &pair(NODE, 9));
    let directory = Directory::open(disk, PREFIX).unwrap();
    let found = directory.recover(None, NOW).unwrap().credential.unwrap().0;
    // Without a lock file on a read-only disk no process can lock, so two may open the directory; neither can write.
    let other = Directory::open(disk, PREFIX);
    assert_eq!(other.is_err(), locked, "{other:?}");
    assert_eq!(directory.load(None, NOW).unwrap().credential.unwrap().0.chain(), found.chain());
    directory.write(&pair(NODE, 7), NOW).unwrap_err();
    assert!(Command::new("mount").args(["-o", "remount,rw"]).arg(disk).status().unwrap().success());
    directory.write(&pair(NODE, 8), NOW).unwrap();
    for late in [other, Directory::open(disk, PREFIX)] {
        let error = late.and_then(|late| late.write(&pair(NODE, 9), NOW)).unwrap_err();
        assert!(matches!(error, DirectoryError::Owned { .. }), "{error}");
    }
    assert_eq!(
        directory.load(None, NOW).unwrap().credential.unwrap().0.chain().serial(),
        pair(NODE, 8).chain().serial()
    );
}

fn refuses(disk: &Path, why: ErrorKind, new: &Credential) {
    let directory = Directory::open_existing(disk, PREFIX).unwrap();
    let names = || fs::read_dir(disk).unwrap().count();
    let (before, found) = (names(), directory.recover(None, NOW).unwrap().credential.unwrap().0);
    for _ in 0..3 {
        match directory.write(new, NOW).unwrap_err() {
            DirectoryError::Io { source, .. } if source.kind() == why => {}
            error => panic!("not {why}: {error}"),
        }
    }
    assert_eq!(names(), before, "something was left behind");
    assert_eq!(directory.load(None, NOW).unwrap().credential.unwrap().0.chain(), found.chain());
}
