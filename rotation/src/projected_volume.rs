//! [`ProjectedVolume`]: a directory with the files of several sources, as kubelet's projected volumes.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use perennial::store::{FileOp, Kind, Listing};
use perennial::{UnixTime, printable};
use zeroize::Zeroizing;

use crate::FileStoreError;
use crate::directory::disk::Disk;
use crate::directory::volume::{FileAccess, Folder, Volume};
use crate::file_store::replace::failed;
use crate::file_store::switch::{
    DATA, FileSource, MAX_DEPTH, Naming, Switch, SwitchedFile, entry_of, folders_of, link_of, within,
};

/// The longest path of a file in a volume, and the longest name in a path, in bytes: those of kubelet.
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

/// A directory with files of several sources, in the layout of kubelet's projected volumes (`AtomicWriter`): the files are
/// in a directory named by the time, the link `..data` leads to that directory, and each file has a link through `..data`.
///
/// One rename of `..data` switches all files. A reader that opens the directory behind `..data`, and the files below that
/// directory, finds files that were written together. A reader that opens two paths of the volume one after the other may
/// find one file from before a switch and the other from after it.
///
/// A source replaces its own files with [`set`](Self::set); the files of the others are carried over as they are, by hard
/// links, so that no key is read. Sources may call from different threads: one call waits for the other. After a loss of
/// power during a call, the volume has either all files from before the call or all from after it.
///
/// Keeps no contents in memory. Only one process may write to the directory: no lock excludes others.
#[derive(Debug)]
pub struct ProjectedVolume {
    volume: Box<dyn Volume>,
    path: PathBuf,
    /// Held by each call that compares or changes files.
    turn: Mutex<Turn>,
}

/// The state that calls share.
#[derive(Debug, Default)]
struct Turn {
    /// True if the last call has synced the directory. An earlier process, or a call that failed, may have switched
    /// `..data` without a sync.
    is_synced: bool,
}

/// A file of a [`ProjectedVolume`]. Its `Debug` does not show the contents.
#[derive(Clone, derive_more::Debug)]
pub struct ProjectedFile {
    /// The path in the volume, such as `credential.pem` or `tls/key.pem`: see [`ProjectedVolume::check_path`].
    pub path: String,
    /// All bytes of the file. Wiped on drop.
    #[debug(skip)]
    pub contents: Zeroizing<Vec<u8>>,
    /// Owner, group and mode of the file.
    pub access: FileAccess,
}

impl ProjectedVolume {
    /// Makes a volume at `path`. Changes nothing on disk; the directory need not exist. `owner` is the numeric user ID that
    /// may own files of the volume, such as the user that the containers of a pod run as; `None`: only root and the user
    /// of this process.
    pub fn new(path: impl Into<PathBuf>, owner: Option<u32>) -> Self {
        let path = path.into();
        Self { volume: Box::new(Disk::published(&path, owner)), path, turn: Mutex::default() }
    }

