//! [`Shared`]: the state that calls share, and the turns of calls.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Pod;
use super::known::Known;

/// The state that calls share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Held briefly, so that the state can be read while a disk is slow.
    known: Mutex<Known>,
    /// Notified at the end of each turn.
    ended: Condvar,
}

/// The turn of a call to change one pod, until it is dropped.
pub(super) struct Turn<'a> {
    shared: &'a Shared,
    uid: &'a str,
}

impl Shared {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other call changes the pod, or a volume that this call may change: one that the pod has, or that it has
    /// in `next`.
    pub(super) fn turn<'a>(&'a self, uid: &'a str, next: Option<&Pod>) -> Turn<'a> {
        let mut known = self.known();
        loop {
            // All volumes at once, so that no two calls wait for each other.
            let paths = known.paths(uid, next);
            if known.busy.iter().all(|(other, taken)| other != uid && taken.is_disjoint(&paths)) {
                known.busy.insert(uid.to_owned(), paths);
                return Turn { shared: self, uid };
            }
            known = self.ended.wait(known).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.known().busy.remove(self.uid);
        self.shared.ended.notify_all();
    }
}
