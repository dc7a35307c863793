//! The operations a credential directory is made of, whatever it lies on.

use std::fmt::Debug;
use std::io::{self, ErrorKind};

use perennial::store::{FileOp, Listing};
use zeroize::Zeroizing;

use super::error::DirectoryError;

/// Something that holds files by name.
pub trait Volume: Debug + Send + Sync {
    /// The folder as it is at this moment: what is done together is done in one place.
    ///
    /// # Errors
    /// If it does not exist or must not be looked into.
    fn open(&self) -> io::Result<Box<dyn Folder + '_>>;
}

/// An open folder.
pub trait Folder {
    /// Makes sure that nobody else writes to it. Asked for before anything is changed; by default that is the caller's affair.
    ///
    /// # Errors
    /// [`DirectoryError::Owned`] if somebody else does, or why that cannot be known.
    fn hold(&self) -> Result<(), DirectoryError> {
        Ok(())
    }

    /// Everything in it.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Listing>;

    /// A file's contents; `None` if it, or what it links to, does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] if it is nothing that could ever be read: no regular file, a loop of links, or too
    /// large. Anything else may pass.
    fn read(&self, name: &str) -> io::Result<Option<Contents>>;

    /// Carries out one operation; `contents` is what [`FileOp::CreateNew`] writes.
    ///
    /// # Errors
    /// What the system says; then nothing was done.
    fn execute(&self, op: &FileOp, contents: &[u8]) -> io::Result<()>;
}

/// What a file holds.
#[derive(Debug)]
pub struct Contents {
    /// All of it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Others than its owner may read or write it.
    pub exposed: bool,
}

pub(super) fn is_for_good(error: &io::Error) -> bool {
    error.kind() == ErrorKind::InvalidData
}
