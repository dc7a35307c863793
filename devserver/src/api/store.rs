//! The objects and a log of their changes, both bounded in number and in bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use perennial::UnixTime;

use super::message::to_json;
use perennial_kubernetes::objects::CertificateSigningRequest;

/// A stored object. Shared between the store, the log and whoever is sending it; never changed in place.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) object: CertificateSigningRequest,
    /// The object as clients are sent it: written once, however many they are.
    pub(super) json: Box<[u8]>,
    /// The version this object was written at; `metadata.resourceVersion` as a number.
    pub(super) version: u64,
    pub(super) created: UnixTime,
}

impl Stored {
    pub(super) fn new(object: CertificateSigningRequest, version: u64, created: UnixTime) -> Self {
        Self { json: to_json(&object).into(), object, version, created }
    }

    fn size(&self) -> usize {
        self.json.len()
    }
}

/// An entry of the log.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) is_deletion: bool,
    /// The object after the change; after a deletion, as it was last, at the version of the deletion.
    pub(super) object: Arc<Stored>,
    /// The object before the change.
    pub(super) before: Option<Arc<Stored>>,
}

impl Event {
    fn size(&self) -> usize {
        self.object.size() + self.before.as_ref().map_or(0, |before| before.size())
    }
}

/// Error of a write; nothing was stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoreError {
    Exists,
    Full,
}

/// Limits of the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Objects.
    pub(super) capacity: usize,
    /// Events.
    pub(super) history: usize,
    /// Bytes of JSON, of objects and again of events.
    pub(super) bytes: usize,
}

/// Objects by name.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<String, Arc<Stored>>,
    /// Bytes of them.
    size: usize,
    log: VecDeque<Event>,
    log_size: usize,
    /// Shared by all resources, as etcd's revision is.
    version: u64,
    /// The log holds every change after this version.
    since: u64,
    bounds: Bounds,
}

