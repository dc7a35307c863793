//! What is to happen, and when.

use std::collections::BTreeMap;

use perennial::Instant;

/// What is to happen, in order of time. What is noted for the same moment happens in the order in which it was noted.
#[derive(Clone, Debug)]
pub struct Agenda<T> {
    entries: BTreeMap<Entry, T>,
    noted: u64,
}

/// Names an entry: its time, and how many were noted before.
pub type Entry = (Instant, u64);

impl<T> Agenda<T> {
    /// Notes what is to happen then.
    pub fn note(&mut self, at: Instant, what: T) -> Entry {
        let entry = (at, self.noted);
        self.noted += 1;
        self.entries.insert(entry, what);
        entry
    }

    /// Strikes an entry off.
    pub fn strike(&mut self, entry: Entry) {
        self.entries.remove(&entry);
    }

    /// When the earliest is to happen, and what.
    pub fn first(&self) -> Option<(Instant, &T)> {
        self.entries.first_key_value().map(|((at, _), what)| (*at, what))
    }

    /// Takes the earliest off.
    pub fn take_first(&mut self) -> Option<T> {
        self.entries.pop_first().map(|(_, what)| what)
    }

    /// Strikes everything off.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), noted: 0 }
    }
}
