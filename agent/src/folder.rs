//! A directory that was opened without following a link that another user could have made.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Error, ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::process;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::files;

/// Number of symbolic links to follow on one path: Linux's own limit (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// An open directory. Another user who can write to a directory on the way did not choose this directory.
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens the directory of the file at `path`, one name after the other. Follows a symbolic link only if root or the
    /// user of this process owns the link. Returns the directory, and the last name of the path.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if another user owns a link on the way; else the error of the operating system.
    pub(crate) fn of(path: &Path) -> io::Result<(Self, OsString)> {
        let name = path.file_name().ok_or_else(|| Error::other("this path names no file"))?.to_owned();
        let (directory, last) = resolve(files::parent(path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok((Self(openat(&directory, &last, flags, Mode::empty())?), name))
    }

    /// Reads a file that only this user or root can have written; `None` if the file does not exist.
    ///
    /// # Errors
    /// If the name is a link or no regular file, if another user could have written the file, or if the system refuses.
    pub(crate) fn read_own(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        let file = match open_in(&self.0, name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        // Checked on the open file, since the name may lead elsewhere by now.
        let found = file.metadata()?;
        let owner_fits = [0, geteuid().as_raw()].contains(&found.uid());
        if !found.is_file() || !owner_fits || found.mode() & 0o022 != 0 {
            let why = "another user could have written it, or it is not a regular file";
            return Err(Error::new(ErrorKind::PermissionDenied, why));
        }
        files::bounded(file).map(Some)
    }

    /// Replaces a file (mode 0600) atomically and durably: readers find the old contents or the new ones, also after a
    /// crash. Replaces a link, and not the file that the link leads to.
    ///
    /// # Errors
    /// The error of the operating system. The file holds its previous contents or the new ones, whole.
    pub(crate) fn replace(&self, name: &OsStr, contents: &[u8]) -> io::Result<()> {
        self.sweep(name);
        let mut temporary = name.to_owned();
        temporary.push(format!(".{}.tmp", process::id()));
        let written =
            self.create(&temporary, contents).and_then(|()| Ok(renameat(&self.0, &temporary, &self.0, name)?));
        if written.is_err() {
            // The first error is the one to report.
            let _ = unlinkat(&self.0, &temporary, AtFlags::empty());
        }
        // Without a sync of the directory, a crash may undo the rename.
        written.and_then(|()| Ok(rustix::fs::fsync(&self.0)?))
    }

    /// Removes a file; no error if the file does not exist.
    ///
    /// # Errors
    /// The error of the operating system.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Removes the temporary files of `name` that belong to this user and were left by processes that have ended.
    /// Temporary files that cannot be removed stay.
    pub(crate) fn sweep(&self, name: &OsStr) {
        let Ok(entries) = Dir::read_from(&self.0) else { return };
        for entry in entries.flatten() {
            let found = entry.file_name();
            let ours = |found: &_| {
                let stat = statat(&self.0, found, AtFlags::SYMLINK_NOFOLLOW);
                stat.is_ok_and(|stat| {
                    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_uid == geteuid().as_raw()
                })
            };
            if files::is_left_over(OsStr::from_bytes(found.to_bytes()), name) && ours(found) {
                let _ = unlinkat(&self.0, found, AtFlags::empty());
            }
        }
    }

    /// Writes a file (mode 0600) that must not exist yet.
    fn create(&self, name: &OsStr, contents: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(contents)?;
        file.sync_all()
    }
}

/// Opens the file at `path` for reading, without blocking. Follows the links that [`Folder::of`] follows, also as the
/// last name of the path.
///
/// # Errors
/// As [`Folder::of`].
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let (directory, name) = resolve(path)?;
    open_in(&directory, &name)
}

/// Opens a file for reading, which is no link, without blocking: opening a FIFO would wait for its writer.
fn open_in(directory: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(directory, name, flags, Mode::empty())?))
}

