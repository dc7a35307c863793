//! [`Known`]: the pods and the CAs that the program has reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Entry, Pod, PodError};
use crate::BundleSelection;

#[derive(Debug, Default)]
pub(super) struct Known {
    /// By UID.
    pub(super) pods: BTreeMap<String, Entry>,
    /// The CAs of each selection, as PEM.
    pub(super) trust_bundles: HashMap<BundleSelection, Arc<str>>,
    /// The UIDs of pods that a call is changing, and the paths of the volumes that the call may change.
    pub(super) busy: BTreeMap<String, BTreeSet<PathBuf>>,
}

impl Known {
    /// The UIDs of all pods, also of those that a call is adding.
    pub(super) fn uids(&self) -> BTreeSet<String> {
        self.pods.keys().chain(self.busy.keys()).cloned().collect()
    }

    /// Notes that a call changes the pod. Returns false if another call changes the pod, or a volume that this call may change:
    /// all volumes are taken at once, so that no two calls wait for each other.
    pub(super) fn begin(&mut self, uid: &str, next: Option<&Pod>) -> bool {
        let paths = self.paths(uid, next);
        let is_free = self.busy.iter().all(|(other, taken)| other != uid && taken.is_disjoint(&paths));
        if is_free {
            self.busy.insert(uid.to_owned(), paths);
        }
        is_free
    }

    /// The paths of the volumes that a call for the pod may change.
    fn paths(&self, uid: &str, next: Option<&Pod>) -> BTreeSet<PathBuf> {
        let entry = self.pods.get(uid);
        let pods = entry.map(|entry| &*entry.pod).into_iter().chain(next);
        let volumes = pods.flat_map(|pod| &pod.volumes).map(|volume| &volume.path);
        volumes.chain(entry.into_iter().flat_map(|entry| entry.stale.keys())).cloned().collect()
    }

    /// A copy of the state of a pod, with what other pods have left in its volumes. The caller has the turn of the pod.
    ///
    /// # Errors
    /// [`PodError::Invalid`]: another pod has the path of one of these volumes.
    pub(super) fn entry(&mut self, pod: &Pod) -> Result<Entry, PodError> {
        self.check_paths(pod)?;
        let uid = &pod.identity.uid;
        let mut entry = self.pods.get(uid).cloned().unwrap_or_default();
        for volume in &pod.volumes {
            let others = self.pods.iter_mut().filter(|(other, _)| *other != uid);
            let left = others.filter_map(|(_, other)| other.stale.remove(&volume.path)).flatten();
            let left: BTreeSet<String> = left.collect();
            if !left.is_empty() {
                entry.stale.entry(volume.path.clone()).or_default().extend(left);
            }
        }
        Ok(entry)
    }

    /// Fails if another pod has the path of one of these volumes.
    fn check_paths(&self, pod: &Pod) -> Result<(), PodError> {
        let others = self.pods.values().filter(|entry| entry.pod.identity.uid != pod.identity.uid);
        let mut taken = others.flat_map(|entry| entry.pod.volumes.iter().map(move |volume| (&entry.pod, &volume.path)));
        let other = taken.find(|(_, path)| pod.volumes.iter().any(|volume| volume.path == **path));
        let why = |(other, path): (&Arc<Pod>, &PathBuf)| {
            format!("the path {} is that of a volume of pod {}; give each volume its own", path.display(), other.name())
        };
        other.map_or(Ok(()), |taken| Err(pod.invalid(why(taken))))
    }
}
