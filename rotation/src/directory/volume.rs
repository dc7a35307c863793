//! File system below a credential directory: the seam for simulations of a disk.
//!
//! Programs have no use for it: [`Directory::open`](crate::Directory::open) uses the real file system, and a store that
//! is no file system implements [`Store`](crate::Store). A simulation runs the code of [`Directory`](crate::Directory)
//! on a disk that loses power after any operation, is full, or holds half a file: see
//! [`Directory::on`](crate::Directory::on).

use std::fmt::Debug;
use std::io;
#[cfg(doc)]
use std::io::ErrorKind;
use std::time::SystemTime;

use perennial::store::{FileOp, Listing};
use zeroize::Zeroizing;

use super::error::DirectoryError;
#[cfg(doc)]
use super::error::Distrust;

/// A place for the files of one credential directory: a directory on disk, or a simulation.
pub trait Volume: Debug + Send + Sync {
    /// Opens the folder. Operations on one open folder act on one directory, even if its name is moved meanwhile.
    ///
    /// # Errors
    /// The folder does not exist or cannot be read.
    fn open(&self) -> io::Result<Box<dyn Folder + '_>>;

    /// Creates the folder if it does not exist. The default implementation does nothing.
    ///
    /// # Errors
    /// The error of the operating system.
    fn create(&self) -> io::Result<()> {
        Ok(())
    }

    /// Releases the lock that [`Folder::hold`] took. The default implementation does nothing.
    fn release(&self) {}
}

/// An open folder.
pub trait Folder {
    /// Succeeds if this process may write to the folder and could take its lock. Changes nothing.
    ///
    /// # Errors
    /// [`DirectoryError::Owned`] if another process holds the lock; otherwise why the folder cannot be written to.
    fn is_free(&self) -> Result<(), DirectoryError> {
        Ok(())
    }

    /// Locks the folder against every other writer. Called before anything is changed; the default implementation does
    /// nothing.
    ///
    /// # Errors
    /// [`DirectoryError::Owned`] if another process holds the lock; otherwise why the lock cannot be taken.
    fn hold(&self) -> Result<(), DirectoryError> {
        Ok(())
    }

    /// Lists all entries of the folder.
    ///
    /// # Errors
    /// The error of the operating system.
    fn list(&self) -> io::Result<Listing>;

    /// Reads a file, links followed; `None` if the file, or the target of the link, does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] if the file can never be read: no regular file, or too large. [`ErrorKind::NotFound`]
    /// if it is a link that cannot lead anywhere, such as a loop. An error that wraps [`Distrust`] if another user
    /// could have written the file. Any other error counts as transient.
    fn read(&self, name: &str) -> io::Result<Option<Contents>>;

    /// Carries out one operation; `contents` is the data for [`FileOp::CreateNew`].
    ///
    /// # Errors
    /// The error of the operating system. The folder is unchanged.
    fn execute(&self, op: &FileOp, contents: &[u8]) -> io::Result<()>;

    /// A stamp that changes when another program writes to this file, links followed. `None` if the file does not exist
    /// or no other program can write to it, as in a simulation.
    fn stamp(&self, name: &str) -> Option<Stamp> {
        let _ = name;
        None
    }

    /// True if users other than root and its owner can create and replace files in the folder.
    fn is_shared(&self) -> bool {
        false
    }

    /// True if a file system is mounted on this file, which then can be written to but not replaced.
    fn is_mount_point(&self, name: &str) -> bool {
        let _ = name;
        false
    }
}

/// Identifies one state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the contents.
    pub modified: Option<SystemTime>,
}

/// Contents of a file.
#[derive(Debug)]
pub struct Contents {
    /// All bytes of the file. Wiped on drop.
    pub bytes: Zeroizing<Vec<u8>>,
    /// True if users other than the owner can read or write the file.
    pub exposed: bool,
}
