//! A queue of timed entries.

use std::collections::BTreeMap;

use perennial::Instant;

/// A queue of entries, ordered by time; entries for the same time are in the order in which [`note`](Self::note) added
/// them.
#[derive(Clone, Debug)]
pub struct Agenda<T> {
    entries: BTreeMap<Entry, T>,
    noted: u64,
}

/// Identifies an entry: its time, and the number of entries noted before it.
pub type Entry = (Instant, u64);

impl<T> Agenda<T> {
    /// Adds an entry for the time `at`. Returns what identifies the entry, for [`strike`](Self::strike).
    pub fn note(&mut self, at: Instant, what: T) -> Entry {
        let entry = (at, self.noted);
        self.noted += 1;
        self.entries.insert(entry, what);
        entry
    }

    /// Removes the entry that [`note`](Self::note) identified as `entry`.
    pub fn strike(&mut self, entry: Entry) {
        self.entries.remove(&entry);
    }

    /// The time and the value of the earliest entry.
    pub fn first(&self) -> Option<(Instant, &T)> {
        self.entries.first_key_value().map(|((at, _), what)| (*at, what))
    }

    /// Removes and returns the earliest entry.
    pub fn take_first(&mut self) -> Option<T> {
        self.entries.pop_first().map(|(_, what)| what)
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), noted: 0 }
    }
}
