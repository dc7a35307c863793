//! Switches all files of a directory at once, as kubelet's `AtomicWriter` does for volumes: each file is a link through
//! `..data`, and `..data` is a link to the directory with the files.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;

use perennial::UnixTime;
use perennial::store::{FileOp, Kind, Listing};

use super::layout::{Files, PublicFile};
use super::replace::{clear, failed, temporary};
use super::{Bytes, FileStoreError};
use crate::directory::volume::Folder;

/// The link to the directory with the current files.
pub(super) const DATA: &str = "..data";
/// The beginning of the links of files that switch together.
pub(super) const SWITCHED: &str = "..data/";
/// The beginning of the names of directories with files. Directories of kubelet have no such names.
const FOLDER: &str = "..perennial-";

impl Files {
    /// The target of `..data`; `None` if there is no such link.
    ///
    /// # Errors
    /// [`FileStoreError::Volume`] if another program has made the link.
    pub(super) fn data(&self, folder: &dyn Folder) -> Result<Option<String>, FileStoreError> {
        let path = self.directories[0].1.join(DATA);
        let target = folder.link_target(DATA).map_err(failed("read", &path))?;
        match target {
            Some(target) if !target.starts_with(FOLDER) || target.contains('/') => {
                Err(FileStoreError::Volume { path, target })
            }
            target => Ok(target),
        }
    }

    /// Writes the files to a new directory, and switches `..data` to it. A file whose contents are `None` is copied from
    /// the old directory. If it is not in there, or another file has its name, that name stays as it is.
    pub(super) fn switch(
        &self,
        contents: &[Option<Bytes>],
        replaces_links: bool,
        now: UnixTime,
    ) -> Result<(), FileStoreError> {
        let path = &self.directories[0].1;
        let folder = self.open(0)?;
        let old = self.data(&*folder)?;
        for file in &self.all {
            self.check_obstacle(&*folder, file, replaces_links)?;
        }
        let listing = folder.list().map_err(failed("list", path))?;
        let new = unused(&listing, old.as_deref(), now);
        let written = self.new_contents(&*folder, &listing, contents, old.as_deref())?;
        let filled = self.fill(&*folder, &new, &written);
        let switched =
            filled.and_then(|()| switch_link(&*folder, &listing, &new).map_err(failed("switch ..data in", path)));
        if let Err(error) = switched {
            // The first error is the one to report. A directory in use is not empty of names that lead to it.
            if !self.data(&*folder).is_ok_and(|target| target.as_deref() == Some(new.as_str())) {
                let _ = empty(&*folder, &new);
            }
            return Err(error);
        }
        self.link_files(&*folder, path, &written)?;
        // The new files are durable and in use: a failure to remove old ones does not fail the write.
        let swept =
            folder.list().map_err(failed("list", path)).and_then(|now| self.sweep_folders(&*folder, &now, path));
        if let Err(error) = swept {
            tracing::warn!("cannot remove old files: {error}; the next write tries again");
        }
        Ok(())
    }

    /// The files of the new directory, with their contents.
    fn new_contents<'a>(
        &'a self,
        folder: &dyn Folder,
        listing: &Listing,
        contents: &'a [Option<Bytes>],
        old: Option<&str>,
    ) -> Result<Vec<(&'a PublicFile, Cow<'a, Bytes>)>, FileStoreError> {
        let mut all = Vec::new();
        for (file, contents) in self.all.iter().zip(contents) {
            let contents = match (contents, old) {
                (Some(contents), _) => Some(Cow::Borrowed(contents)),
                (None, Some(old)) => self.kept(folder, listing, file, old)?.map(Cow::Owned),
                (None, None) => None,
            };
            all.extend(contents.map(|contents| (file, contents)));
        }
        Ok(all)
    }

    /// The contents of a file in the directory `old`; `None` if there are none, or another file has the file's name.
    fn kept(
        &self,
        folder: &dyn Folder,
        listing: &Listing,
        file: &PublicFile,
        old: &str,
    ) -> Result<Option<Bytes>, FileStoreError> {
        let path = self.path(file);
        let target = folder.link_target(&file.name).map_err(failed("read", &path))?;
        if target != Some(link_of(file)) && listing.0.iter().any(|entry| entry.name == file.name) {
            return Ok(None);
        }
        match folder.folder(old).and_then(|old| old.read(&file.name)) {
            Ok(found) => Ok(found.map(|found| found.bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // The link would lead nowhere after a switch without the file.
            Err(error) => Err(FileStoreError::read(path, error)),
        }
    }

    /// Creates the directory `new` with these files, durably.
    fn fill(
        &self,
        folder: &dyn Folder,
        new: &str,
        written: &[(&PublicFile, Cow<'_, Bytes>)],
    ) -> Result<(), FileStoreError> {
        let path = self.directories[0].1.join(new);
        folder.create_folder(new).map_err(failed("create", &path))?;
        let inner = folder.folder(new).map_err(failed("open", &path))?;
        for (file, contents) in written {
            inner.create_for(&file.name, contents, &file.access).map_err(failed("write", &path.join(&file.name)))?;
        }
        inner.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", &path))
    }

    /// Makes each of these files, which are behind `..data`, a link through it.
    fn link_files(
        &self,
        folder: &dyn Folder,
        path: &Path,
        written: &[(&PublicFile, Cow<'_, Bytes>)],
    ) -> Result<(), FileStoreError> {
        let listing = folder.list().map_err(failed("list", path))?;
        let mut new_links = Vec::new();
        for (file, _) in written {
            let target = link_of(file);
            let path = path.join(&file.name);
            if folder.link_target(&file.name).map_err(failed("read", &path))?.as_deref() == Some(&target) {
                continue;
            }
            let new = temporary(&file.name);
            let made = clear(folder, &listing, &new)
                .and_then(|()| folder.execute(&FileOp::Symlink { target, name: new.clone() }, &[]));
            made.map_err(failed("link", &path))?;
            new_links.push((new, &file.name));
        }
        if new_links.is_empty() {
            return Ok(());
        }
        // Some file systems leave a link without its target if the power fails before this sync.
        folder.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", path))?;
        for (from, name) in new_links {
            let rename = FileOp::Rename { from, to: name.clone() };
            folder.execute(&rename, &[]).map_err(failed("link", &path.join(name)))?;
        }
        folder.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", path))
    }

    /// Removes directories with files that are not in use.
    pub(super) fn sweep_folders(
        &self,
        folder: &dyn Folder,
        listing: &Listing,
        path: &Path,
    ) -> Result<(), FileStoreError> {
        let in_use = self.data(folder)?;
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

/// The target of the link that a file is.
pub(super) fn link_of(file: &PublicFile) -> String {
    format!("{SWITCHED}{}", file.name)
}

/// Switches `..data` to the directory `new`, whose contents are durable.
fn switch_link(folder: &dyn Folder, listing: &Listing, new: &str) -> std::io::Result<()> {
    let link = temporary(DATA);
    clear(folder, listing, &link)?;
    folder.execute(&FileOp::Symlink { target: new.into(), name: link.clone() }, &[])?;
    // The names of directory and link are durable before the switch: a crash that keeps the link keeps the directory.
    folder.execute(&FileOp::SyncDir, &[])?;
    folder.execute(&FileOp::Rename { from: link, to: DATA.into() }, &[])?;
    folder.execute(&FileOp::SyncDir, &[])
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
