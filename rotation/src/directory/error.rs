//! [`DirectoryError`]: why an operation on a credential directory failed, or what is wrong with its files.

use std::io;
use std::path::{Path, PathBuf};

use perennial::store::{BadPrefix, FileOp};
use perennial_pki::{CredentialError, PemError};

/// Error of an operation on a credential directory, or a problem that was found in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// An operation of the file system failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The operation, as a verb such as `open`.
        what: &'static str,
        /// The file or directory that the operation was for.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// File names cannot begin with the prefix: it is empty, starts with a dot, or contains a slash.
    #[error(transparent)]
    Prefix(#[from] BadPrefix),
    /// Another process holds the lock of the prefix, and so owns the files with this prefix.
    #[error("{path}: {owner} holds this lock: two processes cannot rotate the same certificate; stop one of them")]
    Owned {
        /// The lock file.
        path: PathBuf,
        /// The process that holds the lock, as it named itself in the lock file; `another process` if the file is
        /// empty.
        owner: String,
    },
    /// A file contains no pair that perennial can read. The file is left in place: another program may be able to read
    /// the file.
    #[error("{path}: no usable pair of certificate and key: {error}")]
    Credential {
        /// The file.
        path: PathBuf,
        /// Why the file contains no pair that perennial can read.
        #[source]
        error: CredentialError,
    },
    /// A file is damaged, but the parts that perennial needs are intact. The pair, the certificate or the key in the
    /// file is used.
    #[error("{path}: damaged, but using the rest of the file: {damage}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The damaged part, which was skipped.
        #[source]
        damage: PemError,
    },
    /// TLS peers would reject the certificate of the pair in use because of its encoding. The pair stays in use until a
    /// new pair replaces it.
    #[error("{path}: TLS peers may reject this certificate: {why}; using it until it is replaced")]
    Unserved {
        /// The file.
        path: PathBuf,
        /// The encoding error of the certificate, as a clause.
        why: String,
    },
    /// The pair that was in use (`PREFIX-current.pem` leads to it, for example) has expired. Another pair of this
    /// directory is used in its place.
    #[error("{path}: certificate expired; using another certificate from this directory")]
    Expired {
        /// The file with the expired certificate.
        path: PathBuf,
    },
    /// A file that contains a key can be read by users other than its owner.
    #[error("{path}: users other than its owner can read this private key")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Another user could have written a file. The file is ignored and left in place.
    #[error("{path}: ignored and left in place: {why}")]
    Untrusted {
        /// The file, or a link that leads to it.
        path: PathBuf,
        /// Why the file is not trusted: owner or mode.
        #[source]
        why: Distrust,
    },
    /// The pair in use has another common name than the wanted one. The pair is neither served nor used to
    /// authenticate, and its file is left in place.
    #[error("{path}: ignored and left in place: the certificate is for {common_name:?}, not for {wanted:?}")]
    Foreign {
        /// The file with the pair.
        path: PathBuf,
        /// The common name of the pair's certificate.
        common_name: String,
        /// The common name that is wanted.
        wanted: String,
    },
    /// Users other than the owner of the directory can create and replace files in it.
    #[error("{path}: users other than its owner can create and replace files in this directory")]
    Shared {
        /// The directory.
        path: PathBuf,
    },
    /// The key of the credential to write stays elsewhere. The credential was not written: kubelet and kubectl read the
    /// files of the directory, and would find no key in the new file.
    #[error(
        "{path}: a credential directory contains keys, as kubelet's does, and none that stays elsewhere; use another \
         store, such as a KeyValue, or no key source"
    )]
    KeysElsewhere {
        /// The directory.
        path: PathBuf,
    },
    /// A file of the directory is a mount point, so it can never be replaced.
    #[error("{path}: this file is a mount point, which cannot be replaced by a new certificate or record")]
    MountPoint {
        /// The file.
        path: PathBuf,
    },
}

impl DirectoryError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.into(), source }
    }

    /// Makes the error for a file that could not be read: [`Untrusted`](Self::Untrusted) if `source` wraps a
    /// [`Distrust`], else [`Io`](Self::Io).
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        match source.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(why) => Self::Untrusted { path: path.into(), why: *why },
            None => Self::io("read", path, source),
        }
    }

    /// Logs a problem found in a directory: as an error if a person must act, else as a warning.
    pub fn log(&self) {
        match self {
            Self::Untrusted { .. } | Self::Foreign { .. } | Self::MountPoint { .. } => tracing::error!("{self}"),
            _ => tracing::warn!("{self}"),
        }
    }

    /// True if a write failed since the disk is read-only, full or over quota, or the file exceeds the process's
    /// `RLIMIT_FSIZE`.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(
            source.kind(),
            io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge
        )
    }

    /// True if a file could not be read because of its kind: it is a socket or a dangling link, for example. A retry
    /// would fail as well.
    pub fn is_for_good(&self) -> bool {
        let Self::Io { what: "read", source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
    }

    /// Makes the error for the file operation `step`, which failed in `directory` with the error `source`.
    pub(super) fn step(directory: &Path, step: &FileOp, source: io::Error) -> Self {
        let (what, name) = match step {
            FileOp::CreateNew { name } => ("write", name.as_str()),
            FileOp::Sync { name } => ("sync", name.as_str()),
            FileOp::Symlink { name, .. } | FileOp::Link { name, .. } => ("link", name.as_str()),
            FileOp::Rename { to, .. } => ("put in place", to.as_str()),
            FileOp::SyncDir => ("sync", "."),
            FileOp::Remove { name } => ("remove", name.as_str()),
        };
        Self::io(what, &directory.join(name), source)
    }
}

/// Why a file, or a link to it, is not trusted: another user could have written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// The owner of the file is neither root nor the user that this process runs as.
    #[error("its owner is user {0}, neither root nor the user that runs perennial")]
    Owner(
        /// The user id of the owner.
        u32,
    ),
    /// The mode of the file lets its group or all users write.
    #[error("users other than its owner can write to it (mode {0:04o})")]
    Mode(
        /// The permission bits of the file.
        u32,
    ),
}
