//! The file system below a credential directory, as traits that a simulation of a disk can implement.
//!
//! Programs do not need this module: [`Directory::open`](crate::Directory::open) uses the real file system, and a store
//! that is no file system implements [`Store`](crate::Store). A simulation runs the code of
//! [`Directory`](crate::Directory) on a disk that loses power after any operation, is full, or holds half a file: see
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

/// The place of one credential directory: a path on disk, or a simulation. [`open`](Self::open) returns its files.
pub trait Volume: Debug + Send + Sync {
    /// Opens the folder. Operations on the returned folder act on the directory that was opened, even after another
    /// directory has taken its path.
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

/// An open folder: the file operations of a credential directory.
pub trait Folder {
    /// Succeeds if this process may write to the folder and could take its lock. Changes nothing.
    ///
    /// # Errors
    /// [`DirectoryError::Owned`] if another process holds the lock; otherwise why the folder cannot be written to.
    fn is_free(&self) -> Result<(), DirectoryError> {
        Ok(())
    }

    /// Locks the folder against every other writer. perennial calls this before it changes anything in the folder. The
    /// default implementation does nothing.
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

    /// Reads a file, following links; `None` if the file, or the target of a link, does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] if the file can never be read: it is no regular file, or too large.
    /// [`ErrorKind::NotFound`] if the name is a link that cannot lead anywhere, such as a loop. An error that wraps
    /// [`Distrust`] if another user could have written the file. Any other error counts as transient.
    fn read(&self, name: &str) -> io::Result<Option<Contents>>;

    /// Carries out one file operation; `contents` is the data of a [`FileOp::CreateNew`], and ignored otherwise.
    ///
    /// # Errors
    /// The error of the operating system. The folder is unchanged.
    fn execute(&self, op: &FileOp, contents: &[u8]) -> io::Result<()>;

    /// Creates a file as [`FileOp::CreateNew`] does, gives the file its owner, group and mode before its contents, and
    /// syncs the file. The default implementation ignores `access`.
    ///
    /// # Errors
    /// The error of the operating system. The folder is unchanged.
    fn create_for(&self, name: &str, contents: &[u8], access: &FileAccess) -> io::Result<()> {
        let _ = access;
        self.execute(&FileOp::CreateNew { name: name.into() }, contents)?;
        self.execute(&FileOp::Sync { name: name.into() }, &[]).inspect_err(|_| {
            // The first error is the one to report.
            let _ = self.execute(&FileOp::Remove { name: name.into() }, &[]);
        })
    }

    /// Gives a file a second name (a hard link). Both are paths relative to this folder. Fails if the new path exists.
    ///
    /// # Errors
    /// The error of the operating system. A folder on either path is a link, or another user could have made it.
    fn link_across(&self, file: &str, new: &str) -> io::Result<()> {
        self.execute(&FileOp::Link { file: file.into(), name: new.into() }, &[])
    }

    /// True if the file `name`, which is no link, has this access. A simulation has neither owners nor modes: true by
    /// default.
    fn has_access(&self, name: &str, access: &FileAccess) -> bool {
        let _ = (name, access);
        true
    }

    /// Opens a folder inside of this one, without following a link.
    ///
    /// # Errors
    /// The folder does not exist, or another user could have made it. [`ErrorKind::Unsupported`] by default.
    fn folder(&self, name: &str) -> io::Result<Box<dyn Folder + '_>> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Creates a folder inside of this one, which all users may read. Fails if the name exists.
    ///
    /// # Errors
    /// The error of the operating system. [`ErrorKind::Unsupported`] by default.
    fn create_folder(&self, name: &str) -> io::Result<()> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes an empty folder inside of this one.
    ///
    /// # Errors
    /// The error of the operating system. [`ErrorKind::Unsupported`] by default.
    fn remove_folder(&self, name: &str) -> io::Result<()> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The text of a symbolic link; `None` if the name does not exist or is no link, which is the default.
    ///
    /// # Errors
    /// The error of the operating system.
    fn link_target(&self, name: &str) -> io::Result<Option<String>> {
        let _ = name;
        Ok(None)
    }

    /// Returns a stamp that changes when another program writes to this file, following links. `None` if the file does
    /// not exist, or if no other program can write to the file, as in a simulation.
    fn stamp(&self, name: &str) -> Option<Stamp> {
        let _ = name;
        None
    }

    /// True if users other than root and the folder's owner can create and replace files in the folder.
    fn is_shared(&self) -> bool {
        false
    }

    /// True if a file system is mounted on this file, so that the file can be written to but not replaced.
    fn is_mount_point(&self, name: &str) -> bool {
        let _ = name;
        false
    }
}

/// A stamp of one state of a file. When another program writes to the file, its stamp changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the contents, if the file system records it.
    pub modified: Option<SystemTime>,
}

/// Owner, group and mode of a file that is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileAccess {
    /// The numeric user ID of the owner; `None`: the user of this process.
    pub owner: Option<u32>,
    /// The numeric group ID; `None`: the group of this process.
    pub group: Option<u32>,
    /// The permission bits, such as `0o640`.
    pub mode: u32,
}

/// The contents of a file, and whether other users can access the file.
#[derive(Debug)]
pub struct Contents {
    /// All bytes of the file. Wiped on drop.
    pub bytes: Zeroizing<Vec<u8>>,
    /// True if users other than the owner can read or write the file.
    pub exposed: bool,
}
