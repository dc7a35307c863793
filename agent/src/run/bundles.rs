//! Follows the ClusterTrustBundles of `--trust-bundle` and of a certificate list, and writes their CA certificates to files.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use perennial_kubernetes::client::Limits;
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Roots;
use perennial_rotation::{Cancel, CancelOnDrop, IdentitySource};
use perennial_std::drive;
use serde_json::json;

use crate::bundle_file::{BundleFile, Problem};
use crate::cli::TrustBundle;
use crate::failure::Failure;
use crate::report::Report;
use crate::threads;

/// Interval between checks that the files are as they were written, and between attempts to write a file.
const CHECK: Duration = Duration::from_secs(30);
/// Pause after a panic of a watch.
const AFTER_PANIC: Duration = Duration::from_secs(60);
/// Pause after the API server could not be determined.
const CONNECT_RETRY: Duration = Duration::from_secs(30);

/// The API server of a trust bundle, and the identity of its requests.
pub(super) type Connection = (Arc<Cluster>, Arc<dyn IdentitySource>);
/// Determines the connection of a trust bundle. May wait for a disk. The error is a clause.
pub(super) type Connect = Arc<dyn Fn() -> Result<Connection, String> + Send + Sync>;

/// The trust bundles of a run. Dropping this ends their threads. Without trust bundles there is no thread.
pub(super) struct Bundles {
    all: Vec<Followed>,
    /// The name of the node or of the list, for the seeds of pauses.
    name: String,
    /// Called on the writing thread after each pass over the files.
    changed: Arc<dyn Fn() + Send + Sync>,
}

struct Followed {
    file: Arc<BundleFile>,
    /// The thread that follows the bundles.
    _watch: CancelOnDrop,
    /// The certificates and the problem that were reported last.
    reported: (Option<Roots>, Option<Problem>),
}

