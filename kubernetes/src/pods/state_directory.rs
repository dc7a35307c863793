//! [`StateDirectory`]: the private state of the certificates of all pods: `UID/VOLUME/SOURCE`.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::PodError;
use super::pod::is_uid;

/// The directory with the private state of all pods.
#[derive(Debug)]
pub(super) struct StateDirectory(PathBuf);

impl StateDirectory {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory of one certificate. `uid` and `volume` must be checked.
    pub(super) fn of(&self, uid: &str, volume: &str, source: usize) -> PathBuf {
        self.0.join(uid).join(volume).join(source.to_string())
    }

    /// The UIDs of all pods with state. Entries that are no UIDs belong to other programs.
    pub(super) fn uids(&self) -> Result<Vec<String>, PodError> {
        let failed = |source| PodError::Cleanup { what: "list", path: self.0.clone(), source };
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        let names: io::Result<Vec<Option<String>>> = names.collect();
        Ok(names.map_err(failed)?.into_iter().flatten().filter(|name| is_uid(name)).collect())
    }

    /// Removes all state of a pod, durably.
    pub(super) fn remove_pod(&self, uid: &str) -> Result<(), PodError> {
        Self::remove(&self.0.join(uid))
    }

    /// Removes a directory, durably.
    pub(super) fn remove(path: &Path) -> Result<(), PodError> {
        let failed = |source| PodError::Cleanup { what: "remove", path: path.into(), source };
        let parent = path.parent().unwrap_or_else(|| Path::new("/"));
        match fs::remove_dir_all(path) {
            Ok(()) => File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