    /// Makes a volume on a simulated [`Volume`]. `path` appears in messages only.
    pub fn on(volume: Box<dyn Volume>, path: PathBuf) -> Self {
        Self { volume, path, turn: Mutex::default() }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks the path of a file in a volume by kubelet's rules: relative, at most 4096 bytes, names of at most 255 bytes
    /// separated by single slashes, no name `.` or `..`, and a first name that does not begin with `..`. Control characters
    /// are refused, too, which kubelet allows. At most 31 directories may lead to the file.
    ///
    /// # Errors
    /// [`FileStoreError::Layout`] with `path` and the rule.
    pub fn check_path(path: &str) -> Result<(), FileStoreError> {
        let names = || path.split('/');
        let why = if path.is_empty() {
            "the path of a file in a volume is empty"
        } else if path.starts_with('/') {
            "a path in a volume must be relative"
        } else if names().any(|name| name == "..") {
            "a path in a volume must not contain `..`"
        } else if path.starts_with("..") {
            "a path in a volume must not begin with `..`"
        } else if names().any(|name| name.is_empty() || name == ".") {
            "a path in a volume must consist of names, separated by single slashes"
        } else if path.chars().any(char::is_control) {
            "a path in a volume must not contain a control character"
        } else if path.len() > MAX_PATH || names().any(|name| name.len() > MAX_NAME) || names().count() > MAX_DEPTH {
            "this path is too long: at most 4096 bytes, 255 for each name, and 32 names"
        } else {
            return Ok(());
        };
        // Not as it is: the author of a pod may have chosen it to forge lines of a log.
        Err(FileStoreError::Layout { path: printable(path).into(), why })
    }

    /// Checks the paths of all files of a volume: each by [`check_path`](Self::check_path), and that none occurs twice or is
    /// a directory of another one.
    ///
    /// # Errors
    /// [`FileStoreError::Layout`] with the first bad path.
    pub fn check_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<(), FileStoreError> {
        let bad = |path: &str, why| Err(FileStoreError::Layout { path: path.into(), why });
        let mut all = BTreeSet::new();
        for path in paths {
            Self::check_path(path)?;
            if !all.insert(path) {
                return bad(path, "two files of the volume have this path; give each its own");
            }
        }
        let both = all.iter().flat_map(|path| folders_of(path)).find(|folder| all.contains(folder));
        both.map_or(Ok(()), |path| {
            bad(path, "this path is a file and, for another file of the volume, a directory; rename one")
        })
    }

    /// Adds these files, or replaces those with the same paths; the other files of the volume stay. Creates the directory
    /// (mode 0755) if it does not exist. Returns false, with the disk unchanged, if the volume has these files already,
    /// with the same contents and access.
    ///
    /// A symbolic link with the name of a file or directory of the volume is replaced; its target stays as it is.
    ///
    /// # Errors
    /// [`FileStoreError::Layout`] if a path is bad, or is a file for one source and a directory for another, or if a file
    /// or directory of another program has its name; [`FileStoreError::Volume`] if `..data` leads to a directory of another
    /// program; else the operation that failed. Readers find the files before the call, unless a link or a sync after the
    /// switch failed; the next call completes them.
    pub fn set(&self, files: &[ProjectedFile], now: UnixTime) -> Result<bool, FileStoreError> {
        // Before the directory is created.
        Self::check_paths(files.iter().map(|file| &*file.path)).map_err(|error| error.below(&self.path))?;
        let mut turn = self.turn();
        self.volume.create().map_err(failed("create", &self.path))?;
        let folder = self.volume.open().map_err(failed("open", &self.path))?;
        self.rewrite(&mut turn, &*folder, files, |path| files.iter().all(|file| file.path != path), now)
    }

    /// Reads a file of the volume. `None` if it does not exist, is no regular file of at most 8 MiB, or is a file that
    /// another user could have written.
    ///
    /// # Errors
    /// [`FileStoreError::Layout`] if the path is bad; [`FileStoreError::Volume`] if `..data` leads to a directory of another
    /// program; else the operation that failed.
    pub fn read(&self, path: &str) -> Result<Option<Zeroizing<Vec<u8>>>, FileStoreError> {
        Self::check_path(path)?;
        let _turn = self.turn();
        let is_absent = |error: &io::Error| {
            use ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, PermissionDenied};
            matches!(error.kind(), NotFound | InvalidData | NotADirectory | IsADirectory | PermissionDenied)
        };
        let folder = match self.volume.open() {
            Err(error) if is_absent(&error) => return Ok(None),
            opened => opened.map_err(failed("open", &self.path))?,
        };
        let switch = Switch { folder: &*folder, path: &self.path, naming: Naming::Kubelet };
        let Some(data) = switch.data()? else { return Ok(None) };
        match within(&*folder, &format!("{data}/{path}"), |folder, name| folder.read(name)) {
            Err(error) if is_absent(&error) => Ok(None),
            read => Ok(read.map_err(failed("read", &self.path.join(path)))?.map(|found| found.bytes)),
        }
    }

