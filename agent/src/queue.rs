//! A bounded queue from threads that must not block to one thread that may.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A queue of items for one consumer thread, bounded in bytes. Clones share the queue.
pub(crate) struct Queue<T>(Arc<Shared<T>>);

/// The state that the clones of a queue share.
struct Shared<T> {
    /// Most bytes of queued items.
    most: usize,
    waiting: Mutex<Waiting<T>>,
    changed: Condvar,
    dropped: AtomicU64,
}

/// The queued entries, the sum of their bytes, and the state of the consumer thread.
struct Waiting<T> {
    entries: VecDeque<(Entry<T>, usize)>,
    bytes: usize,
    /// True while the consumer thread works on an entry that it has taken.
    working: bool,
}

/// An entry of the queue: an item, or a gap where items were dropped.
pub(crate) enum Entry<T> {
    Item(T),
    /// This many items in a row were dropped here, because the queue was full.
    Missing(u64),
}

impl<T> Queue<T> {
    /// Creates a queue whose items take at most `most` bytes together.
    pub(crate) fn new(most: usize) -> Self {
        let waiting = Waiting { entries: VecDeque::new(), bytes: 0, working: false };
        let shared = Shared { most, waiting: Mutex::new(waiting), changed: Condvar::new(), dropped: AtomicU64::new(0) };
        Self(Arc::new(shared))
    }

    /// Queues an item that takes about `bytes`. Never blocks: if the queue is full, the item is dropped and counted.
    pub(crate) fn push(&self, item: T, bytes: usize) {
        let mut waiting = self.waiting();
        if waiting.bytes + bytes <= self.0.most {
            waiting.bytes += bytes;
            waiting.entries.push_back((Entry::Item(item), bytes));
        } else {
            match waiting.entries.back_mut() {
                Some((Entry::Missing(count), _)) => *count += 1,
                _ => waiting.entries.push_back((Entry::Missing(1), 0)),
            }
            self.count_dropped(1);
        }
        drop(waiting);
        self.0.changed.notify_all();
    }

    /// Returns the next entry to the consumer thread, and marks the previous entry as done. Blocks while the queue is
    /// empty.
    pub(crate) fn next(&self) -> Entry<T> {
        let mut waiting = self.waiting();
        waiting.working = false;
        self.0.changed.notify_all();
        loop {
            if let Some((entry, bytes)) = waiting.entries.pop_front() {
                waiting.bytes -= bytes;
                waiting.working = true;
                return entry;
            }
            waiting = self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds `items` to the number of dropped items. The consumer thread calls this for items that it took from the
    /// queue and could not write.
    pub(crate) fn count_dropped(&self, items: u64) {
        self.0.dropped.fetch_add(items, Ordering::Relaxed);
    }

    /// The number of items dropped since the queue was created.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the consumer thread is done with every entry, for at most `within`. Returns false if an entry is
    /// left.
    pub(crate) fn finish_within(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        let mut waiting = self.waiting();
        while waiting.working || !waiting.entries.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            waiting = self.0.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