impl Store {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { objects: BTreeMap::new(), size: 0, log: VecDeque::new(), log_size: 0, version: 1, since: 1, bounds }
    }

    /// The version of the latest change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// A watch can go on from this version or a later one.
    pub(super) fn oldest(&self) -> u64 {
        self.since
    }

    /// Moves the version, as a write of any other resource does in a cluster.
    pub(super) fn write_elsewhere(&mut self) {
        self.version += 1;
    }

    /// Begins the log anew at the current version, as an API server that restarts does with its watch cache.
    pub(super) fn forget_changes(&mut self) {
        self.log.clear();
        (self.log_size, self.since) = (0, self.version);
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

    /// True if there is room for a new object.
    pub(super) fn admits(&self, object: &CertificateSigningRequest) -> Result<(), StoreError> {
        if self.objects.contains_key(&object.metadata.name) {
            return Err(StoreError::Exists);
        }
        let room = self.objects.len() < self.bounds.capacity;
        if room && self.has_room(None, object) { Ok(()) } else { Err(StoreError::Full) }
    }

    /// True if there is room for an object in place of another. Controllers add little and need no room.
    pub(super) fn has_room(&self, before: Option<&Stored>, object: &CertificateSigningRequest) -> bool {
        let (size, before) = (to_json(object).len(), before.map_or(0, Stored::size));
        size <= before || self.size - before + size <= self.bounds.bytes
    }

    /// Adds an object the store [admits](Store::admits).
    pub(super) fn insert(&mut self, object: CertificateSigningRequest, created: UnixTime) -> Arc<Stored> {
        let stored = self.stamp(object, created);
        self.put(&stored);
        self.record(Event { is_deletion: false, object: Arc::clone(&stored), before: None });
        stored
    }

    /// Replaces `before`; an object that would not change keeps its version, and nothing is told.
    pub(super) fn replace(&mut self, before: &Arc<Stored>, object: CertificateSigningRequest) -> Arc<Stored> {
        if object == before.object {
            return Arc::clone(before);
        }
        let stored = self.stamp(object, before.created);
        self.put(&stored);
        let before = Some(Arc::clone(before));
        self.record(Event { is_deletion: false, object: Arc::clone(&stored), before });
        stored
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Stored>> {
        let before = self.objects.remove(name)?;
        self.size -= before.size();
        let last = self.stamp(before.object.clone(), before.created);
        self.record(Event { is_deletion: true, object: last, before: Some(Arc::clone(&before)) });
        Some(before)
    }

    /// Gives an object the next version.
    fn stamp(&mut self, mut object: CertificateSigningRequest, created: UnixTime) -> Arc<Stored> {
        self.version += 1;
        object.metadata.resource_version = self.version.to_string();
        Arc::new(Stored::new(object, self.version, created))
    }

    fn put(&mut self, stored: &Arc<Stored>) {
        self.size += stored.size();
        let before = self.objects.insert(stored.object.metadata.name.clone(), Arc::clone(stored));
        self.size -= before.map_or(0, |before| before.size());
    }

    /// Remembers an event, and forgets the oldest ones it leaves no room for.
    fn record(&mut self, event: Event) {
        self.log_size += event.size();
        self.log.push_back(event);
        let Bounds { history, bytes, .. } = self.bounds;
        while self.log.len() > 1 && (self.log.len() > history || self.log_size > bytes) {
            self.log_size -= self.log.pop_front().map_or(0, |event| event.size());
            self.since = self.log.front().map_or(self.version, |event| event.object.version - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { capacity: 10, history: 10, bytes: 100_000 };

    fn named(name: &str) -> CertificateSigningRequest {
        let mut object = CertificateSigningRequest::default();
        object.metadata.name = name.into();
        object
    }

    #[test]
    fn every_change_has_a_version_of_its_own_and_no_change_has_none() {
        let mut store = Store::new(BOUNDS);
        let first = store.insert(named("a"), UnixTime::default());
        let same = store.replace(&first, first.object.clone());
        assert_eq!((first.version, same.version, store.version()), (2, 2, 2));
        assert_eq!(store.admits(&named("a")), Err(StoreError::Exists));
        store.remove("a").unwrap();
        assert!(store.remove("a").is_none());
        assert_eq!(store.version(), 3);
        assert_eq!(store.after(2).unwrap().object.object.metadata.resource_version, "3");
        assert!(store.after(3).is_none());
    }

    #[test]
    fn the_past_can_be_seen_as_far_as_the_log_reaches() {
        let mut store = Store::new(BOUNDS);
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
        let mut store = Store::new(Bounds { capacity: 2, history: 3, ..BOUNDS });
        assert_eq!(store.oldest(), store.version());
        store.insert(named("a"), UnixTime::default());
        store.insert(named("b"), UnixTime::default());
        assert_eq!(store.admits(&named("c")), Err(StoreError::Full));
        for _ in 0..5 {
            store.remove("a").unwrap();
            store.insert(named("a"), UnixTime::default());
        }
        assert_eq!((store.log.len(), store.oldest()), (3, store.version() - 3));
    }

    #[test]
    fn log_reaches_back_until_it_overflows_or_begins_anew() {
        let mut store = Store::new(Bounds { history: 2, ..BOUNDS });
        let mut reach = Vec::new();
        let mut note = |store: &Store| reach.push((store.oldest(), store.version()));
        store.write_elsewhere();
        note(&store);
        store.insert(named("a"), UnixTime::default());
        store.write_elsewhere();
        note(&store);
        store.forget_changes();
        note(&store);
        store.insert(named("b"), UnixTime::default());
        store.write_elsewhere();
        store.insert(named("c"), UnixTime::default());
        note(&store);
        store.insert(named("d"), UnixTime::default());
        note(&store);
        assert_eq!(reach, [(1, 2), (1, 4), (4, 4), (4, 7), (6, 8)]);
    }

    #[test]
    fn objects_and_history_are_bounded_in_bytes() {
        let large = |name: &str| {
            let mut object = named(name);
            object.metadata.annotations.insert("filler".into(), "x".repeat(30_000));
            object
        };
        let mut store = Store::new(BOUNDS);
        for name in ["a", "b", "c"] {
            store.admits(&large(name)).unwrap();
            store.insert(large(name), UnixTime::default());
        }
        assert_eq!(store.admits(&large("d")), Err(StoreError::Full));
        let small = store.insert(named("d"), UnixTime::default());
        assert!(!store.has_room(Some(&small), &large("d")) && store.has_room(Some(&small), &named("d")));
        assert!(store.log_size <= BOUNDS.bytes && store.log.len() == 4);
        store.remove("a").unwrap();
        assert!(store.log_size <= BOUNDS.bytes && store.log.len() < 4, "{}", store.log.len());
        store.admits(&large("e")).unwrap();
        for name in ["b", "c", "d"] {
            store.remove(name).unwrap();
        }
        assert_eq!(store.size, 0);
    }
}
