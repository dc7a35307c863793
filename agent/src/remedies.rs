//! Remedies for problems with the files of a certificate directory, and for failed requests.

use perennial::Failure;
use perennial_rotation::DirectoryError;

/// The remedy for a certificate in memory that cannot be written.
pub(crate) const UNWRITTEN: &str = "make room on the disk, or make the directory of the certificate writable; do not restart \
    perennial before: a restart loses the certificate";
/// The remedy for a durable certificate in whose place a file of another program is.
pub(crate) const FOREIGN: &str = "if no program needs the file in the certificate's place, remove it, or set \
    `replaceForeign: true` in the certificate list and send SIGHUP; the certificate is kept in the directory \
    `.perennial` until then, also over a restart";
/// The remedy for a durable certificate that cannot be written to the files that other programs read.
pub(crate) const UNPUBLISHED: &str = "make room on the disk, or make the directory of the certificate writable; the \
    certificate is kept in its private directory until then, also over a restart";
/// The remedy for a failed command of `--on-rotated`.
pub(crate) const HOOK: &str =
    "run the command by hand to see its error, and mend the command; perennial runs it again by itself";
/// The remedy for a clock that differs from the API server's.
pub(crate) const CLOCK: &str = "check the time synchronization (NTP) of this machine and of the API server";
/// The remedy for a standing error that no failed request has caused.
pub(crate) const STANDING: &str = "if the problem lasts, mend its cause; perennial retries by itself";

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

/// The remedy after a failed request, as a clause for the operator. perennial repeats the request by itself in all cases.
pub(crate) fn after_failure(failure: Failure) -> &'static str {
    match failure {
        Failure::Denied => {
            "read the approver's reason above; perennial repeats the request later, or at once after `perennial rotate` \
             or a SIGUSR1 to `perennial run`"
        }
        Failure::SignerFailed | Failure::Rejected => {
            "read the reason above; request names and usages that the signer allows"
        }
        Failure::BadCertificate | Failure::Unsatisfying => {
            "check the signer: it issues other names, keys, usages or times than were requested"
        }
        Failure::AlreadyDue => "let the signer issue longer lifetimes, or begin the rotation window later",
        Failure::Unauthorized => {
            "replace the credential that the server refused: put a new token into the kubeconfig or token file of the \
             request or, if it was the certificate itself, give `perennial run` a bootstrap kubeconfig with a valid \
             token; if the server refuses all credentials, check whether its client CA was replaced"
        }
        Failure::Forbidden => {
            "read the server's reason above; if it names a user who cannot create, get, list or watch \
             certificatesigningrequests, allow that (agent/docs/cluster.md), else request what the cluster admits"
        }
        Failure::Throttled => "nothing, unless it lasts: then the API server is overloaded",
        Failure::Unreachable => "check that the API server runs, and that this machine reaches it and trusts its CA",
        Failure::TimedOut => "find out with `kubectl get csr` whether the approver or the signer has not answered",
        Failure::Deleted | Failure::Outdated | Failure::UnsupportedKey => {
            "nothing: `perennial run` submits a new request"
        }
        _ => "mend the cause above, on this machine",
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
