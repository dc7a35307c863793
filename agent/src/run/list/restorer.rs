//! Writes files of members again that other programs have removed or changed, off the main loop: a disk may not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_rotation::{Handle, Restored, clock};

use super::workers::Workers;
use crate::certificates::MemberStore;
use crate::run::cert_reporter::is_on_disk;

/// Compares files with their certificates.
pub(super) struct Restorer {
    workers: Workers,
    troubles: Troubles,
    /// Wakes the main loop.
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// The error of each member whose files could not be written again at the last attempt.
type Troubles = Arc<Mutex<BTreeMap<String, String>>>;

impl Restorer {
    /// Creates a restorer that uses these threads. Calls `wake` after it has written files.
    pub(super) fn new(workers: Workers, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { workers, troubles: Troubles::default(), wake }
    }

    /// Begins to compare the files of these stores with the certificates of their rotations, and to write files again.
    /// Logs what was written, and new errors.
    pub(super) fn begin(&self, stores: Vec<(Handle, MemberStore)>) {
        let names: BTreeSet<&str> = stores.iter().map(|(handle, _)| handle.name()).collect();
        lock(&self.troubles).retain(|name, _| names.contains(name.as_str()));
        for (handle, store) in stores {
            let (troubles, wake) = (self.troubles.clone(), self.wake.clone());
            let key = format!("restore {}", handle.name());
            let job = move || {
                if restore(&handle, &store, &troubles) == Some(Restored::Written) {
                    wake();
                }
            };
            if let Err(why) = self.workers.begin(&key, job) {
                tracing::warn!("{why}; until this ends, files that other programs have removed are not written again");
                return;
            }
        }
    }
}

/// Compares the files of one member, and writes them again. `None` if that failed, which is logged.
fn restore(handle: &Handle, store: &MemberStore, troubles: &Troubles) -> Option<Restored> {
    let name = handle.name();
    let restored = store.restore(clock::now().unix).map_err(|error| error.to_string());
    let mut troubles = lock(troubles);
    match restored {
        Ok(restored) => {
            troubles.remove(name);
            match restored {
                Restored::Written => tracing::warn!(
                    "{name}: another program has removed or changed files of the certificate; wrote them again"
                ),
                Restored::Missing if is_on_disk(handle) => {
                    let directory = store.private_directory().display();
                    tracing::warn!(
                        "{name}: another program has removed files of the certificate, and {directory}; writing them again"
                    );
                    handle.report_replaced(None);
                }
                Restored::Missing | Restored::Unchanged => {}
            }
            Some(restored)
        }
        Err(why) => {
            if troubles.insert(name.to_owned(), why.clone()).as_ref() != Some(&why) {
                tracing::warn!(
                    "{name}: the files may not be those of the certificate: {why}; trying again every 30 seconds"
                );
            }
            None
        }
    }
}

fn lock(troubles: &Troubles) -> MutexGuard<'_, BTreeMap<String, String>> {
    troubles.lock().unwrap_or_else(PoisonError::into_inner)
}
