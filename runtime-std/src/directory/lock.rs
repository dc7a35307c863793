//! One owner for each prefix of a directory.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::disk::Disk;
use super::error::DirectoryError;

/// Held as long as it lives; the system lets go of it when the process ends, however it ends. The file stays: who
/// removed it could remove one that somebody else has just locked.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(disk: &Disk, prefix: &str) -> Result<Self, DirectoryError> {
        let path = disk.path().join(format!(".{prefix}.lock"));
        let failed = |source| DirectoryError::io("lock", &path, source);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = options.custom_flags(flags.bits().cast_signed()).open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                // A few words at most; without them it is somebody all the same.
                let _ = file.take(200).read_to_string(&mut owner);
                return Err(DirectoryError::Owned { path, owner: owner.trim().to_owned() });
            }
            // Some network file systems have no locks: better none than no certificate.
            Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let owner = format!("process {}", std::process::id());
        // Who we are is for a message only: a disk that is full, or over its quota, does not matter here.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes()));
        Ok(Self { _file: file })
    }
}
