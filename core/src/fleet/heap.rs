//! An indexed heap of instants: each member has at most one, which can be moved or removed.

use alloc::vec::Vec;

use crate::time::Instant;

/// Children of a node. Four children are fewer levels than two, and lie in one or two cache lines.
const ARITY: usize = 4;

/// The position of a member without an instant.
const ABSENT: u32 = u32::MAX;

/// An indexed 4-ary min-heap: at most one instant for each member. Finding the first instant takes constant time, a
/// change takes a time that is logarithmic in the number of instants. Only [`grow`](Self::grow) allocates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heap {
    entries: Vec<Entry>,
    /// The position in `entries` of each member's instant.
    positions: Vec<u32>,
}

/// The instant of a member. Packed: 12 bytes instead of 16. Ordered by instant, then by member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(Rust, packed(4))]
struct Entry {
    at: Instant,
    member: u32,
}

impl Heap {
    /// Makes room for one more member, without an instant.
    pub(super) fn grow(&mut self) {
        self.positions.push(ABSENT);
        self.entries.reserve(self.positions.len() - self.entries.len());
    }

    /// Allocates for `additional` more members, and for no more than these.
    pub(super) fn reserve(&mut self, additional: usize) {
        self.positions.reserve_exact(additional);
        self.entries.reserve_exact(self.positions.len() + additional - self.entries.len());
    }

    /// The first instant, and its member.
    pub(super) fn first(&self) -> Option<(Instant, u32)> {
        self.entries.first().map(|entry| (entry.at, entry.member))
    }

    /// The instant of a member.
    pub(super) fn get(&self, member: u32) -> Option<Instant> {
        self.entries.get(self.positions[member as usize] as usize).map(|entry| entry.at)
    }

    /// Sets or removes the instant of a member.
    pub(super) fn set(&mut self, member: u32, at: Option<Instant>) {
        let position = self.positions[member as usize] as usize;
        match (self.entries.get(position).copied(), at) {
            (Some(old), Some(at)) if { old.at } == at => {}
            (Some(_), Some(at)) => self.settle(position, Entry { at, member }),
            (None, Some(at)) => {
                self.entries.push(Entry { at, member });
                self.settle(self.entries.len() - 1, Entry { at, member });
            }
            (Some(_), None) => {
                self.positions[member as usize] = ABSENT;
                // The last entry fills the gap, unless it is the gap.
                if let Some(last) = self.entries.pop().filter(|last| last.member != member) {
                    self.settle(position, last);
                }
            }
            (None, None) => {}
        }
    }

    /// Moves the gap at `position` up or down, until `entry` can fill it.
    fn settle(&mut self, mut position: usize, entry: Entry) {
        while position > 0 && entry < self.entries[(position - 1) / ARITY] {
            self.put(position, self.entries[(position - 1) / ARITY]);
            position = (position - 1) / ARITY;
        }
        while let Some(child) = self.least_child(position).filter(|child| self.entries[*child] < entry) {
            self.put(position, self.entries[child]);
            position = child;
        }
        self.put(position, entry);
    }

    fn least_child(&self, position: usize) -> Option<usize> {
        let first = position * ARITY + 1;
        (first..self.entries.len().min(first + ARITY)).min_by_key(|child| self.entries[*child])
    }

    fn put(&mut self, position: usize, entry: Entry) {
        self.entries[position] = entry;
        self.positions[entry.member as usize] = position as u32;
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::jitter::mix;

    #[test]
    fn heap_agrees_with_sorted_map_under_random_changes() {
        let (mut heap, mut map) = (Heap::default(), BTreeMap::new());
        (0..50).for_each(|_| heap.grow());
        for step in 0..20_000 {
            let draw = mix(7, 0, step);
            let (member, at) = ((draw % 50) as u32, Instant::from_millis(draw >> 32 & 0x3f));
            let at = Some(at).filter(|_| draw >> 40 & 3 > 0);
            heap.set(member, at);
            match at {
                Some(at) => map.insert(member, at),
                None => map.remove(&member),
            };
            assert_eq!(heap.first(), map.iter().map(|(member, at)| (*at, *member)).min(), "step {step}");
            assert_eq!(heap.get(member), map.get(&member).copied());
        }
    }

    #[test]
    fn entry_takes_twelve_bytes() {
        assert_eq!(size_of::<Entry>(), 12);
    }
}
