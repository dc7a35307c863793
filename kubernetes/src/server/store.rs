//! The objects, and a bounded log of what happened to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use perennial::UnixTime;

use crate::objects::CertificateSigningRequest;

/// A stored object. Shared between the store, the log and whoever is sending it; never changed in place.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) object: CertificateSigningRequest,
    /// The version this object was written at; `metadata.resourceVersion` as a number.
    pub(super) version: u64,
    pub(super) created: UnixTime,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
}

/// An entry of the log.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) change: Change,
    /// The object after the change; after a deletion, as it was last, at the version of the deletion.
    pub(super) object: Arc<Stored>,
    /// The object before the change.
    pub(super) before: Option<Arc<Stored>>,
}

/// Why nothing was stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoreError {
    Exists,
    Full,
}

/// Objects by name. Memory is bounded: at most `capacity` objects and `history` events.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<String, Arc<Stored>>,
    log: VecDeque<Event>,
    version: u64,
    capacity: usize,
    history: usize,
}

impl Store {
    pub(super) fn new(capacity: usize, history: usize) -> Self {
        Self { objects: BTreeMap::new(), log: VecDeque::new(), version: 1, capacity, history: history.max(1) }
    }

    /// The version of the latest change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// A watch can go on from this version or a later one.
    pub(super) fn oldest(&self) -> u64 {
        self.log.front().map_or(self.version, |event| event.object.version - 1)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Stored>> {
        self.objects.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.objects.values()
    }

    /// The objects as they were at `version`, which must not be older than [`Store::oldest`].
    pub(super) fn at(&self, version: u64) -> BTreeMap<&str, &Arc<Stored>> {
        let mut objects: BTreeMap<&str, &Arc<Stored>> =
            self.objects.iter().map(|(name, stored)| (name.as_str(), stored)).collect();
        for event in self.log.iter().rev().take_while(|event| event.object.version > version) {
            let name = event.object.object.metadata.name.as_str();
            match &event.before {
                Some(before) => objects.insert(name, before),
                None => objects.remove(name),
            };
        }
        objects
    }

    /// The first event after `version`, which must not be older than [`Store::oldest`].
    pub(super) fn after(&self, version: u64) -> Option<&Event> {
        let index = self.log.partition_point(|event| event.object.version <= version);
        self.log.get(index)
    }

    /// Whether there is room for a new object of that name.
    pub(super) fn admits(&self, name: &str) -> Result<(), StoreError> {
        if self.objects.contains_key(name) {
            return Err(StoreError::Exists);
        }
        if self.objects.len() >= self.capacity { Err(StoreError::Full) } else { Ok(()) }
    }

    /// Adds an object the store [admits](Store::admits).
    pub(super) fn insert(&mut self, object: CertificateSigningRequest, created: UnixTime) -> Arc<Stored> {
        let stored = self.stamp(object, created);
        self.objects.insert(stored.object.metadata.name.clone(), Arc::clone(&stored));
        self.record(Event { change: Change::Added, object: Arc::clone(&stored), before: None });
        stored
    }

    /// Replaces `before`; an object that would not change keeps its version, and nothing is told.
    pub(super) fn replace(&mut self, before: &Arc<Stored>, object: CertificateSigningRequest) -> Arc<Stored> {
        if object == before.object {
            return Arc::clone(before);
        }
        let stored = self.stamp(object, before.created);
        self.objects.insert(stored.object.metadata.name.clone(), Arc::clone(&stored));
        let before = Some(Arc::clone(before));
        self.record(Event { change: Change::Modified, object: Arc::clone(&stored), before });
        stored
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Stored>> {
        let before = self.objects.remove(name)?;
        let last = self.stamp(before.object.clone(), before.created);
        self.record(Event { change: Change::Deleted, object: last, before: Some(Arc::clone(&before)) });
        Some(before)
    }

    /// Gives an object the next version.
    fn stamp(&mut self, mut object: CertificateSigningRequest, created: UnixTime) -> Arc<Stored> {
        self.version += 1;
        object.metadata.resource_version = self.version.to_string();
        Arc::new(Stored { object, version: self.version, created })
    }

    fn record(&mut self, event: Event) {
        if self.log.len() >= self.history {
            self.log.pop_front();
        }
        self.log.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> CertificateSigningRequest {
        let mut object = CertificateSigningRequest::default();
        object.metadata.name = name.into();
        object
    }

    #[test]
    fn every_change_has_a_version_of_its_own_and_no_change_has_none() {
        let mut store = Store::new(10, 10);
        let first = store.insert(named("a"), UnixTime::default());
        let same = store.replace(&first, first.object.clone());
        assert_eq!((first.version, same.version, store.version()), (2, 2, 2));
        assert_eq!(store.admits("a"), Err(StoreError::Exists));
        store.remove("a").unwrap();
        assert!(store.remove("a").is_none());
        assert_eq!(store.version(), 3);
        assert_eq!(store.after(2).unwrap().object.object.metadata.resource_version, "3");
        assert!(store.after(3).is_none());
    }

    #[test]
    fn the_past_can_be_seen_as_far_as_the_log_reaches() {
        let mut store = Store::new(10, 10);
        let first = store.insert(named("a"), UnixTime::default());
        let mut changed = first.object.clone();
        changed.metadata.labels.insert("x".into(), "y".into());
        store.replace(&first, changed);
        store.insert(named("b"), UnixTime::default());
        store.remove("a").unwrap();
        let versions = |at| store.at(at).values().map(|stored| stored.version).collect::<Vec<_>>();
        assert_eq!(
            [versions(1), versions(2), versions(3), versions(4), versions(5)],
            [vec![], vec![2], vec![3], vec![3, 4], vec![4]]
        );
    }

    #[test]
    fn objects_and_history_are_bounded() {
        let mut store = Store::new(2, 3);
        assert_eq!(store.oldest(), store.version());
        store.insert(named("a"), UnixTime::default());
        store.insert(named("b"), UnixTime::default());
        assert_eq!(store.admits("c"), Err(StoreError::Full));
        for _ in 0..5 {
            store.remove("a").unwrap();
            store.insert(named("a"), UnixTime::default());
        }
        assert_eq!((store.log.len(), store.oldest()), (3, store.version() - 3));
    }
}
