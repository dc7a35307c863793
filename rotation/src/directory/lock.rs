//! The lock file of a prefix: at most one process writes the files of a prefix.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, statat};
use rustix::io::Errno;

use super::error::{DirectoryError, Distrust};
use super::trust::distrust_of;

/// How often to retry if the lock file was unlinked between open and flock.
const ATTEMPTS: u32 = 3;

/// The lock of a prefix: `flock` on `.PREFIX.lock`. This process holds the lock until the `Lock` is dropped; the kernel
/// releases the lock when the process ends. The file is never removed, since another process could have locked the file
/// in the meantime.
///
/// In a directory that other users can write to, another user may have created a file of this name. perennial then does
/// not write to the file, and starts without a lock, as on a file system without locks.
#[derive(Debug)]
pub(super) struct Lock {
    name: String,
    held: Mutex<Option<Held>>,
}

/// The result of taking the lock. `_file` is the locked file. `_file` is `None` if another user could have created the
/// lock file: this process then ignores the file, and continues without a lock.
#[derive(Debug)]
struct Held {
    _file: Option<File>,
    /// Device and inode of the lock file, to notice that the file was replaced.
    id: (u64, u64),
}

impl Lock {
    pub(super) fn new(prefix: &str) -> Self {
        Self { name: format!(".{prefix}.lock"), held: Mutex::default() }
    }

    /// Takes the lock in `directory`, unless this process holds it. Takes it again if the lock file was removed, or the
    /// directory was replaced or mounted over, since the old lock then excludes no other process.
    ///
    /// # Errors
    /// [`DirectoryError::Owned`] if another process holds the lock; otherwise why the file cannot be locked.
    pub(super) fn hold(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), DirectoryError> {
        let path = path.join(&self.name);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ATTEMPTS {
            if let Some(held) = &*held {
                let current =
                    self.current_file(directory).map_err(|source| DirectoryError::io("lock", &path, source))?;
                if current.is_some_and(|current| id(&current) == held.id) {
                    return Ok(());
                }
            }
            // Release first: on file systems without stable inode numbers, the old and the new file may be the same.
            *held = None;
            *held = Some(self.take(directory, &path)?);
        }
        // On a file system without stable inode numbers: the lock is held, although its file is not recognized.
        Ok(())
    }

    /// Releases the lock, so that another process can hold it. The next write takes the lock again.
    pub(super) fn release(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Succeeds if this process holds the lock, or could take it. Changes nothing.
    pub(super) fn is_free(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), DirectoryError> {
        let path = path.join(&self.name);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match self.open(directory, OFlags::empty()) {
            // `flock` belongs to the open file: our own lock would make it fail on another descriptor.
            Ok(_) if held.is_some() => Ok(()),
            Ok(file) => lock(&file, &path).map(drop),
            Err(error) if error.kind() == ErrorKind::NotFound || self.foreign_file(directory).is_some() => Ok(()),
            Err(error) => Err(DirectoryError::io("lock", &path, error)),
        }
    }

    /// The file that another process would lock now, since it has the name of the lock file at present; `None` if no
    /// file has that name.
    fn current_file(&self, directory: BorrowedFd<'_>) -> io::Result<Option<Stat>> {
        match statat(directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The lock file and the reason to distrust it; `None` unless another user could have created the file.
    fn foreign_file(&self, directory: BorrowedFd<'_>) -> Option<(Stat, Distrust)> {
        let found = self.current_file(directory).ok()??;
        distrust(&found).map(|why| (found, why))
    }

    fn take(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<Held, DirectoryError> {
        let failed = |source| DirectoryError::io("lock", path, source);
        let without = |found: &Stat, why: Distrust| {
            tracing::error!(
                "lock file {} ignored: {why}; continuing without a lock, so another process could rotate the same \
                 certificate. Remove the file: the next write creates and locks a new one",
                path.display()
            );
            Held { _file: None, id: id(found) }
        };
        let file = match self.open(directory, OFlags::CREATE) {
            Ok(file) => file,
            Err(error) => {
                let (found, why) = self.foreign_file(directory).ok_or_else(|| failed(error))?;
                return Ok(without(&found, why));
            }
        };
        let found = fstat(&file).map_err(|error| failed(error.into()))?;
        if let Some(why) = distrust(&found) {
            return Ok(without(&found, why));
        }
        lock(&file, path)?;
        // A second hard link: another user may have linked a file of ours to this name, which must not be overwritten.
        if found.st_nlink > 1 {
            return Ok(Held { id: id(&found), _file: Some(file) });
        }
        let owner = format!("process {}", std::process::id());
        // Best effort: the text serves the error message of other processes only.
        let _ = file.set_len(0).and_then(|()| (&file).rewind()).and_then(|()| (&file).write_all(owner.as_bytes()));
        Ok(Held { _file: Some(file), id: id(&found) })
    }

    fn open(&self, directory: BorrowedFd<'_>, create: OFlags) -> io::Result<File> {
        let open = |how| {
            let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(directory, &self.name, flags, Mode::RUSR | Mode::WUSR).map(File::from).map_err(io::Error::from)
        };
        // A lock file from before the disk became read-only can still be locked.
        open(OFlags::RDWR | create).or_else(|error| match error.kind() {
            ErrorKind::ReadOnlyFilesystem => open(OFlags::RDONLY).map_err(|_| error),
            _ => Err(error),
        })
    }
}

fn lock(file: &File, path: &Path) -> Result<(), DirectoryError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        // Some network file systems have no locks: continue without a lock rather than fail the start.
        Ok(()) | Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => Ok(()),
        // A file that another user could have created is ignored: otherwise that user could prevent a start.
        Err(Errno::WOULDBLOCK) if fstat(file).is_ok_and(|found| distrust(&found).is_some()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            // A bound, in case the file is not ours: the owner's text is a few words.
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

/// The reason to ignore a lock file; `None` unless another user could have created the file.
fn distrust(found: &Stat) -> Option<Distrust> {
    // The mode of a symbolic link has no meaning.
    let mode = (FileType::from_raw_mode(found.st_mode) != FileType::Symlink).then_some(found.st_mode);
    distrust_of(found.st_uid, mode)
}
