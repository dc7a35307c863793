//! The objects and a log of their changes, both bounded in number and in bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use perennial::UnixTime;

use super::Options;
use super::message::to_json;
use super::object::Object;
use super::resource::{Key, Resource};

/// A stored object. Shared between the store, the log and the answers that contain it; never changed in place.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) key: Key,
    pub(super) object: Object,
    /// The object as JSON text, encoded once for all clients.
    pub(super) json: Box<[u8]>,
    /// `metadata.resourceVersion` of the object, as a number.
    pub(super) version: u64,
    pub(super) created: UnixTime,
}

impl Stored {
    pub(super) fn new(object: Object, version: u64, created: UnixTime) -> Self {
        Self { key: object.key(), json: to_json(&object).into(), object, version, created }
    }

    fn size(&self) -> usize {
        self.json.len()
    }
}

/// An entry of the log: one change of an object.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) is_deletion: bool,
    /// The object after the change; for a deletion, the deleted object with the version of the deletion.
    pub(super) object: Arc<Stored>,
    /// The object before the change; `None` for a new object.
    pub(super) before: Option<Arc<Stored>>,
}

impl Event {
    fn size(&self) -> usize {
        self.object.size() + self.before.as_ref().map_or(0, |before| before.size())
    }
}

/// The objects of all resources by key, and the log of their changes.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Stored>>,
    /// Total size of the objects, in bytes of JSON.
    size: usize,
    log: VecDeque<Event>,
    log_size: usize,
    /// The resource version: one for all resources, like etcd's revision.
    version: u64,
    /// The log contains every change after this version.
    since: u64,
    /// Options of the server, which contain the limits of objects and log.
    options: Options,
}

impl Store {
    /// An empty store with the limits of `options`.
    pub(super) fn new(options: Options) -> Self {
        // Versions begin at 1: in a query, resource version 0 means any version.
        Self { objects: BTreeMap::new(), size: 0, log: VecDeque::new(), log_size: 0, version: 1, since: 1, options }
    }

    /// The version of the latest change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The oldest version from which a watch can continue.
    pub(super) fn oldest(&self) -> u64 {
        self.since
    }

    /// Increments the version without a change of an object, as a write of another resource does in a cluster.
    pub(super) fn write_elsewhere(&mut self) {
        self.version += 1;
    }

