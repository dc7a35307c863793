//! [`Shared`]: the state that calls share, and the turns of calls.

use std::collections::BTreeSet;
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
    pub(super) uid: String,
}

impl Shared {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other call changes the pod, or a volume that this call may change: one that the pod has, or that it has
    /// in `next`.
    pub(super) fn turn(&self, uid: &str, next: Option<&Pod>) -> Turn<'_> {
        let mut known = self.known();
        loop {
            if known.begin(uid, next) {
                return Turn { shared: self, uid: uid.to_owned() };
            }
            known = self.ended.wait(known).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the first of these pods that no other call changes, and waits for one if there is none. `None` if no pod is left.
    pub(super) fn next_turn(&self, left: &mut BTreeSet<String>) -> Option<Turn<'_>> {
        let mut known = self.known();
        while !left.is_empty() {
            if let Some(uid) = left.iter().find(|uid| known.begin(uid, None)).cloned() {
                left.remove(&uid);
                return Some(Turn { shared: self, uid });
            }
            known = self.ended.wait(known).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.known().busy.remove(&self.uid);
        self.shared.ended.notify_all();
    }
}
