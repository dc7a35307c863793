//! [`Followed`]: the last good content of files that another program replaces.
//!
//! # When new content is used
//!
//! Other programs replace files in three ways, and a reader may come at any moment between two of their steps:
//!
//! - A link is switched, as `..data` in volumes of Kubernetes. All files change at once.
//! - Each file is renamed into place, so that the files disagree for a moment.
//! - A file is truncated and written again, so that a file is incomplete for a moment. Content that was cut between two
//!   PEM blocks seems complete.
//!
//! So content must be good as a whole, and at rest: no file was modified in the last second, or a check a second later
//! finds the same bytes. Until then, and for as long as files are missing or unusable, the last good content stays. Files that are
//! unusable for ten seconds are worth a warning.
//!
//! # Why files are read at intervals
//!
//! inotify would not do: it reports nothing for network file systems, a switched link needs a watch on every directory
//! on the path, and events can be lost, so that files would have to be read at intervals all the same.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial::{Instant, Now, UnixTime};
use perennial_pki::sha256;

use crate::files::{FileContent, FileError, read};

/// Interval at which files are read by default.
pub(crate) const EVERY: Duration = Duration::from_secs(5);
/// Time from the last modification of a file until its content counts as complete.
const REST: Duration = Duration::from_secs(1);
/// Interval at which files are read while they are being replaced, unless the usual interval is shorter.
const SOON: Duration = REST;
/// How often files are read in a row while links on their paths are switched.
const ATTEMPTS: usize = 3;
/// Time for which files may be unusable before this is reported.
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
    /// The digest of the files at the last check, and the first check in a row that found it; `None` if a file could not
    /// be read.
    seen: Option<(Digest, Instant)>,
    /// The time of the last check that found `content` in the files.
    good_at: UnixTime,
    checked_at: Instant,
    /// True while files are being replaced, as far as the last check shows.
    is_changing: bool,
    trouble: Option<Trouble>,
}

type Digest = [u8; 32];
/// The result of reading a file.
pub(crate) type Found = Result<FileContent, FileError>;
type Parse<T, E> = fn(&[PathBuf], &[FileContent]) -> Result<T, E>;

/// Files without good content.
#[derive(Debug)]
struct Trouble {
    /// The first check in a row that found no good content.
    since: Instant,
    /// The error that was reported last; `None` before the first report.
    reported: Option<String>,
}

/// A result of [`Followed::check`].
#[derive(Debug)]
pub(crate) enum Change<T> {
    /// There is nothing to report.
    Nothing,
    /// The files have new content. This is the old one.
    Replaced(T),
    /// There has been no good content for some time, for this reason.
    Trouble(String),
}

impl<T: Clone + PartialEq, E: From<FileError> + fmt::Display> Followed<T, E> {
    /// Takes the first content of the files at these paths.
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

    /// The path of the first file, which names them all in messages.
    pub(crate) fn path(&self) -> &Path {
        &self.paths[0]
    }

    /// The last good content.
    pub(crate) fn content(&self) -> &T {
        &self.content
    }

    /// The time of the last check that found the content in the files.
    pub(crate) fn good_at(&self) -> UnixTime {
        self.good_at
    }

    /// True if the last check found no good content.
    pub(crate) fn is_failing(&self) -> bool {
        self.trouble.is_some()
    }

    /// The reason why there is no good content, once that was worth a report.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.trouble.as_ref()?.reported.as_deref()
    }

    /// The time of the next check, if checks are to follow each other at this interval.
    pub(crate) fn next_check(&self, every: Duration) -> Instant {
        self.checked_at.after(if self.is_changing { every.min(SOON) } else { every })
    }

    /// Takes what a check found in the files.
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

    /// Returns new content; `None` if there is none, or the files are still being written.
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

/// Reads all files as of one time, as far as links on their paths are concerned: if one was switched in between, the
/// files are read again.
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

/// The digest of all files. Kept instead of their bytes, which may contain a key.
fn digest(files: &[FileContent]) -> Digest {
    let each: Vec<Digest> = files.iter().map(|file| sha256(&file.bytes)).collect();
    sha256(each.as_flattened())
}

/// True if the file was modified a moment ago. A time of modification far in the future, by the clock of a file server,
/// says nothing.
fn is_fresh(file: &FileContent, now: UnixTime) -> bool {
    file.modified_at.is_some_and(|at| now.since(at).max(at.since(now)) < REST)
}
