//! The store of a member: kubelet's layout, or files of other programs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial::UnixTime;
use perennial_rotation::{Directory, FileStore, FileStoreError, Store, StoreError};

use super::conflicts::written_by;
use super::member::{Location, Member};
use crate::failure::Failure;
use crate::hook_debt;

/// The store of a member. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum MemberStore {
    Directory(Arc<Directory>),
    Files(Arc<FileStore>),
}

impl Member {
    /// Makes the store of the member. Changes nothing on disk; no directory need exist.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the files cannot be used.
    pub(crate) fn open_store(&self) -> Result<MemberStore, Failure> {
        match &self.location {
            Location::Directory { path, prefix } => {
                let directory = Directory::at(path, prefix).map_err(Failure::usage)?;
                Ok(MemberStore::Directory(Arc::new(directory)))
            }
            Location::Files(layout, options) => {
                let store = FileStore::new(layout.clone(), options.clone()).map_err(Failure::usage)?;
                Ok(MemberStore::Files(Arc::new(store)))
            }
        }
    }

    /// Path of the hook record: the file that states for which certificate the hook has run.
    pub(crate) fn hook_record(&self, store: &MemberStore) -> PathBuf {
        let prefix = match &self.location {
            // As without a list, so that the record stays valid.
            Location::Directory { prefix, .. } => prefix,
            Location::Files(..) => &self.name,
        };
        hook_debt::record_path(store.private_directory(), prefix)
    }

    /// True if only one of the two members can run at a time: they have the same name, or write a file in common.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        let written = written_by(self);
        self.name == other.name || written_by(other).iter().any(|file| written.contains(file))
    }

    /// True if the store of `other` has the files of this member's store, and writes them in the same way.
    pub(crate) fn is_stored_like(&self, other: &Self) -> bool {
        self.location == other.location
    }
}

impl MemberStore {
    /// The store for a rotation.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Directory(directory) => directory.clone(),
            Self::Files(files) => files.clone(),
        }
    }

    /// Path of the file with the current certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.current(),
            Self::Files(files) => files.certificate(),
        }
    }

    /// Path of the directory with the private files of the member, such as the hook record. The store creates it with
    /// mode 0700, unless it is a directory in kubelet's layout that exists.
    pub(crate) fn private_directory(&self) -> &Path {
        match self {
            Self::Directory(directory) => directory.path(),
            Self::Files(files) => files.private_directory(),
        }
    }

    /// The reason why a file of another program is in the way of a pair for `common_name`; `None` if no file is, or if
    /// this cannot be checked.
    pub(crate) fn obstacle(&self, common_name: &str, now: UnixTime) -> Option<String> {
        match self {
            Self::Directory(_) => None,
            Self::Files(files) => {
                let error = files.check_files(common_name, now).err().filter(FileStoreError::is_foreign)?;
                Some(error.to_string())
            }
        }
    }

    /// True if the current certificate is durable, but could not be written to the files that other programs read. Never
    /// waits for a disk.
    pub(crate) fn is_unpublished(&self) -> bool {
        matches!(self, Self::Files(files) if files.unpublished().is_some())
    }

    /// Creates missing directories and takes the lock of the files.
    ///
    /// # Errors
    /// [`Failure::Usage`] if another process holds the lock, or the directories cannot be used.
    pub(crate) fn claim(&self) -> Result<(), StoreError> {
        match self {
            Self::Directory(directory) => Ok(directory.claim()?),
            Self::Files(files) => Ok(files.claim()?),
        }
    }
}
