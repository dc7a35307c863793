//! [`Unpublished`]: a pair that is durable, and is not in the files that other programs read.

use std::sync::PoisonError;

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

impl Unpublished {
    /// Makes the record of a failed attempt. `before` is the record of the attempt before, if that failed, too.
    pub(crate) fn after(before: Option<&Self>, error: &FileStoreError, now: UnixTime) -> Self {
        let since = before.map_or(now, |before| before.since);
        Self { since, error: error.to_string(), is_foreign: error.is_foreign() }
    }
}

impl FileStore {
    /// The failure to write the current pair to the public files; `None` if the last load, write or
    /// [`restore`](Self::restore) found or made the public files those of the pair. The pair is durable nevertheless: the
    /// next load reads it from the private directory. Never waits for a disk.
    pub fn unpublished(&self) -> Option<Unpublished> {
        self.unpublished.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// Records the result of an attempt to write the public files.
    pub(super) fn note_published(&self, published: &Result<(), FileStoreError>, now: UnixTime) {
        let mut unpublished = self.unpublished.lock().unwrap_or_else(PoisonError::into_inner);
        let error = published.as_ref().err();
        *unpublished = error.map(|error| Unpublished::after(unpublished.as_ref(), error, now));
    }
}
