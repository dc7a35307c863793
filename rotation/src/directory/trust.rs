//! The files that this process trusts: those that no other user could have written.

use std::io::{self, Error, ErrorKind};

use super::error::Distrust;

/// Fails unless the file can only have been written by root or by this user. `mode` is `None` for symbolic links, whose
/// mode is always 0777.
pub(super) fn is_trusted(owner: u32, mode: Option<u32>) -> io::Result<()> {
    distrust_of(owner, mode).map_or(Ok(()), |why| Err(Error::new(ErrorKind::PermissionDenied, why)))
}

/// The reason to distrust a file; `None` if only root and the user of this process could have written the file.
pub(super) fn distrust_of(owner: u32, mode: Option<u32>) -> Option<Distrust> {
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Some(Distrust::Owner(owner));
    }
    let mode = mode.map(|mode| mode & 0o7777);
    mode.filter(|mode| mode & 0o022 != 0).map(Distrust::Mode)
}
