//! File system below a credential directory: the seam for simulations of a disk.
//!
//! Programs have no use for it: [`Directory::open`](crate::Directory::open) uses the real file system, and a store that is no
//! file system implements [`Store`](crate::Store). A simulation runs the code of [`Directory`](crate::Directory) on a disk that
//! loses power after any operation, is full, or holds half a file: see [`Directory::on`](crate::Directory::on).

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

/// Something that holds files by name.
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

    /// Gives up what [`Folder::hold`] has locked.
    fn release(&self) {}
}

/// An open folder.
pub trait Folder {
    /// Whether this process may write to it. Changes nothing.
    ///
    /// # Errors
    /// Why it may not; [`DirectoryError::Owned`] if another process holds it.
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

    /// Everything in it.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Listing>;

    /// A file's contents; `None` if it, or what it links to, does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] if it is nothing that could ever be read: no regular file, or too large.
    /// [`ErrorKind::NotFound`] if it is a link that cannot lead anywhere, such as a loop. An error that wraps
    /// [`Distrust`] if another user could have written it. Anything else may pass.
    fn read(&self, name: &str) -> io::Result<Option<Contents>>;

    /// Carries out one operation; `contents` is what [`FileOp::CreateNew`] writes.
    ///
    /// # Errors
    /// What the system says; then nothing was done.
    fn execute(&self, op: &FileOp, contents: &[u8]) -> io::Result<()>;

    /// A stamp that changes when another program writes to this file, links followed. `None` if no other program can.
    fn stamp(&self, name: &str) -> Option<Stamp> {
        let _ = name;
        None
    }

    /// True if users other than root and its owner can create and replace files in it.
    fn is_shared(&self) -> bool {
        false
    }

    /// True if a file system is mounted on this very name: then it can be written to, and never replaced.
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
    /// In bytes.
    pub size: u64,
    /// When the contents were last changed.
    pub modified: Option<SystemTime>,
}

/// What a file holds.
#[derive(Debug)]
pub struct Contents {
    /// All of it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Others than its owner may read it.
    pub exposed: bool,
}
