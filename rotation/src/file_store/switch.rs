//! [`Switch`]: switches all files of a directory at once, as kubelet's `AtomicWriter` does for volumes: each file is a
//! link through `..data`, and `..data` is a link to the directory with the files.

use std::borrow::Cow;
use std::path::Path;

use perennial::UnixTime;
use perennial::store::{FileOp, Kind, Listing};

use super::replace::{clear, failed, temporary};
use super::{Bytes, FileStoreError};
use crate::directory::volume::{FileAccess, Folder};

/// The link to the directory with the current files.
pub(crate) const DATA: &str = "..data";
/// The beginning of the links of files that switch together.
pub(super) const SWITCHED: &str = "..data/";
/// The beginning of the names of directories with files. Directories of kubelet have no such names.
const FOLDER: &str = "..perennial-";

/// A directory whose files switch together.
pub(crate) struct Switch<'a> {
    pub(crate) folder: &'a dyn Folder,
    /// Path of the directory, for messages.
    pub(crate) path: &'a Path,
}

/// A file of the new directory behind `..data`.
pub(crate) struct SwitchedFile<'a> {
    pub(crate) name: &'a str,
    pub(crate) contents: Cow<'a, Bytes>,
    pub(crate) access: FileAccess,
}

impl Switch<'_> {
    /// The target of `..data`; `None` if there is no such link.
    ///
    /// # Errors
    /// [`FileStoreError::Volume`] if another program has made the link.
    pub(crate) fn data(&self) -> Result<Option<String>, FileStoreError> {
        let path = self.path.join(DATA);
        let target = self.folder.link_target(DATA).map_err(failed("read", &path))?;
        match target {
            Some(target) if !target.starts_with(FOLDER) || target.contains('/') => {
                Err(FileStoreError::Volume { path, target })
            }
            target => Ok(target),
        }
    }

    /// Writes the files to a new directory, switches `..data` from the directory `old` to the new directory, and makes
    /// each file a link through `..data`.
    pub(crate) fn switch(
        &self,
        listing: &Listing,
        old: Option<&str>,
        files: &[SwitchedFile<'_>],
        now: UnixTime,
    ) -> Result<(), FileStoreError> {
        let Self { folder, path, .. } = *self;
        let new = unused(listing, old, now);
        let switched = self
            .fill(&new, files)
            .and_then(|()| self.switch_data(listing, &new).map_err(failed("switch ..data in", path)));
        if let Err(error) = switched {
            // The first error is the one to report. A directory in use is not empty of names that lead to it.
            if !self.data().is_ok_and(|target| target.as_deref() == Some(new.as_str())) {
                let _ = empty(folder, &new);
            }
            return Err(error);
        }
        self.link_files(files)?;
        // The new files are durable and in use: a failure to remove old ones does not fail the write.
        let swept = folder.list().map_err(failed("list", path)).and_then(|now| self.sweep(&now));
        if let Err(error) = swept {
            tracing::warn!("cannot remove old files: {error}; the next write tries again");
        }
        Ok(())
    }

    /// Creates the directory `new` with these files, durably.
    fn fill(&self, new: &str, files: &[SwitchedFile<'_>]) -> Result<(), FileStoreError> {
        let path = self.path.join(new);
        self.folder.create_folder(new).map_err(failed("create", &path))?;
        let inner = self.folder.folder(new).map_err(failed("open", &path))?;
        for SwitchedFile { name, contents, access } in files {
            inner.create_for(name, contents, access).map_err(failed("write", &path.join(name)))?;
        }
        inner.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", &path))
    }

    /// Switches `..data` to the directory `new`, whose contents are durable.
    fn switch_data(&self, listing: &Listing, new: &str) -> std::io::Result<()> {
        let (folder, link) = (self.folder, temporary(DATA));
        clear(folder, listing, &link)?;
        folder.execute(&FileOp::Symlink { target: new.into(), name: link.clone() }, &[])?;
        // The names of directory and link are durable before the switch: a crash that keeps the link keeps the directory.
        folder.execute(&FileOp::SyncDir, &[])?;
        folder.execute(&FileOp::Rename { from: link, to: DATA.into() }, &[])?;
        folder.execute(&FileOp::SyncDir, &[])
    }

    /// Makes each of these files, which are behind `..data`, a link through it.
    fn link_files(&self, files: &[SwitchedFile<'_>]) -> Result<(), FileStoreError> {
        let Self { folder, path, .. } = *self;
        let listing = folder.list().map_err(failed("list", path))?;
        let mut new_links = Vec::new();
        for SwitchedFile { name, .. } in files {
            let target = link_of(name);
            let path = path.join(name);
            if folder.link_target(name).map_err(failed("read", &path))?.as_deref() == Some(&target) {
                continue;
            }
            let new = temporary(name);
            let made = clear(folder, &listing, &new)
                .and_then(|()| folder.execute(&FileOp::Symlink { target, name: new.clone() }, &[]));
            made.map_err(failed("link", &path))?;
            new_links.push((new, *name));
        }
        if new_links.is_empty() {
            return Ok(());
        }
        // Some file systems leave a link without its target if the power fails before this sync.
        folder.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", path))?;
        for (from, name) in new_links {
            let rename = FileOp::Rename { from, to: name.into() };
            folder.execute(&rename, &[]).map_err(failed("link", &path.join(name)))?;
        }
        folder.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", path))
    }

    /// Removes directories with files that are not in use.
    pub(crate) fn sweep(&self, listing: &Listing) -> Result<(), FileStoreError> {
        let Self { folder, path, .. } = *self;
        let in_use = self.data()?;
        clear(folder, listing, &temporary(DATA)).map_err(failed("remove", &path.join(temporary(DATA))))?;
        let old = listing.0.iter().filter(|entry| {
            entry.kind == Kind::Other && entry.name.starts_with(FOLDER) && Some(&entry.name) != in_use.as_ref()
        });
        for entry in old {
            empty(folder, &entry.name).map_err(failed("remove", &path.join(&entry.name)))?;
        }
        Ok(())
    }
}

/// The target of the link that the file `name` is.
pub(super) fn link_of(name: &str) -> String {
    format!("{SWITCHED}{name}")
}

/// Removes a directory and the files in it. A directory inside of it makes this fail.
fn empty(folder: &dyn Folder, name: &str) -> std::io::Result<()> {
    {
        let inner = folder.folder(name)?;
        // A listing has `.` and `..`, too.
        for entry in inner.list()?.0.into_iter().filter(|entry| entry.kind != Kind::Other) {
            inner.execute(&FileOp::Remove { name: entry.name }, &[])?;
        }
    }
    folder.remove_folder(name)
}

/// A name for a new directory that no entry has. Never the name that the directory before `old` had: a reader would take
/// the switch for none.
fn unused(listing: &Listing, old: Option<&str>, now: UnixTime) -> String {
    let (year, month, day, hour, minute, second, milli) = now.civil();
    let time = format!("{FOLDER}{year:04}-{month:02}-{day:02}-{hour:02}-{minute:02}-{second:02}-{milli:03}");
    let count = old.and_then(|old| old.strip_prefix(time.as_str()));
    let count = count.map_or(0, |count| count.trim_start_matches('-').parse::<u32>().unwrap_or(1));
    let names =
        (count.saturating_add(1)..).map(|count| if count == 1 { time.clone() } else { format!("{time}-{count}") });
    let is_free = |name: &String| listing.0.iter().all(|entry| entry.name != *name);
    names.into_iter().find(is_free).unwrap_or(time)
}
