//! [`FileStoreError`]: why the files of a certificate cannot be written.

use std::io;
use std::path::{Path, PathBuf};

use perennial::printable;
use perennial_pki::KeyAlgorithm;

use crate::DirectoryError;
use crate::directory::Distrust;

/// Error of a [`FileStore`](crate::FileStore). Unless a variant says otherwise, the files that other programs read are
/// as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileStoreError {
    /// The layout cannot be used.
    #[error("{path}: {why}")]
    Layout {
        /// The path at fault.
        path: PathBuf,
        /// The problem, as a clause with its remedy.
        why: &'static str,
    },
    /// The private directory, with the lock, the pending record and the store's own copy of the pair, cannot be used.
    #[error(transparent)]
    Private(#[from] DirectoryError),
    /// An operation of the file system failed. If it was a rename (`replace`) or a `sync` of a directory, some files of
    /// a [`FileLayout::Plain`](crate::FileLayout::Plain) may be new already; the next write completes them.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The operation, as a verb such as `open`.
        what: &'static str,
        /// The file or directory that the operation was for.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file contains a certificate with another common name, which this store did not write. Certificates without a
    /// common name differ if their other names do.
    #[error(
        "{path}: not replaced: the certificate in this file is for {}, not for {}, and perennial did not write it. If \
         no program needs the file, remove it or allow the store to replace foreign files (replaceForeign)",
        printable(name),
        printable(wanted)
    )]
    Foreign {
        /// The certificate file.
        path: PathBuf,
        /// The common name of its certificate, or all names of a certificate without one.
        name: String,
        /// The name of the certificate to write, in the same form.
        wanted: String,
    },
    /// The file contains no certificate or key that perennial can read, or CA certificates of another program.
    #[error(
        "{path}: not replaced, since another program may need it: {why}. If none does, remove it or allow the \
         store to replace foreign files (replaceForeign)"
    )]
    Unrecognized {
        /// The file.
        path: PathBuf,
        /// Why the content cannot be read, as a clause.
        why: String,
    },
    /// Another user could have written the file.
    #[error(
        "{path}: not replaced: {why}. Remove the file, or allow the store to replace foreign files (replaceForeign)"
    )]
    Untrusted {
        /// The file, or a link that leads to it.
        path: PathBuf,
        /// Why the file is not trusted: owner or mode.
        #[source]
        why: Distrust,
    },
    /// A symbolic link has the name of a file to write. Its target would go on with the old pair.
    #[error(
        "{path}: not replaced: this is a symbolic link to {}. Use the path of its target, remove the link, or allow the \
         store to replace foreign files (replaceForeign)",
        printable(target)
    )]
    Link {
        /// The link.
        path: PathBuf,
        /// The target of the link.
        target: String,
    },
    /// Another program, such as kubelet for a volume, switches the link `..data` in this directory.
    #[error(
        "{path}: another program switches this link, to {}; use another directory, for this certificate alone",
        printable(target)
    )]
    Volume {
        /// The link `..data`.
        path: PathBuf,
        /// The target of the link.
        target: String,
    },
    /// Keys of this kind cannot be written in the chosen encoding, or the key stays elsewhere.
    #[error("{path}: a key of the kind {algorithm} cannot be written in the chosen encoding; use PKCS#8")]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The kind of the key.
        algorithm: KeyAlgorithm,
    },
}

impl FileStoreError {
    /// True if a file or link of another program is in the way, which stays until a person removes it, or
    /// [`replaces_foreign`](crate::FileOptions::replaces_foreign) is set.
    pub const fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Unrecognized { .. } | Self::Untrusted { .. } | Self::Link { .. })
    }

    /// Puts the path of a bad layout below this directory.
    pub(crate) fn below(self, directory: &Path) -> Self {
        match self {
            Self::Layout { path, why } => Self::Layout { path: directory.join(path), why },
            other => other,
        }
    }

    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { what, path: path.into(), source }
    }

    /// Makes the error for a file that could not be read.
    pub(super) fn read(path: impl Into<PathBuf>, source: io::Error) -> Self {
        match source.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(why) => Self::Untrusted { path: path.into(), why: *why },
            None if source.kind() == io::ErrorKind::InvalidData => {
                Self::Unrecognized { path: path.into(), why: source.to_string() }
            }
            None => Self::io("read", path, source),
        }
    }
}
