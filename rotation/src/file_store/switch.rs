//! [`Switch`]: switches all files of a directory at once, as kubelet's `AtomicWriter` does for volumes: each file is a
//! link through `..data`, and `..data` is a link to the directory with the files.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use perennial::UnixTime;
use perennial::store::{FileOp, Kind, Listing};

use super::replace::{clear, failed, is_temporary, temporary};
use super::{Bytes, FileStoreError};
use crate::directory::volume::{FileAccess, Folder};

/// The link to the directory with the current files.
pub(crate) const DATA: &str = "..data";
/// The beginning of the links of files that switch together.
pub(super) const SWITCHED: &str = "..data/";
/// The greatest number of names in the path of a file.
pub(crate) const MAX_DEPTH: usize = 32;

/// A directory whose files switch together.
pub(crate) struct Switch<'a> {
    pub(crate) folder: &'a dyn Folder,
    /// Path of the directory, for messages.
    pub(crate) path: &'a Path,
    pub(crate) naming: Naming,
}

/// The names of the directories with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// `..perennial-2026-01-02-15-04-05-678`. Directories of kubelet have no such names.
    Perennial,
    /// `..2026_01_02_15_04_05.678000001`, as kubelet's.
    Kubelet,
}

/// A file of the new directory behind `..data`. The path is relative to that directory.
pub(crate) struct SwitchedFile<'a> {
    pub(crate) path: &'a str,
    pub(crate) source: FileSource<'a>,
}

/// The source of a file of the new directory.
pub(crate) enum FileSource<'a> {
    /// These contents.
    New { contents: Cow<'a, Bytes>, access: FileAccess },
    /// The file with the same path in the old directory, as it is.
    Old,
}

impl Naming {
    /// True if `name` is the name of a directory with files.
    fn owns(self, name: &str) -> bool {
        match self {
            Self::Perennial => name.starts_with("..perennial-") && !name.contains('/'),
            Self::Kubelet => {
                let is_of_time = |byte: u8| byte.is_ascii_digit() || byte == b'_' || byte == b'.';
                // The shortest name has no random part.
                let shortest = "..2026_01_02_15_04_05.".len();
                name.starts_with("..") && name.len() >= shortest && name.bytes().all(is_of_time)
            }
        }
    }

    /// The beginning of the names of directories that are made at `now`.
    fn time(self, now: UnixTime) -> String {
        let (year, month, day, hour, minute, second, milli) = now.civil();
        match self {
            Self::Perennial => {
                format!("..perennial-{year:04}-{month:02}-{day:02}-{hour:02}-{minute:02}-{second:02}-{milli:03}")
            }
            Self::Kubelet => format!("..{year:04}_{month:02}_{day:02}_{hour:02}_{minute:02}_{second:02}.{milli:03}"),
        }
    }

    /// The name of the directory with this number, counted from 1, among those that are made at one time.
    fn numbered(self, time: &str, number: u32) -> String {
        match self {
            Self::Perennial if number == 1 => time.to_owned(),
            Self::Perennial => format!("{time}-{number}"),
            Self::Kubelet => format!("{time}{number:06}"),
        }
    }

    /// A name for a new directory: one that no entry has, with a higher number than that of `old` if both have the same
    /// time. If the directory before `old` had the new name, a reader that compares names could miss the switch.
    fn unused(self, listing: &Listing, old: Option<&str>, now: UnixTime) -> String {
        let time = self.time(now);
        let count = old.and_then(|old| old.strip_prefix(time.as_str()));
        let count = count.map_or(0, |count| count.trim_start_matches('-').parse::<u32>().unwrap_or(1));
        let names = (count.saturating_add(1)..).map(|number| self.numbered(&time, number));
        let is_free = |name: &String| listing.0.iter().all(|entry| entry.name != *name);
        names.into_iter().find(is_free).unwrap_or(time)
    }