/// Opens the directory that has the last entry of `path`, and returns it with the name of this entry, which need not
/// exist. The entry is no link at the time of the call.
fn resolve(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let start = |path: &Path| openat(CWD, if path.is_absolute() { "/" } else { "." }, SEARCH, Mode::empty());
    let mut directory = start(path)?;
    let (mut rest, mut links) = (names(path), 0);
    while let Some(name) = rest.pop() {
        if let Some(target) = trusted_link(&directory, &name)? {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            if target.is_absolute() {
                directory = start(&target)?;
            }
            rest.extend(names(&target));
        } else if rest.is_empty() {
            return Ok((directory, name));
        } else {
            directory = openat(&directory, &name, SEARCH, Mode::empty())?;
        }
    }
    Ok((directory, ".".into()))
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(is_name).map(|part| part.as_os_str().to_owned()).rev().collect()
}

/// Opens a directory on the way to a file; a directory that is not readable suffices.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEARCH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Opens a directory on the way to a file.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEARCH: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The target of a symbolic link; `None` if this name is no link.
///
/// # Errors
/// [`ErrorKind::PermissionDenied`] if neither root nor the user of this process owns the link.
fn trusted_link(directory: &OwnedFd, name: &OsStr) -> io::Result<Option<PathBuf>> {
    // Opened, so that the owner and the target are of one link. Other systems than Linux cannot open a link.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let link = {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::empty())
            .and_then(|link| Ok((rustix::fs::fstat(&link)?, link, OsStr::new(""))))
    };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let link = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(|found| (found, directory, name));
    let (found, at, name) = match link {
        // The caller decides whether the name has to exist.
        Err(Errno::NOENT) => return Ok(None),
        found => found?,
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    if ![0, geteuid().as_raw()].contains(&found.st_uid) {
        let why = format!("a link on the way belongs to user {}; name the file without this link", found.st_uid);
        return Err(Error::new(ErrorKind::PermissionDenied, why));
    }
    let target = readlinkat(at, name, Vec::new())?;
    Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes()))))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn own_links_are_followed_and_loops_refused() {
        let root = TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), "text").unwrap();
        for (link, target) in [("relative", "a/b"), ("chain", "relative"), ("a/down", "../a/b"), ("loop", "loop")] {
            symlink(target, at(link)).unwrap();
        }
        symlink(at("chain/file"), at("link")).unwrap();
        for path in ["a/b/file", "relative/file", "chain/file", "a/down/file", "link", "a/../link"] {
            assert_eq!(files::bounded(open_file(&at(path)).unwrap()).unwrap(), b"text", "{path}");
        }
        assert_eq!(open_file(&at("loop")).unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(open_file(&at("missing")).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(open_file(Path::new("Cargo.toml")).is_ok() && Folder::of(Path::new("Cargo.toml")).is_ok());
        // A link as the last name of a path is replaced, and nothing is written through it.
        let (folder, name) = Folder::of(&at("link")).unwrap();
        folder.replace(&name, b"new").unwrap();
        assert_eq!((fs::read(at("link")).unwrap(), fs::read(at("a/b/file")).unwrap()), (b"new".into(), b"text".into()));
        assert_eq!(fs::metadata(at("link")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn link_of_another_user_is_refused() {
        let root = TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("target")).unwrap();
        fs::write(at("target/file"), "text").unwrap();
        symlink("target", at("directory")).unwrap();
        symlink("target/file", at("file")).unwrap();
        let refused = |path: &str| {
            (
                Folder::of(&at(path)).err().map(|error| error.kind()),
                open_file(&at(path)).err().map(|error| error.kind()),
            )
        };
        assert_eq!(refused("directory/file"), (None, None));
        // Only root can give a link away.
        if lchown(at("directory"), Some(1234), None).and_then(|()| lchown(at("file"), Some(1234), None)).is_err() {
            return;
        }
        let denied = Some(ErrorKind::PermissionDenied);
        assert_eq!(refused("directory/file"), (denied, denied));
        assert_eq!(refused("file"), (None, denied));
    }

    #[test]
    fn replace_removes_temporary_files_of_dead_processes_only() {
        let root = TempDir::new().unwrap();
        let gone = format!("record.{}.tmp", i32::MAX);
        for name in [gone.as_str(), "record.1.tmp", "record.x.tmp"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        let (folder, name) = Folder::of(&root.path().join("record")).unwrap();
        folder.replace(&name, b"new").unwrap();
        let mut left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["record", "record.1.tmp", "record.x.tmp"]);
        folder.remove(&name).unwrap();
        folder.remove(&name).unwrap();
        assert!(!root.path().join("record").exists());
    }
}
