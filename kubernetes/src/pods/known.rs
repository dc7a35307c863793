//! [`Known`]: the pods and the CAs that the program has reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Entry, Pod};
use crate::BundleSelection;

#[derive(Debug, Default)]
pub(super) struct Known {
    /// By UID.
    pub(super) pods: BTreeMap<String, Entry>,
    /// The CAs of each selection, as PEM.
    pub(super) trust_bundles: HashMap<BundleSelection, Arc<str>>,
}

impl Known {
    /// A copy of the state of a pod, with what other pods have left in its volumes.
    pub(super) fn entry(&mut self, pod: &Pod) -> Entry {
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
        entry
    }
}