    /// The name that a new link has before it becomes `..data`.
    fn new_data(self) -> String {
        match self {
            Self::Perennial => temporary(DATA),
            Self::Kubelet => "..data_tmp".into(),
        }
    }
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
            Some(target) if !self.naming.owns(&target) => Err(FileStoreError::Volume { path, target }),
            target => Ok(target),
        }
    }

    /// Writes the files to a new directory, switches `..data` from the directory `old` to the new directory, and makes
    /// each file, or the directory that it is in, a link through `..data`.
    pub(crate) fn switch(
        &self,
        listing: &Listing,
        old: Option<&str>,
        files: &[SwitchedFile<'_>],
        now: UnixTime,
    ) -> Result<(), FileStoreError> {
        let Self { folder, path, .. } = *self;
        let new = self.naming.unused(listing, old, now);
        let switched = self
            .fill(&new, old, files)
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
    fn fill(&self, new: &str, old: Option<&str>, files: &[SwitchedFile<'_>]) -> Result<(), FileStoreError> {
        let path = self.path.join(new);
        self.folder.create_folder(new).map_err(failed("create", &path))?;
        let inner = self.folder.folder(new).map_err(failed("open", &path))?;
        // In their order, a directory comes before those in it.
        let folders: BTreeSet<&str> = files.iter().flat_map(|file| folders_of(file.path)).collect();
        for name in &folders {
            let created = within(&*inner, name, |parent, name| parent.create_folder(name));
            created.map_err(failed("create", &path.join(name)))?;
        }
        for SwitchedFile { path: name, source } in files {
            let written = match source {
                FileSource::New { contents, access } => {
                    within(&*inner, name, |parent, name| parent.create_for(name, contents, access))
                }
                FileSource::Old => {
                    let from = format!("{}/{name}", old.unwrap_or_default());
                    self.folder.link_across(&from, &format!("{new}/{name}"))
                }
            };
            written.map_err(failed("write", &path.join(name)))?;
        }
        for name in folders.iter().rev() {
            let synced = within(&*inner, name, |parent, name| parent.folder(name)?.execute(&FileOp::SyncDir, &[]));
            synced.map_err(failed("sync", &path.join(name)))?;
        }
        inner.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", &path))
    }

    /// Switches `..data` to the directory `new`, whose contents are durable.
    fn switch_data(&self, listing: &Listing, new: &str) -> io::Result<()> {
        let (folder, link) = (self.folder, self.naming.new_data());
        clear(folder, listing, &link)?;
        folder.execute(&FileOp::Symlink { target: new.into(), name: link.clone() }, &[])?;
        // The names of directory and link are durable before the switch: a crash that keeps the link keeps the directory.
        folder.execute(&FileOp::SyncDir, &[])?;
        folder.execute(&FileOp::Rename { from: link, to: DATA.into() }, &[])?;
        folder.execute(&FileOp::SyncDir, &[])
    }

    /// Makes the links through `..data` to these files. A file in a directory needs one link, to the outermost directory.
    fn link_files(&self, files: &[SwitchedFile<'_>]) -> Result<(), FileStoreError> {
        let Self { folder, path, .. } = *self;
        let listing = folder.list().map_err(failed("list", path))?;
        let mut new_links = Vec::new();
        let entries: BTreeSet<&str> = files.iter().map(|file| entry_of(file.path)).collect();
        for name in entries {
            let target = link_of(name);
            let path = path.join(name);
            if folder.link_target(name).map_err(failed("read", &path))?.as_deref() == Some(&target) {
                continue;
            }
            let new = temporary(name);
            let made = clear(folder, &listing, &new)
                .and_then(|()| folder.execute(&FileOp::Symlink { target, name: new.clone() }, &[]));
            made.map_err(failed("link", &path))?;
            new_links.push((new, name));
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

    /// Removes the links through `..data` that lead to none of these files, and temporary links that a crash has left.
    pub(crate) fn remove_stale_links(&self, files: &[SwitchedFile<'_>]) -> Result<(), FileStoreError> {
        let Self { folder, path, .. } = *self;
        let listing = folder.list().map_err(failed("list", path))?;
        let is_wanted = |name: &str| files.iter().any(|file| entry_of(file.path) == name);
        for entry in listing.0.into_iter().filter(|entry| entry.kind == Kind::Link && !is_wanted(&entry.name)) {
            let path = path.join(&entry.name);
            let target = folder.link_target(&entry.name).map_err(failed("read", &path))?;
            if is_temporary(&entry.name) || target == Some(link_of(&entry.name)) {
                folder.execute(&FileOp::Remove { name: entry.name }, &[]).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes directories with files that are not in use.
    pub(crate) fn sweep(&self, listing: &Listing) -> Result<(), FileStoreError> {
        let Self { folder, path, .. } = *self;
        let in_use = self.data()?;
        let link = self.naming.new_data();
        clear(folder, listing, &link).map_err(failed("remove", &path.join(&link)))?;
        let old = listing.0.iter().filter(|entry| {
            entry.kind == Kind::Other && self.naming.owns(&entry.name) && Some(&entry.name) != in_use.as_ref()
        });
        for entry in old {
            empty(folder, &entry.name).map_err(failed("remove", &path.join(&entry.name)))?;
        }
        Ok(())
    }
}

/// The target of the link `name`, which is a file or a directory with files.
pub(crate) fn link_of(name: &str) -> String {
    format!("{SWITCHED}{name}")
}

/// The first name of a path: the entry of the directory that leads to the file.
pub(crate) fn entry_of(path: &str) -> &str {
    path.split_once('/').map_or(path, |(first, _)| first)
}

/// The paths of the directories that a file is in, the outermost first.
pub(crate) fn folders_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Calls `act` with the folder that contains the entry at `path`, and the name of the entry. Opens one folder after the
/// other, so that no link is followed.
pub(crate) fn within<T>(
    folder: &dyn Folder,
    path: &str,
    act: impl FnOnce(&dyn Folder, &str) -> io::Result<T>,
) -> io::Result<T> {
    match path.split_once('/') {
        Some((first, rest)) => within(&*folder.folder(first)?, rest, act),
        None => act(folder, path),
    }
}

/// Removes a directory and all that is in it.
fn empty(folder: &dyn Folder, name: &str) -> io::Result<()> {
    remove_below(folder, name, MAX_DEPTH)
}

/// Removes a directory with at most `depth` directories inside of each other.
fn remove_below(folder: &dyn Folder, name: &str, depth: usize) -> io::Result<()> {
    {
        let inner = folder.folder(name)?;
        for entry in inner.list()?.0 {
            match entry.kind {
                // A listing has `.` and `..`, too.
                Kind::Other if matches!(&*entry.name, "." | "..") => {}
                // The error of an entry that is no directory, or too deep: the directory is not empty.
                Kind::Other if depth > 0 => remove_below(&*inner, &entry.name, depth - 1)?,
                Kind::Other => {}
                _ => inner.execute(&FileOp::Remove { name: entry.name }, &[])?,
            }
        }
    }
    folder.remove_folder(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kubelet_are_recognized_and_others_are_not() {
        let owned = |name: &str| (Naming::Perennial.owns(name), Naming::Kubelet.owns(name));
        for name in ["..2026_11_30_15_04_05.123456789", "..2026_11_30_15_04_05.678000001", "..2026_11_30_15_04_05.1"] {
            assert_eq!(owned(name), (false, true), "{name}");
        }
        assert_eq!(owned("..perennial-2026-11-30-15-04-05-678"), (true, false));
        for name in
            ["..data", "..data_tmp", "..", ".", "/etc", "../../etc", "..2026_11_30_15_04_05.1/..", "..perennial-/x"]
        {
            assert_eq!(owned(name), (false, false), "{name}");
        }
    }

    #[test]
    fn new_directory_has_another_name_than_those_before() {
        let now = UnixTime::from_secs(1_800_000_000);
        for naming in [Naming::Perennial, Naming::Kubelet] {
            let first = naming.unused(&Listing::default(), None, now);
            let second = naming.unused(&Listing::default(), Some(&first), now);
            let third = naming.unused(&Listing::default(), Some(&second), now);
            assert!(naming.owns(&first) && naming.owns(&second) && naming.owns(&third), "{first} {second} {third}");
            assert!(first < second && second < third, "{first} {second} {third}");
        }
    }
}
