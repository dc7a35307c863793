//! [`Entry`]: the volumes and members of one pod.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use perennial::UnixTime;
use perennial_rotation::ProjectedVolume;

use super::member::Member;
use super::{Pod, PodError, first_error};

/// A pod with its volumes and members.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) pod: Arc<Pod>,
    pub(super) volumes: BTreeMap<String, Arc<ProjectedVolume>>,
    /// By the name of the volume and the index of the source.
    pub(super) members: BTreeMap<(String, usize), Member>,
    /// By the path of a volume: files that no source has any more, and that could not be removed yet.
    pub(super) stale: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl Entry {
    /// Makes the volumes those of `pod`, and removes the files of sources that `pod` does not have.
    pub(super) fn change_volumes(&mut self, pod: &Arc<Pod>, now: UnixTime) -> Result<(), PodError> {
        let mut volumes = BTreeMap::new();
        for volume in &pod.volumes {
            let before = self.pod.volumes.iter().find(|before| before.name == volume.name);
            let same = before.filter(|before| before.path == volume.path && before.owner == volume.owner);
            let known = same.and_then(|_| self.volumes.get(&volume.name).cloned());
            let made = || Arc::new(ProjectedVolume::new(&volume.path, volume.owner));
            volumes.insert(volume.name.clone(), known.unwrap_or_else(made));
        }
        for before in &self.pod.volumes {
            let wanted = pod.paths_in(&before.path);
            let stale: BTreeSet<String> =
                before.paths().filter(|path| !wanted.contains(path)).map(str::to_owned).collect();
            if !stale.is_empty() {
                self.stale.entry(before.path.clone()).or_default().extend(stale);
            }
        }
        let former = std::mem::replace(&mut self.volumes, volumes);
        self.pod = pod.clone();
        self.remove_stale(&former, now)
    }

    /// Removes the files that no source has any more. A volume that is gone has none. `former` are the volumes until now.
    fn remove_stale(&mut self, former: &BTreeMap<String, Arc<ProjectedVolume>>, now: UnixTime) -> Result<(), PodError> {
        let mut results = Vec::new();
        self.stale.retain(|at, stale| {
            // Not another volume at this path: the program may be writing to the one that it has got.
            let volume = self.volumes.values().chain(former.values()).find(|volume| volume.path() == at).cloned();
            let volume = volume.unwrap_or_else(|| Arc::new(ProjectedVolume::new(at, None)));
            let wanted = self.pod.paths_in(at);
            let removed = volume.retain(|path| wanted.contains(path) || !stale.contains(path), now);
            let has_failed = removed.is_err();
            results.push(removed.map(drop).map_err(|source| PodError::Volume { pod: self.pod.name(), source }));
            has_failed
        });
        first_error(results)
    }
}
