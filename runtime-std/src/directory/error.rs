//! What can be wrong with a credential directory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use perennial::store::{BadPrefix, FileOp};
use perennial_pki::CredentialError;

use super::volume::is_for_good;

/// A credential directory that cannot be used, or an operation on it that failed.
#[derive(Debug)]
pub enum DirectoryError {
    /// The system refused an operation.
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No files can begin with that.
    Prefix(BadPrefix),
    /// Somebody else keeps these files.
    Owned {
        /// The lock.
        path: PathBuf,
        /// Who it is, in their own words.
        owner: String,
    },
    /// A file there does not hold a pair. If it is in the way, it is set aside when the directory is put right: its
    /// name then ends in `.bad`.
    Credential {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: CredentialError,
    },
    /// The pair in use has expired, and another one is better: it comes into use when the directory is put right.
    Expired {
        /// Where the one lies that has expired.
        path: PathBuf,
    },
    /// Others than its owner could read or write a file with a key, until the directory was put right.
    Exposed {
        /// The file.
        path: PathBuf,
    },
}

impl DirectoryError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.into(), source }
    }

    /// The disk takes nothing now: it is read-only or full, or a limit of the process (RLIMIT_FSIZE) says so.
    pub(super) fn is_of_the_disk(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(
            source.kind(),
            io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge
        )
    }

    /// What was to be read there never can be.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_for_good(source))
    }

    /// An operation that failed in `directory`.
    pub(super) fn step(directory: &Path, step: &FileOp, source: io::Error) -> Self {
        let (what, name) = match step {
            FileOp::CreateNew { name } => ("write", name.as_str()),
            FileOp::Sync { name } => ("sync", name.as_str()),
            FileOp::Restrict { name } => ("make private", name.as_str()),
            FileOp::Symlink { name, .. } | FileOp::Link { name, .. } => ("link", name.as_str()),
            FileOp::Rename { to, .. } => ("put in place", to.as_str()),
            FileOp::SyncDir => ("sync", "."),
            FileOp::Remove { name } => ("remove", name.as_str()),
        };
        Self::io(what, &directory.join(name), source)
    }
}

impl From<BadPrefix> for DirectoryError {
    fn from(error: BadPrefix) -> Self {
        Self::Prefix(error)
    }
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, path, source } => write!(f, "cannot {what} {}: {source}", path.display()),
            Self::Prefix(error) => error.fmt(f),
            Self::Owned { path, owner } => {
                let owner = if owner.is_empty() { "somebody else" } else { owner };
                write!(f, "{} is held by {owner}: two cannot keep the same certificate; end one", path.display())
            }
            Self::Credential { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Expired { path } => {
                write!(
                    f,
                    "{}: its certificate has expired; the one that is used instead lies beside it",
                    path.display()
                )
            }
            Self::Exposed { path } => {
                write!(f, "{}: others than its owner could read or change it; its key may be known", path.display())
            }
        }
    }
}

impl std::error::Error for DirectoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Prefix(error) => Some(error),
            Self::Credential { error, .. } => Some(error),
            Self::Owned { .. } | Self::Expired { .. } | Self::Exposed { .. } => None,
        }
    }
}
