//! Writes files of members again that other programs have removed or changed, off the main loop: a disk may not answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use perennial_rotation::clock;

use crate::certificates::MemberStore;
use crate::latest::Latest;
use crate::threads;

/// Compares files with their certificates. Clones share the state.
#[derive(Clone, Default)]
pub(super) struct Restorer {
    /// True while a thread compares files.
    busy: Arc<AtomicBool>,
    /// The error of each member whose files could not be written again at the last attempt.
    troubles: Latest<BTreeMap<String, String>>,
}

impl Restorer {
    /// Starts a thread that compares the files of these stores with their certificates, and writes files again. Does
    /// nothing while such a thread is running. Logs what was written, and new errors.
    pub(super) fn begin(&self, stores: Vec<(String, MemberStore)>) {
        if stores.is_empty() || self.busy.swap(true, Ordering::SeqCst) {
            return;
        }
        let restorer = self.clone();
        let started = threads::start("files", "comparing the files of certificates", move || restorer.run(&stores));
        if let Err(why) = started {
            self.busy.store(false, Ordering::SeqCst);
            tracing::warn!("{why}; files that other programs have removed are not written again");
        }
    }

    fn run(&self, stores: &[(String, MemberStore)]) {
        let before = self.troubles.get();
        let mut troubles = BTreeMap::new();
        for (name, store) in stores {
            match store.restore(clock::now().unix) {
                Ok(true) => tracing::warn!(
                    "{name}: another program has removed or changed files of the certificate; wrote them again"
                ),
                Ok(false) => {}
                Err(why) => {
                    if before.get(name) != Some(&why) {
                        tracing::warn!("{name}: cannot compare the files with the certificate: {why}");
                    }
                    troubles.insert(name.clone(), why);
                }
            }
        }
        self.troubles.set(troubles);
        self.busy.store(false, Ordering::SeqCst);
    }
}
