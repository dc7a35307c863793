//! [`Unpublished`]: a pair that is durable, and is not in the files that other programs read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use perennial::UnixTime;

use super::{FileStore, FileStoreError};

/// A pair that is durable in the private directory of a [`FileStore`] or of a [`VolumeStore`](crate::VolumeStore), and
/// could not be written to the files that other programs read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpublished {
    /// Time of the first failed attempt since the public files were last those of the current pair.
    pub since: UnixTime,
    /// Text of the [`FileStoreError`] of the last attempt.
    pub error: String,
    /// True if a file or link of another program is in the way ([`FileStoreError::is_foreign`]). False if writing has
    /// failed.
    pub is_foreign: bool,
}

/// The failure of the last attempt to write public files. Has a lock of its own, so that no reader waits for a disk.
#[derive(Debug, Default)]
pub(crate) struct LastFailure(Mutex<Option<Unpublished>>);

impl LastFailure {
    /// The failure; `None` if the attempt succeeded, or if there was none.
    pub(crate) fn get(&self) -> Option<Unpublished> {
        self.lock().clone()
    }

    /// Records the result of an attempt; `None`: it succeeded.
    pub(crate) fn note(&self, error: Option<&FileStoreError>, now: UnixTime) {
        let mut last = self.lock();
        let since = last.as_ref().map_or(now, |before| before.since);
        *last = error.map(|error| Unpublished { since, error: error.to_string(), is_foreign: error.is_foreign() });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Unpublished>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileStore {
    /// The failure to write the current pair to the public files; `None` if the last load, write or
    /// [`restore`](Self::restore) found or made the public files those of the pair. The pair is durable nevertheless: the
    /// next load reads it from the private directory. Never waits for a disk.
    pub fn unpublished(&self) -> Option<Unpublished> {
        self.unpublished.get()
    }

    /// Checks that no file of another program is in the way of a pair for `common_name`: that a write would replace the
    /// public files. Changes nothing on disk.
    ///
    /// # Errors
    /// The error with which a write would fail. A full disk and missing permissions to write are not noticed.
    pub fn check_files(&self, common_name: &str, now: UnixTime) -> Result<(), FileStoreError> {
        let _turn = self.turn();
        let current = self.private.load(None, now)?.credential;
        let names = current.as_ref().map(|(current, _)| &*current.chain().certificate().names);
        self.check_replaceable(common_name, names.filter(|names| names.common_name() == common_name), now)?;
        if let Some(ca) = self.ca() {
            self.check_ca(&ca, now)?;
        }
        for file in &self.files.all {
            if let Some(folder) = self.files.existing(file.directory)? {
                self.files.check_obstacle(&*folder, file, self.options.replaces_foreign)?;
            }
        }
        Ok(())
    }
}