    /// Removes all files except those whose paths satisfy `keeps`. Returns false, with the disk unchanged, if there are
    /// none to remove. A directory that does not exist is not created.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn retain(&self, keeps: impl Fn(&str) -> bool, now: UnixTime) -> Result<bool, FileStoreError> {
        let mut turn = self.turn();
        match self.volume.open() {
            Ok(folder) => self.rewrite(&mut turn, &*folder, &[], keeps, now),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("open", &self.path)(error)),
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Switches to a directory with `files` and the present files that satisfy `keeps`, unless the present files are these.
    fn rewrite(
        &self,
        turn: &mut Turn,
        folder: &dyn Folder,
        files: &[ProjectedFile],
        keeps: impl Fn(&str) -> bool,
        now: UnixTime,
    ) -> Result<bool, FileStoreError> {
        let switch = Switch { folder, path: &self.path, naming: Naming::Kubelet };
        let old = switch.data()?;
        let present = old.as_deref().map_or(Ok(None), |old| self.present(folder, old))?;
        if present.is_none() && files.is_empty() {
            return Ok(false);
        }
        let (kept, rest): (Vec<_>, Vec<_>) = present.iter().flatten().map(String::as_str).partition(|path| keeps(path));
        let is_removing = rest.iter().any(|path| files.iter().all(|file| file.path != *path));
        let old_files = kept.into_iter().map(|path| SwitchedFile { path, source: FileSource::Old });
        let new_files = files.iter().map(|file| {
            let source = FileSource::New { contents: Cow::Borrowed(&file.contents), access: file.access };
            SwitchedFile { path: &file.path, source }
        });
        let mut all: Vec<SwitchedFile<'_>> = old_files.chain(new_files).collect();
        all.sort_by_key(|file| file.path);
        Self::check_paths(all.iter().map(|file| file.path)).map_err(|error| error.below(&self.path))?;
        let listing = folder.list().map_err(failed("list", &self.path))?;
        self.check_obstacles(&listing, &all)?;
        let is_current = !is_removing
            && old.as_deref().filter(|_| present.is_some()).is_some_and(|old| {
                files.iter().all(|file| has_file(folder, old, file)) && all.iter().all(|file| is_linked(folder, file))
            });
        let was_synced = std::mem::take(&mut turn.is_synced);
        match is_current {
            true if was_synced => {}
            true => folder.execute(&FileOp::SyncDir, &[]).map_err(failed("sync", &self.path))?,
            false => switch.switch(&listing, old.as_deref(), &all, now)?,
        }
        turn.is_synced = true;
        // Leftovers of a crash are removed even if no file changes: they may contain keys.
        let swept = if is_current { switch.sweep(&listing) } else { Ok(()) };
        if let Err(error) = swept.and_then(|()| switch.remove_stale_links(&all)) {
            tracing::warn!("cannot remove old files: {error}; the next write tries again");
        }
        Ok(!is_current)
    }

    /// The paths of the files in the directory `old`; `None` if it does not exist.
    fn present(&self, folder: &dyn Folder, old: &str) -> Result<Option<Vec<String>>, FileStoreError> {
        let path = self.path.join(old);
        let mut all = Vec::new();
        let listed = folder.folder(old).and_then(|inner| files_below(&*inner, "", MAX_DEPTH, &mut all));
        match listed {
            Ok(()) => Ok(Some(all)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let why = "another user could have made this directory, to which `..data` leads; remove the directory and `..data`";
                Err(FileStoreError::Layout { path, why })
            }
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Fails if a file or directory of another program has the name of a link.
    fn check_obstacles(&self, listing: &Listing, all: &[SwitchedFile<'_>]) -> Result<(), FileStoreError> {
        let is_wanted = |name: &str| name == DATA || all.iter().any(|file| entry_of(file.path) == name);
        match listing.0.iter().find(|entry| entry.kind != Kind::Link && is_wanted(&entry.name)) {
            Some(entry) => Err(FileStoreError::Layout {
                path: self.path.join(&entry.name),
                why: "a file or directory of another program is in the place of a link of the volume; remove it",
            }),
            None => Ok(()),
        }
    }
}

/// True if the directory `data` has this file, with the same contents and access.
fn has_file(folder: &dyn Folder, data: &str, file: &ProjectedFile) -> bool {
    let found = within(folder, &format!("{data}/{}", file.path), |folder, name| {
        Ok(folder.has_access(name, &file.access).then_some(folder.read(name)?).flatten())
    });
    found.is_ok_and(|found| found.is_some_and(|found| found.bytes == file.contents))
}

/// True if the link of this file leads through `..data`.
fn is_linked(folder: &dyn Folder, file: &SwitchedFile<'_>) -> bool {
    let entry = entry_of(file.path);
    folder.link_target(entry).is_ok_and(|target| target == Some(link_of(entry)))
}

/// Adds the paths of all files in this folder, and in the folders inside of it, to `all`. Each path begins with `prefix`.
fn files_below(folder: &dyn Folder, prefix: &str, depth: usize, all: &mut Vec<String>) -> io::Result<()> {
    for entry in folder.list()?.0 {
        let path = format!("{prefix}{}", entry.name);
        match entry.kind {
            Kind::File => all.push(path),
            // A listing has `.` and `..`, too.
            Kind::Other if depth > 0 && !matches!(&*entry.name, "." | "..") => match folder.folder(&entry.name) {
                Ok(inner) => files_below(&*inner, &format!("{path}/"), depth - 1, all)?,
                // A pipe or a device, which no source has made.
                Err(error) if error.kind() == ErrorKind::NotADirectory => {}
                Err(error) => return Err(error),
            },
            Kind::Other | Kind::Link => {}
        }
    }
    Ok(())
}
