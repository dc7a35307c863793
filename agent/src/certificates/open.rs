//! The store of a member: kubelet's layout, or files of other programs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use perennial::UnixTime;
use perennial_rotation::{
    Directory, FileStore, FileStoreError, ProjectedVolume, Restored, Store, StoreError, Unpublished, VolumeStore,
};

use super::conflicts::written_by;
use super::member::{Location, Member};
use crate::failure::Failure;
use crate::hook_debt;

/// The store of a member. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum MemberStore {
    Directory(Arc<Directory>),
    Files(Arc<FileStore>),
    /// A store in a volume, and the file of the volume with the certificate.
    Volume(Arc<VolumeStore>, PathBuf),
}

/// The volumes of a process: stores of one volume write to it one after the other. Clones share the volumes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes(Arc<Mutex<Vec<OwnedVolume>>>);

/// A volume in use, and the owner of its files.
type OwnedVolume = (Weak<ProjectedVolume>, Option<u32>);

impl Volumes {
    /// The volume at `path` whose files may belong to `owner`. A list gives a volume one owner. During a reload that changes
    /// the owner, there may be a second volume at this path for a moment, with the former owner.
    pub(crate) fn of(&self, path: &Path, owner: Option<u32>) -> Arc<ProjectedVolume> {
        let mut volumes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.retain(|(volume, _)| volume.strong_count() > 0);
        let mut known = volumes.iter().filter(|(_, other)| *other == owner).filter_map(|(volume, _)| volume.upgrade());
        known.find(|volume| volume.path() == path).unwrap_or_else(|| {
            let volume = Arc::new(ProjectedVolume::new(path, owner));
            volumes.push((Arc::downgrade(&volume), owner));
            volume
        })
    }
}

impl Member {
    /// Makes the store of the member. Stores with the same `volumes` share them. Changes nothing on disk; no directory
    /// need exist.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the files cannot be used.
    pub(crate) fn open_store(&self, volumes: &Volumes) -> Result<MemberStore, Failure> {
        match &self.location {
            Location::Directory { path, prefix } => {
                let directory = Directory::at(path, prefix).map_err(Failure::usage)?;
                Ok(MemberStore::Directory(Arc::new(directory)))
            }
            Location::Files(layout, options) => {
                let store = FileStore::new(layout.clone(), options.clone()).map_err(Failure::usage)?;
                Ok(MemberStore::Files(Arc::new(store)))
            }
            Location::Volume(files) => {
                let private = Directory::private(&files.private, &self.name).map_err(Failure::usage)?;
                let store = VolumeStore::new(
                    private,
                    volumes.of(&files.path, files.access.owner),
                    files.projection.clone(),
                    files.access,
                );
                let store = store.map_err(Failure::usage)?;
                Ok(MemberStore::Volume(Arc::new(store), self.files().swap_remove(0)))
            }
        }
    }

    /// Path of the hook record: the file that states for which certificate the hook has run.
    pub(crate) fn hook_record(&self, store: &MemberStore) -> PathBuf {
        let prefix = match &self.location {
            // As without a list, so that the record stays valid.
            Location::Directory { prefix, .. } => prefix,
            Location::Files(..) | Location::Volume(_) => &self.name,
        };
        hook_debt::record_path(store.private_directory(), prefix)
    }

    /// True if only one of the two members can run at a time: they have the same name, write a file in common, or give a
    /// volume different owners.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        let written = written_by(self);
        self.name == other.name
            || written_by(other).iter().any(|file| written.contains(file))
            || matches!((&self.location, &other.location), (Location::Volume(one), Location::Volume(two))
                if one.path == two.path && one.access.owner != two.access.owner)
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
            Self::Volume(volume, _) => volume.clone(),
        }
    }

    /// Path of the file with the current certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.current(),
            Self::Files(files) => files.certificate(),
            Self::Volume(_, certificate) => certificate.clone(),
        }
    }

    /// Path of the directory with the private files of the member, such as the hook record. The store creates it with
    /// mode 0700, unless it is a directory in kubelet's layout that exists.
    pub(crate) fn private_directory(&self) -> &Path {
        match self {
            Self::Directory(directory) => directory.path(),
            Self::Files(files) => files.private_directory(),
            Self::Volume(volume, _) => volume.private_directory(),
        }
    }

    /// The reason why a file of another program is in the way of a pair for `common_name`; `None` if no file is, or if
    /// this cannot be checked.
    pub(crate) fn obstacle(&self, common_name: &str, now: UnixTime) -> Option<String> {
        match self {
            Self::Directory(_) | Self::Volume(..) => None,
            Self::Files(files) => {
                let error = files.check_files(common_name, now).err().filter(FileStoreError::is_foreign)?;
                Some(error.to_string())
            }
        }
    }

    /// True if the current certificate is durable, but could not be written to the files that other programs read. Never
    /// waits for a disk.
    pub(crate) fn is_unpublished(&self) -> bool {
        self.unpublished().is_some()
    }

    /// Creates missing directories and takes the lock of the files.
    ///
    /// # Errors
    /// [`Failure::Usage`] if another process holds the lock, or the directories cannot be used.
    pub(crate) fn claim(&self) -> Result<(), StoreError> {
        match self {
            Self::Directory(directory) => Ok(directory.claim()?),
            Self::Files(files) => Ok(files.claim()?),
            Self::Volume(volume, _) => Ok(volume.claim()?),
        }
    }

    /// The failure to write a durable certificate to the files that other programs read; `None` if those have it. Never
    /// waits for a disk.
    pub(crate) fn unpublished(&self) -> Option<Unpublished> {
        match self {
            Self::Directory(_) => None,
            Self::Files(files) => files.unpublished(),
            Self::Volume(volume, _) => volume.unpublished(),
        }
    }

    /// Writes the files that other programs read again, if they are not those of the certificate. A directory has no files
    /// beside the store's own.
    ///
    /// # Errors
    /// The files cannot be compared or written.
    pub(crate) fn restore(&self, now: UnixTime) -> Result<Restored, FileStoreError> {
        match self {
            Self::Directory(_) => Ok(Restored::Unchanged),
            Self::Files(files) => files.restore(now),
            Self::Volume(volume, _) => volume.restore(now),
        }
    }
}
