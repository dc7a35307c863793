//! [`Followed`]: the last good content of files that another program replaces.
//!
//! # When new content is used
//!
//! Other programs replace files in three ways, and a reader may come at any moment between two of their steps:
//!
//! - A link is switched, as `..data` in volumes of Kubernetes. All files change at once.
//! - Each file is renamed into place, one after the other. For a moment, the files do not belong together.
//! - A file is truncated and written again. For a moment, the file is incomplete. If it ends between two PEM blocks, it
//!   even seems complete.
//!
//! For this reason, new content is used only if all files together are good, and at rest: no file was modified in the
//! last second, or a check a second later finds the same bytes. Until then, and for as long as files are missing or
//! unusable, the last good content stays in use. Files that are unusable for ten seconds are reported.
//!
//! # Why files are read at intervals
//!
//! inotify would not suffice. It reports nothing for network file systems. To notice a switched link, every directory
//! on the path needs a watch. Events can be lost, so that files would have to be read at intervals all the same.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use perennial::{Instant, Now, UnixTime};
use perennial_pki::sha256;

use crate::files::{FileContent, FileError, read};

/// Interval at which files are read by default.
pub(crate) const EVERY: Duration = Duration::from_secs(5);
/// Time for which a file must not have been modified before its content counts as complete.
const REST: Duration = Duration::from_secs(1);
/// Longest unit in which a file system stores times of modification: that of FAT.
const COARSEST: Duration = Duration::from_secs(2);
/// Interval at which files are read while another program is replacing them. If the usual interval is shorter, it
/// applies.
const SOON: Duration = REST;
/// How many times [`read_all`] reads the files before it gives up, since a link on one of their paths is switched each
/// time.
const ATTEMPTS: usize = 3;
/// Time for which files may be unusable before [`Followed::check`] reports them.
const PATIENCE: Duration = Duration::from_secs(10);

/// The last good content of one or more files that belong together.
#[derive(derive_more::Debug)]
pub(crate) struct Followed<T, E> {
    paths: Box<[PathBuf]>,
    #[debug(skip)]
    parse: Parse<T, E>,
    content: T,
    /// The digest of the files that `content` was read from.
    used: Digest,
    /// The digest of the files at the last check, and the time since which every check has found this digest; `None` if
    /// a file could not be read.
    seen: Option<(Digest, Instant)>,
    /// The time of the last check that found `content` in the files.
    good_at: UnixTime,
    checked_at: Instant,
    /// True if the next check should follow soon: the last check found files that are being written, or files that have
    /// been unusable for less than [`PATIENCE`].
    is_changing: bool,
    trouble: Option<Trouble>,
}

type Digest = [u8; 32];
/// The result of reading a file.
pub(crate) type Found = Result<FileContent, FileError>;
type Parse<T, E> = fn(&[PathBuf], &[FileContent]) -> Result<T, E>;

/// The state of files that have no good content now.
#[derive(Debug)]
struct Trouble {
    /// The time of the first check that found no good content. No later check has found any.
    since: Instant,
    /// The error that was reported last; `None` before the first report.
    reported: Option<String>,
}

/// The result of [`Followed::check`], for the caller to report.
#[derive(Debug)]
pub(crate) enum Change<T> {
    /// There is nothing to report.
    Nothing,
    /// New content is in use; contains the old content.
    Replaced(T),
    /// The files have had no good content for [`PATIENCE`] or longer; contains the reason.
    Trouble(String),
}

impl<T: Clone + PartialEq, E: From<FileError> + fmt::Display> Followed<T, E> {
    /// Makes a [`Followed`] of the files at these paths. `found` is the result of reading the files; their content is
    /// the first good content.
    ///
    /// # Errors
    /// A file could not be read, or the files have no good content.
    pub(crate) fn open(
        paths: impl Into<Box<[PathBuf]>>,
        parse: Parse<T, E>,
        found: impl IntoIterator<Item = Found>,
        now: Now,
    ) -> Result<Self, E> {
        let paths = paths.into();
        let files = found.into_iter().collect::<Result<Vec<_>, _>>()?;
        let (content, digest) = (parse(&paths, &files)?, digest(&files));
        Ok(Self {
            paths,
            parse,
            content,
            used: digest,
            seen: Some((digest, now.instant)),
            good_at: now.unix,
            checked_at: now.instant,
            is_changing: false,
            trouble: None,
        })
    }

