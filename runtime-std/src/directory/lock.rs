//! One owner for each prefix of a directory.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, statat};
use rustix::io::Errno;

use super::error::DirectoryError;

/// So often it is looked whether somebody has removed what was locked just now.
const ATTEMPTS: u32 = 3;

/// Held from the first time it can be until it is dropped; the system lets go of it when the process ends, however it
/// ends. The file stays: who removed it could remove one that somebody else has just locked.
#[derive(Debug)]
pub(super) struct Lock {
    name: String,
    held: Mutex<Option<File>>,
}

impl Lock {
    pub(super) fn new(prefix: &str) -> Self {
        Self { name: format!(".{prefix}.lock"), held: Mutex::default() }
    }

    /// Holds the one of this directory, if that is not held yet. Where it was removed, or the directory was replaced or
    /// mounted over, what is held is nobody else's obstacle any more: then it is taken anew.
    pub(super) fn hold(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), DirectoryError> {
        let path = path.join(&self.name);
        let failed = |source| DirectoryError::io("lock", &path, source);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ATTEMPTS {
            if let Some(file) = &*held
                && self.is_there(file, directory).map_err(failed)?
            {
                return Ok(());
            }
            // Let go of first: where files have no lasting numbers, it may be the same one.
            *held = None;
            *held = Some(self.take(directory, &path)?);
        }
        // There it is held, but nobody can tell.
        Ok(())
    }

    /// Whether this process holds the lock, or could: nobody else does. Changes nothing.
    pub(super) fn is_free(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), DirectoryError> {
        let path = path.join(&self.name);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match self.open(directory, OFlags::empty()) {
            Ok(_) if held.is_some() => Ok(()),
            Ok(file) => Self::lock(file, &path).map(drop),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(DirectoryError::io("lock", &path, error)),
        }
    }

    /// Whether this is what others find, and try to lock.
    fn is_there(&self, file: &File, directory: BorrowedFd<'_>) -> io::Result<bool> {
        let ours = fstat(file)?;
        match statat(directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<File, DirectoryError> {
        let file = self.open(directory, OFlags::CREATE).map_err(|source| DirectoryError::io("lock", path, source))?;
        let mut file = Self::lock(file, path)?;
        let owner = format!("process {}", std::process::id());
        // Who we are is for a message only: a disk that is full, or over its quota, does not matter here.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes()));
        Ok(file)
    }

    fn lock(file: File, path: &Path) -> Result<File, DirectoryError> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Some network file systems have no locks: better none than no certificate.
            Ok(()) | Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => Ok(file),
            Err(Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                // A few words at most; without them it is somebody all the same.
                let _ = file.take(200).read_to_string(&mut owner);
                Err(DirectoryError::Owned { path: path.to_owned(), owner: owner.trim().to_owned() })
            }
            Err(error) => Err(DirectoryError::io("lock", path, error.into())),
        }
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
