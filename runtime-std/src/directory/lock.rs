//! One owner for each prefix of a directory.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::error::DirectoryError;

/// Held from the first time it can be until it is dropped; the system lets go of it when the process ends, however it
/// ends. The file stays: who removed it could remove one that somebody else has just locked.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    held: Mutex<Option<File>>,
}

impl Lock {
    pub(super) fn new(directory: &Path, prefix: &str) -> Self {
        Self { path: directory.join(format!(".{prefix}.lock")), held: Mutex::default() }
    }

    /// Holds it, if it is not held yet.
    pub(super) fn hold(&self) -> Result<(), DirectoryError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(self.take()?);
        }
        Ok(())
    }

    fn take(&self) -> Result<File, DirectoryError> {
        let path = &self.path;
        let failed = |source| DirectoryError::io("lock", path, source);
        let mut file = self.open().map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                // A few words at most; without them it is somebody all the same.
                let _ = file.take(200).read_to_string(&mut owner);
                return Err(DirectoryError::Owned { path: path.clone(), owner: owner.trim().to_owned() });
            }
            // Some network file systems have no locks: better none than no certificate.
            Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let owner = format!("process {}", std::process::id());
        // Who we are is for a message only: a disk that is full, or over its quota, does not matter here.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes()));
        Ok(file)
    }

    fn open(&self) -> io::Result<File> {
        let open = |write| {
            let mut options = OpenOptions::new();
            options.read(true).write(write).create(write).truncate(false).mode(0o600);
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            options.custom_flags(flags.bits().cast_signed()).open(&self.path)
        };
        // What was made while the disk could be written to can be locked when it cannot.
        open(true).or_else(|error| match error.kind() {
            ErrorKind::ReadOnlyFilesystem => open(false).map_err(|_| error),
            _ => Err(error),
        })
    }
}