/// Makes the files of the options.
///
/// # Errors
/// [`Failure::Usage`] if a path names no file, or two options have the same path.
pub(super) fn read(options: &[TrustBundle]) -> Result<Vec<Arc<BundleFile>>, Failure> {
    let files = options.iter().map(|option| BundleFile::new(option).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let mut paths = BTreeSet::new();
    match files.iter().map(|file| file.view().path).find(|path| !paths.insert(path.clone())) {
        None => Ok(files),
        Some(path) => {
            let path = path.display();
            Err(Failure::Usage(format!("two --trust-bundle have the path {path}; give each its own file")))
        }
    }
}

impl Bundles {
    /// Makes a value without trust bundles. `name` is the name of the node or of the list, a seed of pauses. The writing
    /// thread calls `changed` after each pass over the files.
    pub(super) fn new(name: &str, changed: impl Fn() + Send + Sync + 'static) -> Self {
        Self { all: Vec::new(), name: name.to_owned(), changed: Arc::new(changed) }
    }

    /// Follows the bundles of these files from now on, and of no others. A file that was followed before keeps its
    /// certificates until the first answer of its API server.
    ///
    /// # Errors
    /// If the system refuses a thread. Files without a thread stay as they are.
    pub(super) fn follow(&mut self, files: Vec<(Arc<BundleFile>, Connect)>) -> Result<(), Failure> {
        // Ends the watches first, so that two never change the same bundles. The writing thread ends with them.
        let before = std::mem::take(&mut self.all);
        let reported = before.into_iter().map(|followed| (followed.file, followed.reported)).collect::<Vec<_>>();
        if files.is_empty() {
            return Ok(());
        }
        let (writer, wakes) = mpsc::channel();
        let (written, changed) = (files.iter().map(|(file, _)| file.clone()).collect::<Vec<_>>(), self.changed.clone());
        threads::start("bundles", "writing trust bundles", move || write(&written, &wakes, &*changed))?;
        for (file, connect) in files {
            let seed = perennial::seed(&self.name, &file.view().path.display().to_string());
            let cancel = Arc::<Cancel>::default();
            let (followed, cancelled, writer) = (file.clone(), cancel.clone(), writer.clone());
            let watch = move || {
                while !cancelled.is_cancelled() {
                    let drive = || watch(&followed, &*connect, seed, &cancelled, &writer);
                    // The panic hook logs a panic.
                    if catch_unwind(AssertUnwindSafe(drive)).is_err() {
                        cancelled.sleep(AFTER_PANIC);
                    }
                }
            };
            threads::start("bundle", "following a trust bundle", watch)?;
            let known = reported.iter().find(|(known, _)| Arc::ptr_eq(known, &file));
            let reported = known.map(|(_, reported)| reported.clone()).unwrap_or_default();
            self.all.push(Followed { file, _watch: CancelOnDrop(cancel), reported });
        }
        Ok(())
    }

    /// The files of the trust bundles, for metrics.
    pub(super) fn files(&self) -> Vec<Arc<BundleFile>> {
        self.all.iter().map(|followed| followed.file.clone()).collect()
    }

    /// Reports what is new about each file.
    pub(super) fn report(&mut self, report: &Report) {
        for followed in &mut self.all {
            let view = followed.file.view();
            let (roots, problem) = &followed.reported;
            let before = roots.as_ref().or(view.found.as_ref());
            if view.written.is_some() && view.written.as_ref() != before {
                let sentence = format!("trust bundle written: {}", view.describe_change(before));
                report.event("trust_bundle", view.to_json(), &sentence);
            } else if view.written != *roots {
                tracing::debug!("trust bundle unchanged: {}", view.describe_change(before));
            }
            if view.problem != *problem {
                let path = view.path.display();
                match &view.problem {
                    Some(Problem { why, .. }) => {
                        tracing::warn!("trust bundle {path}: {}: {why}", view.selection);
                        report.event("trouble", json!({ "of": view.path, "reason": why }), "");
                    }
                    None => {
                        tracing::info!(
                            "trust bundle {path}: the last problem is over; the file follows {} again",
                            view.selection
                        )
                    }
                }
            }
            followed.reported = (view.written, view.problem);
        }
    }

    /// True once each bundle was read and written, or an attempt has failed.
    pub(super) fn are_settled(&self) -> bool {
        self.all.iter().all(|followed| followed.file.view().is_settled)
    }

    /// The present problems of the files.
    pub(super) fn troubles(&self) -> impl Iterator<Item = String> {
        self.all.iter().filter_map(|followed| {
            let view = followed.file.view();
            view.problem.map(|problem| format!("trust bundle {}: {}", view.path.display(), problem.why))
        })
    }
}

/// Follows the bundles of `file` until it is cancelled, or the API server cannot be determined. Wakes the writing thread
/// at each change.
fn watch(
    file: &BundleFile,
    connect: &(dyn Fn() -> Result<Connection, String> + Send + Sync),
    seed: u64,
    cancel: &Cancel,
    writer: &Sender<()>,
) {
    let connected = connect();
    file.set_blocked_on(connected.as_ref().err().cloned().unwrap_or_default());
    // An error means that the run is ending, here and below.
    let _ = writer.send(());
    let Ok((cluster, identity)) = connected else { return cancel.sleep(CONNECT_RETRY) };
    let watch = file.bundles.watch(cluster, identity, Limits::default(), seed);
    let mut before = None;
    drive(watch, cancel, |_| {
        let state = file.bundles.state();
        let now = (state.roots, state.problem);
        if before.as_ref() != Some(&now) {
            let _ = writer.send(());
            before = Some(now);
        }
    });
}

/// Writes the files at each wake, and at intervals, until the senders of the wakes are dropped. Calls `changed` after each
/// pass.
fn write(files: &[Arc<BundleFile>], wakes: &Receiver<()>, changed: &(dyn Fn() + Send + Sync)) {
    loop {
        match wakes.recv_timeout(CHECK) {
            // One pass serves all wakes that have come.
            Ok(()) => wakes.try_iter().for_each(drop),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        files.iter().for_each(|file| file.write());
        changed();
    }
}
