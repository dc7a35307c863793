//! Opens a directory without following a link that another user could have made.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, fchmod, fstat, fsync, mkdirat, openat, readlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::trust::is_trusted;

/// Number of symbolic links to follow: Linux's own limit (`MAXSYMLINKS`).
pub(super) const MAX_LINKS: u32 = 40;
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Flags for a directory on the way, which need not be readable: permission to search suffices.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEARCH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEARCH: OFlags = OPEN;

/// Opens the directory at `path`, one name after the other. Follows a symbolic link only if root or the user of this
/// process owns the link: another user who can write to a directory on the way must not choose the directory in which
/// this process writes. With `create`, creates missing directories with this mode, durably.
pub(crate) fn open(path: &Path, create: Option<Mode>) -> io::Result<OwnedFd> {
    let start = |path: &Path| {
        let at = if path.is_absolute() { "/" } else { "." };
        openat(CWD, at, SEARCH, Mode::empty())
    };
    let mut directory = start(path)?;
    let mut rest: Vec<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        directory = match step(&directory, &name, create)? {
            Step::Into(next) => next,
            Step::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = Path::new(&target);
                rest.extend(names(target));
                if target.is_absolute() { start(target)? } else { directory }
            }
        };
    }
    Ok(openat(directory, ".", OPEN, Mode::empty())?)
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(is_name).map(|part| part.as_os_str().to_owned()).rev().collect()
}

/// The entry behind one name of a path.
enum Step {
    Into(OwnedFd),
    /// A link that may be followed, and its target.
    Link(OsString),
}

fn step(directory: &OwnedFd, name: &OsStr, create: Option<Mode>) -> io::Result<Step> {
    match openat(directory, name, SEARCH, Mode::empty()) {
        Ok(next) => return Ok(Step::Into(next)),
        Err(Errno::NOENT) => {
            return Ok(Step::Into(make(directory, name, create.ok_or(Errno::NOENT)?)?));
        }
        // Linux returns NOTDIR for a link that is opened as a directory; POSIX allows LOOP.
        Err(Errno::NOTDIR | Errno::LOOP) => {}
        Err(error) => return Err(error.into()),
    }
    let target = trusted_target(directory, name)?;
    target.map(Step::Link).ok_or_else(|| ErrorKind::NotADirectory.into())
}

/// The target of a symbolic link that only root or the user of this process could have made; `None` if the entry at
/// `path` is no link.
///
/// # Errors
/// [`ErrorKind::PermissionDenied`] if another user owns the link; else the error of the operating system.
pub(super) fn trusted_target(directory: impl AsFd, path: impl Arg + Copy) -> io::Result<Option<OsString>> {
    // Opened, so that owner and target are those of one link: another user may replace a link between two looks at its
    // name. Other systems than Linux cannot open a link.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let (found, directory, path) = {
        let entry = openat(directory, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        (fstat(&entry)?, entry, "")
    };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let found = rustix::fs::statat(&directory, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    is_trusted(found.st_uid, None)?;
    let target = readlinkat(directory, path, Vec::new())?;
    Ok(Some(OsString::from_vec(target.into_bytes())))
}

/// Creates a directory with exactly this mode, durably, and opens it. A directory that exists keeps its mode.
pub(super) fn make(parent: impl AsFd, name: impl Arg + Copy, mode: Mode) -> io::Result<OwnedFd> {
    // A directory that is open for a search only cannot be synced.
    let parent = openat(parent, ".", OPEN, Mode::empty())?;
    let is_new = match mkdirat(&parent, name, mode) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let made = openat(&parent, name, OPEN, Mode::empty())?;
    if is_new {
        // Against a umask that would lock readers out.
        fchmod(&made, mode)?;
        // Without the sync, a loss of power could remove the directory together with synced files in it.
        fsync(&parent)?;
    }
    Ok(made)
}

/// Opens a directory inside of another one, without following a link. Fails if another user could have made it.
pub(super) fn inner(directory: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let fd = openat(directory, name, OPEN, Mode::empty())?;
    let found = fstat(&fd)?;
    is_trusted(found.st_uid, Some(found.st_mode))?;
    Ok(fd)
}

/// Opens the directory that contains the entry at `path`, one name after the other. Returns the name of the entry, too.
pub(super) fn parent<'a>(directory: &OwnedFd, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
    let mut names = path.split('/');
    let entry = names.next_back().unwrap_or_default();
    let fd = names.try_fold(directory.try_clone()?, inner)?;
    Ok((fd, entry))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
    use std::thread;

    use rustix::fs::{RenameFlags, renameat_with};

    use super::*;

    fn inode(path: &Path, create: Option<Mode>) -> io::Result<u64> {
        Ok(fstat(open(path, create)?)?.st_ino)
    }

    #[test]
    fn own_links_are_followed_and_loops_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        let wanted = fs::metadata(at("a/b")).unwrap().ino();
        for (link, target) in
            [("relative", "a/b"), ("up", "a/../a/b"), ("chain", "relative"), ("a/down", "../a/b"), ("loop", "loop")]
        {
            symlink(target, at(link)).unwrap();
        }
        symlink(at("a"), at("absolute")).unwrap();
        for path in ["a/b", "relative", "up", "chain", "a/down", "absolute/b", "absolute/../a/./b/"] {
            assert_eq!(inode(&at(path), None).unwrap(), wanted, "{path}");
        }
        assert_eq!(open(&at("loop"), None).unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        fs::write(at("file"), "").unwrap();
        assert_eq!(open(&at("file"), None).unwrap_err().kind(), ErrorKind::NotADirectory);
        assert_eq!(open(&at("missing"), None).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn missing_directories_are_created_with_mode() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x/y");
        let made = inode(&path, Some(Mode::from_raw_mode(0o755))).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.ino(), found.permissions().mode() & 0o7777), (made, 0o755));
        assert_eq!(inode(&path, Some(Mode::empty())).unwrap(), made, "an existing directory is opened");
    }

    #[test]
    fn link_of_another_user_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let (link, target) = (root.path().join("link"), root.path().join("target"));
        fs::create_dir(&target).unwrap();
        symlink(&target, &link).unwrap();
        assert!(open(&link, None).is_ok());
        if lchown(&link, Some(1234), None).is_err() {
            println!("NOT TESTED: only root can give a link to another user");
            return;
        }
        let error = open(&link, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("its owner is user 1234"), "{error}");
        // Also with more path behind the link, and with permission to create.
        assert_eq!(open(&link.join("x"), Some(Mode::RWXU)).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn link_that_another_user_swaps_in_during_walk_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let [link, beside, ours, theirs] = ["link", "beside", "ours", "theirs"].map(|name| root.path().join(name));
        for (link, target) in [(&link, &ours), (&beside, &theirs)] {
            fs::create_dir(target).unwrap();
            symlink(target, link).unwrap();
        }
        if lchown(&beside, Some(1234), None).is_err() {
            println!("NOT TESTED: only root can give a link to another user");
            return;
        }
        let ours = fs::metadata(&ours).unwrap().ino();
        let reader = {
            let link = link.clone();
            thread::spawn(move || {
                let (mut followed, mut refused) = (0, 0);
                while followed == 0 || refused == 0 || followed + refused < 20_000 {
                    match inode(&link, None) {
                        Ok(found) => {
                            assert_eq!(found, ours);
                            followed += 1;
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                            refused += 1;
                        }
                    }
                }
            })
        };
        while !reader.is_finished() {
            renameat_with(CWD, &link, CWD, &beside, RenameFlags::EXCHANGE).unwrap();
        }
        reader.join().unwrap();
    }
}
