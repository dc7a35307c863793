//! One owner for each prefix of a directory.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, statat};
use rustix::io::Errno;

use super::disk::distrust_of;
use super::error::{DirectoryError, Distrust};

/// How often to retry if the lock file was unlinked between open and flock.
const ATTEMPTS: u32 = 3;

/// Held from the first time it can be until it is dropped; the system lets go of it when the process ends, however it
/// ends. The file stays: to remove it could remove a file that another process has just locked.
///
/// Another user may have put something by this name into a directory that others can write to. Nothing is written to it,
/// and it keeps no process from starting: there is no lock then, as on a file system without locks.
#[derive(Debug)]
pub(super) struct Lock {
    name: String,
    held: Mutex<Option<Taken>>,
}

/// What was found by the name of the lock, and locked if it is one.
#[derive(Debug)]
struct Taken {
    _file: Option<File>,
    /// Device and inode.
    id: (u64, u64),
}

impl Lock {
    pub(super) fn new(prefix: &str) -> Self {
        Self { name: format!(".{prefix}.lock"), held: Mutex::default() }
    }

    /// Holds the one of this directory, if that is not held yet. Where it was removed, or the directory was replaced or
    /// mounted over, the lock held keeps no other process out any more: then the lock is taken anew.
    pub(super) fn hold(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), DirectoryError> {
        let path = path.join(&self.name);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ATTEMPTS {
            if let Some(held) = &*held {
                let there = self.there(directory).map_err(|source| DirectoryError::io("lock", &path, source))?;
                if there.is_some_and(|there| id(&there) == held.id) {
                    return Ok(());
                }
            }
            // Release first: on file systems without lasting inode numbers, both may be one file.
            *held = None;
            *held = Some(self.take(directory, &path)?);
        }
        // On such a file system the lock is held, although its file cannot be recognized.
        Ok(())
    }

    /// Lets another process hold the lock. The next write takes it again.
    pub(super) fn release(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Succeeds if this process holds the lock, or could take it. Changes nothing.
    pub(super) fn is_free(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), DirectoryError> {
        let path = path.join(&self.name);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match self.open(directory, OFlags::empty()) {
            Ok(_) if held.is_some() => Ok(()),
            Ok(file) => lock(&file, &path).map(drop),
            Err(error) if error.kind() == ErrorKind::NotFound || self.in_the_way(directory).is_some() => Ok(()),
            Err(error) => Err(DirectoryError::io("lock", &path, error)),
        }
    }

    /// What others find by this name, and try to lock.
    fn there(&self, directory: BorrowedFd<'_>) -> io::Result<Option<Stat>> {
        match statat(directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok(Some(there)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What another user could have put there by this name, and why.
    fn in_the_way(&self, directory: BorrowedFd<'_>) -> Option<(Stat, Distrust)> {
        let there = self.there(directory).ok()??;
        distrust(&there).map(|why| (there, why))
    }

    fn take(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<Taken, DirectoryError> {
        let failed = |source| DirectoryError::io("lock", path, source);
        let without = |there: &Stat, why: Distrust| {
            tracing::error!(
                "{}: ignored: {why}; going on without a lock, remove this file to have one",
                path.display()
            );
            Taken { _file: None, id: id(there) }
        };
        let file = match self.open(directory, OFlags::CREATE) {
            Ok(file) => file,
            Err(error) => {
                let (there, why) = self.in_the_way(directory).ok_or_else(|| failed(error))?;
                return Ok(without(&there, why));
            }
        };
        let found = fstat(&file).map_err(|error| failed(error.into()))?;
        if let Some(why) = distrust(&found) {
            return Ok(without(&found, why));
        }
        lock(&file, path)?;
        // With a second name (a hard link) it may be a file of ours that another user has linked to this name.
        if found.st_nlink > 1 {
            return Ok(Taken { id: id(&found), _file: Some(file) });
        }
        let owner = format!("process {}", std::process::id());
        // The owner is written for an error message only, so a full disk does not matter here.
        let _ = file.set_len(0).and_then(|()| (&file).rewind()).and_then(|()| (&file).write_all(owner.as_bytes()));
        Ok(Taken { _file: Some(file), id: id(&found) })
    }

    fn open(&self, directory: BorrowedFd<'_>, create: OFlags) -> io::Result<File> {
        let open = |how| {
            let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(directory, &self.name, flags, Mode::RUSR | Mode::WUSR).map(File::from).map_err(io::Error::from)
        };
        // What was made while the disk could be written to can be locked when it cannot.
        open(OFlags::RDWR | create).or_else(|error| match error.kind() {
            ErrorKind::ReadOnlyFilesystem => open(OFlags::RDONLY).map_err(|_| error),
            _ => Err(error),
        })
    }
}

fn lock(file: &File, path: &Path) -> Result<(), DirectoryError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        // Some network file systems have no locks: better none than no certificate.
        Ok(()) | Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => Ok(()),
        // Another user's is no lock.
        Err(Errno::WOULDBLOCK) if fstat(file).is_ok_and(|found| distrust(&found).is_some()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            // The owner is a few words at most, for the message.
            let _ = file.take(200).read_to_string(&mut owner);
            let owner = Some(owner.trim()).filter(|owner| !owner.is_empty()).unwrap_or("another process");
            Err(DirectoryError::Owned { path: path.to_owned(), owner: owner.to_owned() })
        }
        Err(error) => Err(DirectoryError::io("lock", path, error.into())),
    }
}

fn id(of: &Stat) -> (u64, u64) {
    (of.st_dev, of.st_ino)
}

/// Why this is no lock, if another user could have put it there.
fn distrust(found: &Stat) -> Option<Distrust> {
    // The mode of a link says nothing.
    let mode = (FileType::from_raw_mode(found.st_mode) != FileType::Symlink).then_some(found.st_mode);
    distrust_of(found.st_uid, mode)
}