    /// Clears the log. Imitates the restart of an API server, which begins with an empty watch cache.
    pub(super) fn forget_changes(&mut self) {
        self.log.clear();
        (self.log_size, self.since) = (0, self.version);
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Stored>> {
        self.objects.get(key)
    }

    /// The objects of a resource, sorted by key.
    pub(super) fn iter(&self, resource: Resource) -> impl Iterator<Item = &Arc<Stored>> {
        let first = Key::new(resource, "", "");
        self.objects.range(first..).map(|(_, stored)| stored).take_while(move |stored| stored.key.resource == resource)
    }

    /// The objects of a resource as they were at `version`, which must not be older than [`Store::oldest`].
    pub(super) fn at(&self, resource: Resource, version: u64) -> BTreeMap<&Key, &Arc<Stored>> {
        let mut objects: BTreeMap<&Key, &Arc<Stored>> =
            self.iter(resource).map(|stored| (&stored.key, stored)).collect();
        // Undo the changes after `version`, the latest first.
        let changes = self.log.iter().rev().take_while(|event| event.object.version > version);
        for event in changes.filter(|event| event.object.key.resource == resource) {
            match &event.before {
                Some(before) => objects.insert(&event.object.key, before),
                None => objects.remove(&event.object.key),
            };
        }
        objects
    }

    /// The first event after `version`; `None` if there is none yet. `version` must not be older than
    /// [`Store::oldest`].
    pub(super) fn after(&self, version: u64) -> Option<&Event> {
        let index = self.log.partition_point(|event| event.object.version <= version);
        self.log.get(index)
    }

    /// True if the store has room for `object`, either as the replacement of `before` or, if `before` is `None`, as a
    /// new object. Controllers write without this check, since they add little to an object.
    pub(super) fn has_room(&self, before: Option<&Stored>, object: &Object) -> bool {
        let (size, replaced) = (to_json(object).len(), before.map_or(0, Stored::size));
        // An object that does not grow is accepted even by a full store.
        let fits = size <= replaced || self.size - replaced + size <= self.options.memory;
        fits && (before.is_some() || self.objects.len() < self.options.capacity)
    }

    /// Inserts an object whose key is free.
    pub(super) fn insert(&mut self, object: Object, created: UnixTime) -> Arc<Stored> {
        self.write(None, object, created)
    }

    /// Replaces the stored object `before` by `object`. If the two are equal, the version stays, and watches get no
    /// event.
    pub(super) fn replace(&mut self, before: &Arc<Stored>, object: Object) -> Arc<Stored> {
        if object == before.object {
            return Arc::clone(before);
        }
        self.write(Some(Arc::clone(before)), object, before.created)
    }

    fn write(&mut self, before: Option<Arc<Stored>>, object: Object, created: UnixTime) -> Arc<Stored> {
        let stored = self.stamp(object, created);
        self.size += stored.size();
        let replaced = self.objects.insert(stored.key.clone(), Arc::clone(&stored));
        self.size -= replaced.map_or(0, |replaced| replaced.size());
        self.record(Event { is_deletion: false, object: Arc::clone(&stored), before });
        stored
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Stored>> {
        let before = self.objects.remove(key)?;
        self.size -= before.size();
        let last = self.stamp(before.object.clone(), before.created);
        self.record(Event { is_deletion: true, object: last, before: Some(Arc::clone(&before)) });
        Some(before)
    }

    /// Gives an object the next version.
    fn stamp(&mut self, mut object: Object, created: UnixTime) -> Arc<Stored> {
        self.version += 1;
        object.metadata_mut().resource_version = self.version.to_string();
        Arc::new(Stored::new(object, self.version, created))
    }

    /// Appends an event to the log, and removes the oldest events that exceed the bounds.
    fn record(&mut self, event: Event) {
        self.log_size += event.size();
        self.log.push_back(event);
        let Options { history, memory, .. } = self.options;
        // The last event stays, even if it alone exceeds the bytes: watches must see it.
        while self.log.len() > 1 && (self.log.len() > history || self.log_size > memory) {
            self.log_size -= self.log.pop_front().map_or(0, |event| event.size());
            // An event right before the oldest one left may have been removed.
            self.since = self.log.front().map_or(self.version, |event| event.object.version - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: usize = 100_000;
    const CSR: Resource = Resource::CertificateSigningRequests;

    fn options() -> Options {
        Options { capacity: 10, history: 10, memory: MEMORY, ..Options::default() }
    }

    fn named(name: &str) -> Object {
        let mut object = Object::empty(CSR);
        object.metadata_mut().name = name.into();
        object
    }

    #[test]
    fn each_change_increments_the_version() {
        let mut store = Store::new(options());
        let first = store.insert(named("a"), UnixTime::default());
        let same = store.replace(&first, first.object.clone());
        assert_eq!((first.version, same.version, store.version()), (2, 2, 2));
        assert!(store.get(&Key::csr("a")).is_some());
        store.remove(&Key::csr("a")).unwrap();
        assert!(store.remove(&Key::csr("a")).is_none());
        assert_eq!(store.version(), 3);
        assert_eq!(store.after(2).unwrap().object.object.metadata().resource_version, "3");
        assert!(store.after(3).is_none());
    }

    #[test]
    fn store_returns_objects_as_of_a_past_version() {
        let mut store = Store::new(options());
        let first = store.insert(named("a"), UnixTime::default());
        let mut changed = first.object.clone();
        changed.metadata_mut().labels.insert("x".into(), "y".into());
        store.replace(&first, changed);
        store.insert(named("b"), UnixTime::default());
        store.remove(&Key::csr("a")).unwrap();
        let versions = |at| store.at(CSR, at).values().map(|stored| stored.version).collect::<Vec<_>>();
        assert_eq!(
            [versions(1), versions(2), versions(3), versions(4), versions(5)],
            [vec![], vec![2], vec![3], vec![3, 4], vec![4]]
        );
    }

    #[test]
    fn objects_and_history_are_bounded_in_number() {
        let mut store = Store::new(Options { capacity: 2, history: 3, ..options() });
        assert_eq!(store.oldest(), store.version());
        store.insert(named("a"), UnixTime::default());
        store.insert(named("b"), UnixTime::default());
        assert!(!store.has_room(None, &named("c")));
        for _ in 0..5 {
            store.remove(&Key::csr("a")).unwrap();
            store.insert(named("a"), UnixTime::default());
        }
        assert_eq!((store.log.len(), store.oldest()), (3, store.version() - 3));
    }

    #[test]
    fn oldest_version_rises_only_by_overflow_or_clearing_of_log() {
        let mut store = Store::new(Options { history: 2, ..options() });
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
            object.metadata_mut().annotations.insert("filler".into(), "x".repeat(30_000));
            object
        };
        let mut store = Store::new(options());
        for name in ["a", "b", "c"] {
            assert!(store.has_room(None, &large(name)));
            store.insert(large(name), UnixTime::default());
        }
        assert!(!store.has_room(None, &large("d")));
        let small = store.insert(named("d"), UnixTime::default());
        assert!(!store.has_room(Some(&small), &large("d")) && store.has_room(Some(&small), &named("d")));
        assert!(store.log_size <= MEMORY && store.log.len() == 4);
        store.remove(&Key::csr("a")).unwrap();
        assert!(store.log_size <= MEMORY && store.log.len() < 4, "{}", store.log.len());
        assert!(store.has_room(None, &large("e")));
        for name in ["b", "c", "d"] {
            store.remove(&Key::csr(name)).unwrap();
        }
        assert_eq!(store.size, 0);
    }
}
