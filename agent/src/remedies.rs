//! Remedies for problems with the files of a certificate directory.

use perennial_rotation::DirectoryError;

/// The remedy for a problem, as a clause for the operator. `another` is true if the directory has another usable pair.
pub(crate) fn remedy(problem: &DirectoryError, another: bool) -> &'static str {
    match problem {
        DirectoryError::Exposed { .. } => {
            "chmod 600 the file, if no other program needs to read it; if another user may have read the key, replace \
             it: send SIGUSR1 to `perennial run`, whose files only their owner can read"
        }
        DirectoryError::Expired { .. } | DirectoryError::Unserved { .. } => {
            "nothing: `perennial run` replaces the pair at once"
        }
        DirectoryError::Damaged { .. } => {
            "remove the damaged lines, or wait for the next rotation, which writes a new file"
        }
        DirectoryError::Shared { .. } => "chmod go-w the directory, and have root or the user of perennial own it",
        DirectoryError::Untrusted { .. } => {
            "if the file is yours, chown it to root or to the user of perennial, and chmod go-w; if not, find out who \
             created it"
        }
        DirectoryError::Foreign { .. } => {
            "check --node-name, --hostname-override or --common-name; if they are right, `perennial run` replaces the \
             pair when it gets a certificate"
        }
        DirectoryError::MountPoint { .. } => "mount the directory instead of the single file",
        problem if !is_unreadable(problem) => "make sure that the user who runs perennial can read it",
        _ if another => {
            "nothing: `perennial run` uses another pair of this directory, and replaces this one with its next \
             certificate"
        }
        _ => {
            "restore the file from a backup, or give `perennial run` a bootstrap kubeconfig with a valid token, to \
             replace the pair with a new one"
        }
    }
}

/// True if reading the file again would give the same error: the file holds no pair, or is of a kind that cannot be
/// read.
pub(crate) fn is_unreadable(problem: &DirectoryError) -> bool {
    matches!(problem, DirectoryError::Credential { .. }) || problem.is_for_good()
}

/// True if `perennial run` starts with the pair in spite of the problem.
pub(crate) fn is_harmless(problem: &DirectoryError) -> bool {
    matches!(
        problem,
        DirectoryError::Exposed { .. }
            | DirectoryError::Shared { .. }
            | DirectoryError::Damaged { .. }
            | DirectoryError::Unserved { .. }
    )
}
