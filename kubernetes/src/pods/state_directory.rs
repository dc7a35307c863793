//! [`StateDirectory`]: the private state of the certificates of all pods: `UID/VOLUME/SOURCE`.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::member::PREFIX;
use super::pod::{is_uid, is_volume_name};
use super::{PodError, first_error};

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
        let mut names = names(&self.0)?;
        names.retain(|name| is_uid(name));
        Ok(names)
    }

    /// Removes the state of all certificates of a pod except those that `keeps` accepts, by volume and source, durably. Also
    /// removes what an earlier run has left. Files of other programs stay, and the directories that they are in: the path
    /// may be that of a directory of another program.
    pub(super) fn retain(&self, uid: &str, keeps: impl Fn(&str, usize) -> bool) -> Result<(), PodError> {
        let pod = self.0.join(uid);
        let mut results = Vec::new();
        for volume in names(&pod)?.iter().filter(|name| is_volume_name(name)) {
            let volume_path = pod.join(volume);
            for source in names(&volume_path)?.iter().filter_map(|name| name.parse().ok()) {
                if !keeps(volume, source) {
                    results.push(self.remove(uid, volume, source));
                }
            }
            results.push(remove_empty(&volume_path).map(drop));
        }
        results.push(remove_empty(&pod).map(drop));
        first_error(results)
    }

    /// Removes the state of one certificate, durably.
    fn remove(&self, uid: &str, volume: &str, source: usize) -> Result<(), PodError> {
        let path = self.of(uid, volume, source);
        let lock = format!(".{PREFIX}.lock");
        let is_state =
            |name: &String| *name == lock || name.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('-'));
        let removed: Vec<String> = names(&path)?.into_iter().filter(is_state).collect();
        let results = removed.iter().map(|name| fs::remove_file(path.join(name)));
        results.fold(Ok(()), Result::and).map_err(cleanup("remove", &path))?;
        match remove_empty(&path)? {
            false if !removed.is_empty() => sync(&path),
            _ => Ok(()),
        }
    }
}

/// The names of the entries of a directory; none if it does not exist.
fn names(path: &Path) -> Result<Vec<String>, PodError> {
    let entries = match fs::read_dir(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries.map_err(cleanup("list", path))?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    let names: io::Result<Vec<Option<String>>> = names.collect();
    Ok(names.map_err(cleanup("list", path))?.into_iter().flatten().collect())
}

/// Removes a directory, durably, if it is empty. Returns false if it is not, or does not exist.
fn remove_empty(path: &Path) -> Result<bool, PodError> {
    match fs::remove_dir(path) {
        Ok(()) => sync(path.parent().unwrap_or(path)).map(|()| true),
        Err(error) => match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(false),
            _ => Err(cleanup("remove", path)(error)),
        },
    }
}

fn sync(path: &Path) -> Result<(), PodError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(cleanup("sync", path))
}

fn cleanup(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PodError {
    move |source| PodError::Cleanup { what, path: path.into(), source }
}
