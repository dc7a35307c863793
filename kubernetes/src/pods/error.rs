//! [`PodError`]: why the certificates of a pod cannot be kept.

use std::io;
use std::path::PathBuf;

use perennial::printable;
use perennial_rotation::{DirectoryError, FileStoreError, StartError};

/// Error of [`PodCertificates`](super::PodCertificates). It does not affect the certificates of other pods.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// The pod cannot have such certificates. Nothing was changed.
    #[error("pod {}: {why}", printable(pod))]
    Invalid {
        /// Namespace and name of the pod; `with UID` and the UID, if the UID is the problem.
        pod: String,
        /// The problem, as a clause.
        why: String,
    },
    /// The private state of a certificate cannot be used, for example because another process holds its lock.
    #[error("pod {}: {source}", printable(pod))]
    State {
        /// Namespace and name of the pod.
        pod: String,
        /// Error of the credential directory.
        source: DirectoryError,
    },
    /// A volume cannot be written. The rotation of a certificate repeats the write of a new one. To write all other files,
    /// call [`restore`](super::PodCertificates::restore) or [`put`](super::PodCertificates::put). To remove files that could
    /// not be removed, call [`put`](super::PodCertificates::put), [`remove`](super::PodCertificates::remove) or
    /// [`retain`](super::PodCertificates::retain).
    #[error("pod {}: {source}", printable(pod))]
    Volume {
        /// Namespace and name of the pod.
        pod: String,
        /// Error of the volume.
        source: FileStoreError,
    },
    /// A rotation cannot start.
    #[error("pod {}: {source}", printable(pod))]
    Start {
        /// Namespace and name of the pod.
        pod: String,
        /// Error of the start.
        source: StartError,
    },
    /// The private state of pods that are gone cannot be removed: keys may still be on disk. Call
    /// [`retain`](super::PodCertificates::retain) later.
    #[error("cannot {what} {path}: {source}; keys of pods that are gone may be left there")]
    Cleanup {
        /// The operation, as a verb such as `remove`.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}
