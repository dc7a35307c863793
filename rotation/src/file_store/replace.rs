//! Replaces public files one by one, and removes what a crash has left.

use std::path::Path;

use perennial::store::{FileOp, Kind, Listing};

use super::layout::{Files, PublicFile};
use super::switch::SWITCHED;
use super::{Bytes, FileStoreError};
use crate::directory::volume::Folder;

/// The end of the names of temporary files and links. Their names begin with a dot.
const NEW: &str = ".perennial-new";

/// The temporary name of a file or link.
pub(super) fn temporary(name: &str) -> String {
    format!(".{name}{NEW}")
}

/// True if `name` is the temporary name of a file or link.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(NEW)
}

impl Files {
    /// Replaces the files by their new contents, in order. A file whose contents are `None` stays as it is.
    ///
    /// # Errors
    /// Unless a rename or the sync of a directory failed, all files are as they were.
    pub(super) fn replace(&self, contents: &[Option<Bytes>], replaces_links: bool) -> Result<(), FileStoreError> {
        let folders = (0..self.directories.len()).map(|index| self.open(index)).collect::<Result<Vec<_>, _>>()?;
        for file in &self.all {
            self.check_obstacle(&*folders[file.directory], file, replaces_links)?;
        }
        let new = self.all.iter().zip(contents).filter_map(|(file, contents)| Some((file, contents.as_ref()?)));
        let new: Vec<(&PublicFile, &Bytes)> = new.collect();
        // All that needs space or a working disk before the first rename, so that a full disk leaves no half of a pair.
        let mut written =
            new.iter().try_for_each(|(file, contents)| self.write_temporary(&*folders[file.directory], file, contents));
        if written.is_ok() {
            written = new.iter().try_for_each(|(file, _)| {
                let rename = FileOp::Rename { from: temporary(&file.name), to: file.name.clone() };
                let renamed = folders[file.directory].execute(&rename, &[]);
                renamed.map_err(|error| FileStoreError::io("replace", self.path(file), error))
            });
        }
        if let Err(error) = written {
            for (file, _) in &new {
                // Absent after its rename, or if it was not written. The first error is the one to report.
                let _ = folders[file.directory].execute(&FileOp::Remove { name: temporary(&file.name) }, &[]);
            }
            return Err(error);
        }
        folders
            .iter()
            .zip(&self.directories)
            .try_for_each(|(folder, (_, path))| folder.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", path)))
    }

    /// Writes the new contents of a file under its temporary name, durably.
    fn write_temporary(&self, folder: &dyn Folder, file: &PublicFile, contents: &[u8]) -> Result<(), FileStoreError> {
        let path = self.path(file);
        let new = temporary(&file.name);
        let cleared = folder.list().and_then(|listing| clear(folder, &listing, &new));
        cleared.map_err(|error| FileStoreError::io("remove the temporary file of", &path, error))?;
        folder.create_for(&new, contents, &file.access).map_err(|error| FileStoreError::io("write", &path, error))
    }

    /// Fails if a symbolic link, a directory or a device has the name of a file to write.
    pub(super) fn check_obstacle(
        &self,
        folder: &dyn Folder,
        file: &PublicFile,
        replaces_links: bool,
    ) -> Result<(), FileStoreError> {
        let path = self.path(file);
        let listing = folder.list().map_err(|error| FileStoreError::io("list the directory of", &path, error))?;
        let found = listing.0.iter().find(|entry| entry.name == file.name).map(|entry| entry.kind);
        match found {
            Some(Kind::Other) => {
                let why = "a directory, pipe or device has this name; remove it, or use another path";
                Err(FileStoreError::Layout { path, why })
            }
            Some(Kind::Link) if !replaces_links => {
                let target =
                    folder.link_target(&file.name).map_err(|error| FileStoreError::io("read", &path, error))?;
                let target = target.unwrap_or_default();
                // Left by a store that switched this file: its pair is ours.
                match target.starts_with(SWITCHED) {
                    true => Ok(()),
                    false => Err(FileStoreError::Link { path, target }),
                }
            }
            Some(Kind::Link | Kind::File) | None => Ok(()),
        }
    }

    /// Removes the temporary files of writes that a crash has interrupted.
    pub(super) fn sweep(&self) -> Result<(), FileStoreError> {
        for (index, (_, path)) in self.directories.iter().enumerate() {
            let Some(folder) = self.existing(index)? else { continue };
            let failed = |error| FileStoreError::io("clean up", path, error);
            let listing = folder.list().map_err(failed)?;
            let mine = self.all.iter().filter(|file| file.directory == index);
            for file in mine {
                clear(&*folder, &listing, &temporary(&file.name)).map_err(failed)?;
            }
            if self.is_linked {
                self.switched(&*folder).sweep(&listing)?;
            }
        }
        Ok(())
    }
}

/// Removes the temporary file or link `name`, if the listing has it.
pub(super) fn clear(folder: &dyn Folder, listing: &Listing, name: &str) -> std::io::Result<()> {
    match listing.0.iter().any(|entry| entry.name == name) {
        true => folder.execute(&FileOp::Remove { name: name.into() }, &[]),
        false => Ok(()),
    }
}

/// The error of an operation on the directory itself.
pub(crate) fn failed(what: &'static str, path: &Path) -> impl Fn(std::io::Error) -> FileStoreError {
    let path = path.to_owned();
    move |error| FileStoreError::io(what, &path, error)
}
