//! Writes the node's kubeconfig.

use std::io::{self, ErrorKind};
use std::path::Path;

use perennial_kubernetes::kubeconfig::{Endpoint, node_kubeconfig};

use crate::failure::Failure;
use crate::files;

/// Checks before there is a certificate that the node's kubeconfig can be written later. Leaves no file behind. If the
/// disk is full or read-only, only logs a warning: the disk may have space, or be writable, when the kubeconfig is
/// written.
///
/// # Errors
/// [`Failure::Usage`] if the path can never be written: no permission, a mount point, or `current` is not UTF-8.
pub(crate) fn make_room(path: &Path, current: &Path) -> Result<(), Failure> {
    if current.to_str().is_none() {
        let why = "a kubeconfig can only point at names that are UTF-8; choose another --cert-dir";
        return Err(Failure::Usage(format!("{}: {why}", current.display())));
    }
    if files::is_mount_point(path) {
        let why = "a mount point, which cannot be replaced: mount the directory instead of the single file";
        return Err(Failure::Usage(format!("{}: {why}", path.display())));
    }
    let Err(error) = files::probe(path) else { return Ok(()) };
    let why = format!("cannot write {}: {error}", path.display());
    if may_pass(error.kind()) {
        tracing::warn!("{why}; will try again once there is a certificate");
        return Ok(());
    }
    Err(Failure::Usage(why))
}

/// True for errors that may go away without a change of permissions: a full or read-only disk.
fn may_pass(kind: ErrorKind) -> bool {
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
    kind == ErrorKind::ReadOnlyFilesystem || full.contains(&kind)
}

/// Writes the node's kubeconfig (mode 0600). The kubeconfig names the link `current` as certificate and key. Creates
/// the kubeconfig's directory if it is missing.
///
/// # Errors
/// The path and the error of the operating system; an existing kubeconfig stays whole.
pub(crate) fn write(path: &Path, endpoint: &Endpoint, current: &Path) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let ca_file = endpoint.ca_file.as_ref().map(std::path::absolute).transpose().map_err(cannot)?;
    let endpoint = Endpoint { ca_file, ..endpoint.clone() };
    files::create_directory(files::parent(path)).map_err(cannot)?;
    files::replace(path, node_kubeconfig(&endpoint, current).as_bytes()).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn full_or_read_only_disk_is_temporary_error() {
        for (os, passes) in [(Errno::ROFS, true), (Errno::NOSPC, true), (Errno::DQUOT, true), (Errno::ACCESS, false)] {
            assert_eq!(may_pass(io::Error::from(os).kind()), passes, "{os}");
        }
    }
}