    /// The paths of the files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().map(PathBuf::as_path)
    }

    /// The path of the first file, by which messages name all the files.
    pub(crate) fn path(&self) -> &Path {
        &self.paths[0]
    }

    /// The last good content.
    pub(crate) fn content(&self) -> &T {
        &self.content
    }

    /// The time of the last check that found `content` in the files.
    pub(crate) fn good_at(&self) -> UnixTime {
        self.good_at
    }

    /// True if the last check found no good content.
    pub(crate) fn is_failing(&self) -> bool {
        self.trouble.is_some()
    }

    /// The error that [`check`](Self::check) reported last, if the files still have no good content; otherwise `None`.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.trouble.as_ref()?.reported.as_deref()
    }

    /// The time of the next check: `every` after the last one, or sooner while files are being replaced.
    pub(crate) fn next_check(&self, every: Duration) -> Instant {
        self.checked_at.after(if self.is_changing { every.min(SOON) } else { every })
    }

    /// Checks the files as they were read in `found`: uses new content if it is good and at rest, and returns the
    /// change to report.
    pub(crate) fn check(&mut self, found: impl IntoIterator<Item = Found>, now: Now) -> Change<T> {
        self.checked_at = now.instant;
        match self.new_content(found, now) {
            Ok(Some((content, digest))) => {
                self.is_good(now);
                self.used = digest;
                let old = std::mem::replace(&mut self.content, content);
                if self.content == old { Change::Nothing } else { Change::Replaced(old) }
            }
            Ok(None) => Change::Nothing,
            Err(error) => self.fail(error.to_string(), now.instant),
        }
    }

    /// Returns the content in the files if it is new and at rest; otherwise `None`.
    fn new_content(&mut self, found: impl IntoIterator<Item = Found>, now: Now) -> Result<Option<(T, Digest)>, E> {
        let before = self.seen.take();
        let files = found.into_iter().collect::<Result<Vec<_>, _>>()?;
        let digest = digest(&files);
        let since = before.filter(|(before, _)| *before == digest).map_or(now.instant, |(_, since)| since);
        self.seen = Some((digest, since));
        if digest == self.used {
            self.is_good(now);
            return Ok(None);
        }
        if now.instant.since(since) < REST && files.iter().any(|file| is_fresh(file, now.unix)) {
            self.is_changing = true;
            return Ok(None);
        }
        Ok(Some(((self.parse)(&self.paths, &files)?, digest)))
    }

    fn is_good(&mut self, now: Now) {
        (self.good_at, self.is_changing, self.trouble) = (now.unix, false, None);
    }

    fn fail(&mut self, error: String, now: Instant) -> Change<T> {
        let trouble = self.trouble.get_or_insert(Trouble { since: now, reported: None });
        let is_lasting = now.since(trouble.since) >= PATIENCE;
        self.is_changing = !is_lasting;
        // Reported once, not at every check.
        if !is_lasting || trouble.reported.as_ref() == Some(&error) {
            return Change::Nothing;
        }
        trouble.reported = Some(error.clone());
        Change::Trouble(error)
    }
}

/// Locks the state of files that are followed; `None` while another thread holds the lock, since that thread is reading
/// the files.
pub(crate) fn if_free<T>(files: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match files.try_lock() {
        Ok(files) => Some(files),
        Err(TryLockError::Poisoned(files)) => Some(files.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Reads all files as of one time, as far as links are concerned: if a link on one of their paths was switched in the
/// meantime, reads all files again.
pub(crate) fn read_all<'a>(paths: impl IntoIterator<Item = &'a Path>, longest: u64) -> Vec<Found> {
    let paths: Vec<&Path> = paths.into_iter().collect();
    let resolve = || paths.iter().map(|path| fs::canonicalize(path).ok()).collect::<Vec<_>>();
    let mut before = resolve();
    for _ in 0..ATTEMPTS {
        let found = paths.iter().map(|path| read(path, longest)).collect();
        let after = resolve();
        // No program switches a link back to a directory that it has left.
        if after == before {
            return found;
        }
        before = after;
    }
    paths.iter().map(|path| Err(FileError::Unsettled(path.to_path_buf()))).collect()
}

/// The digest of all files. Remembered in place of their bytes, which may contain a key.
fn digest(files: &[FileContent]) -> Digest {
    let each: Vec<Digest> = files.iter().map(|file| sha256(&file.bytes)).collect();
    sha256(each.as_flattened())
}

/// True if the file may have been modified less than [`REST`] ago: also if the time of modification is unknown, or in the
/// future, by the clock of a file server or by that of this host before it was set back.
fn is_fresh(file: &FileContent, now: UnixTime) -> bool {
    file.modified_at.is_none_or(|at| {
        // Whole seconds are probably rounded down, by a file system that does not store more.
        let latest = if at.as_millis() % 1_000 == 0 { at.after(COARSEST) } else { at };
        now.since(latest) < REST
    })
}
