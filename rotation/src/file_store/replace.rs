//! Replaces public files one by one, and removes what a crash has left.

use std::path::Path;

use perennial::store::{FileOp, Kind, Listing};

use super::layout::{Files, PublicFile};
use super::linked::SWITCHED;
use super::{Bytes, FileStoreError};
use crate::directory::volume::Folder;

/// The end of the names of temporary files and links. Their names begin with a dot.
const NEW: &str = ".perennial-new";

/// The temporary name of a file or link.
pub(super) fn temporary(name: &str) -> String {
    format!(".{name}{NEW}")
}

impl Files {
    /// Replaces the files by their new contents, in order. A file whose contents are `None` stays as it is.
    pub(super) fn replace(&self, contents: &[Option<Bytes>], replaces_links: bool) -> Result<(), FileStoreError> {
        // All obstacles first, so that an error leaves no half of a pair.
        for file in &self.all {
            let folder = self.open(file.directory)?;
            self.check_obstacle(&*folder, file, replaces_links)?;
        }
        for (file, contents) in self.all.iter().zip(contents) {
            let Some(contents) = contents else { continue };
            let folder = self.open(file.directory)?;
            self.replace_one(&*folder, file, contents)?;
        }
        Ok(())
    }

    fn replace_one(&self, folder: &dyn Folder, file: &PublicFile, contents: &[u8]) -> Result<(), FileStoreError> {
        let path = self.path(file);
        let new = temporary(&file.name);
        let failed = |what| {
            let path = path.clone();
            move |error| FileStoreError::io(what, path, error)
        };
        let listing = folder.list().map_err(failed("list the directory of"))?;
        clear(folder, &listing, &new).map_err(failed("remove the temporary file of"))?;
        let step = |op: FileOp| folder.execute(&op, &[]);
        folder.create_for(&new, contents, &file.access).map_err(failed("write"))?;
        let placed = step(FileOp::Rename { from: new.clone(), to: file.name.clone() }).map_err(failed("replace"));
        if placed.is_err() {
            // The first error is the one to report.
            let _ = step(FileOp::Remove { name: new });
        }
        placed.and_then(|()| step(FileOp::SyncDir).map_err(failed("sync the directory of")))
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
                self.sweep_folders(&*folder, &listing, path)?;
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
pub(super) fn failed(what: &'static str, path: &Path) -> impl Fn(std::io::Error) -> FileStoreError {
    let path = path.to_owned();
    move |error| FileStoreError::io(what, &path, error)
}
