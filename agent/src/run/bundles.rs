//! Follows the ClusterTrustBundles of `--trust-bundle`, and writes their CA certificates to files.

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

use crate::bundle_file::BundleFile;
use crate::cli::TrustBundle;
use crate::failure::Failure;
use crate::report::Report;
use crate::threads;

/// Interval between checks that the files are as they were written, and between attempts to write a file.
const CHECK: Duration = Duration::from_secs(30);
/// Pause after a panic of a watch.
const AFTER_PANIC: Duration = Duration::from_secs(60);

/// The trust bundles of a run. Dropping this ends their threads. Without trust bundles there is no thread.
pub(super) struct Bundles {
    all: Vec<Followed>,
    /// Wakes the thread that writes the files; `None` without trust bundles.
    writer: Option<Sender<()>>,
}

struct Followed {
    file: Arc<BundleFile>,
    /// The thread that follows the bundles.
    watch: Option<CancelOnDrop>,
    /// The seed of the pauses: differs among nodes and files.
    seed: u64,
    /// The certificates and the problem that were reported last.
    reported: (Option<Roots>, Option<String>),
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
    /// Starts to follow the bundles of these files. `name` is the name of the node, a seed of pauses. `changed` is called
    /// on the writing thread after each pass over the files.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(
        files: Vec<Arc<BundleFile>>,
        name: &str,
        cluster: &Arc<Cluster>,
        identity: &Arc<dyn IdentitySource>,
        changed: impl Fn() + Send + 'static,
    ) -> Result<Self, Failure> {
        if files.is_empty() {
            return Ok(Self { all: Vec::new(), writer: None });
        }
        let (writer, wakes) = mpsc::channel();
        let written = files.clone();
        threads::start("bundles", "writing trust bundles", move || write(&written, &wakes, changed))?;
        let all = files.into_iter().map(|file| {
            let seed = perennial::seed(name, &file.view().path.display().to_string());
            Followed { file, watch: None, seed, reported: (None, None) }
        });
        let mut bundles = Self { all: all.collect(), writer: Some(writer) };
        bundles.follow(cluster, identity)?;
        Ok(bundles)
    }

    /// Follows the bundles of another cluster, or with another identity, from now on. The certificates read before stay
    /// until the first answer.
    ///
    /// # Errors
    /// If the system refuses a thread. Bundles without a thread keep their certificates.
    pub(super) fn follow(&mut self, cluster: &Arc<Cluster>, identity: &Arc<dyn IdentitySource>) -> Result<(), Failure> {
        let Some(writer) = &self.writer else { return Ok(()) };
        for followed in &mut self.all {
            // First, so that two watches never change the same bundles.
            followed.watch = None;
            let cancel = Arc::<Cancel>::default();
            let (file, seed, writer) = (followed.file.clone(), followed.seed, writer.clone());
            let (cluster, identity, cancelled) = (cluster.clone(), identity.clone(), cancel.clone());
            let watch = move || {
                while !cancelled.is_cancelled() {
                    let drive = || watch(&file, &cluster, &identity, seed, &cancelled, &writer);
                    // The panic hook logs a panic.
                    if catch_unwind(AssertUnwindSafe(drive)).is_err() {
                        cancelled.sleep(AFTER_PANIC);
                    }
                }
            };
            threads::start("bundle", "following a trust bundle", watch)?;
            followed.watch = Some(CancelOnDrop(cancel));
        }
        Ok(())
    }

    /// The files, for metrics.
    pub(super) fn files(&self) -> Vec<Arc<BundleFile>> {
        self.all.iter().map(|followed| followed.file.clone()).collect()
    }

    /// Reports what is new about each file.
    pub(super) fn report(&mut self, report: &Report) {
        for followed in &mut self.all {
            let view = followed.file.view();
            let (roots, problem) = &followed.reported;
            if view.written.is_some() && view.written != *roots {
                let sentence = format!("trust bundle written: {}", view.describe_change(roots.as_ref()));
                report.event("trust_bundle", view.to_json(), &sentence);
            }
            if view.problem != *problem {
                let path = view.path.display();
                match &view.problem {
                    Some(why) => {
                        tracing::warn!("trust bundle {path}: {}: {why}", view.selection);
                        report.event("trouble", json!({ "of": view.path, "reason": why }), "");
                    }
                    None => tracing::info!("trust bundle {path}: {} can be read and written again", view.selection),
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
            view.problem.map(|why| format!("trust bundle {}: {why}", view.path.display()))
        })
    }
}

/// Follows the bundles of `file` until it is cancelled. Wakes the writing thread at each change.
fn watch(
    file: &BundleFile,
    cluster: &Arc<Cluster>,
    identity: &Arc<dyn IdentitySource>,
    seed: u64,
    cancel: &Cancel,
    writer: &Sender<()>,
) {
    let watch = file.bundles.watch(cluster.clone(), identity.clone(), Limits::default(), seed);
    let mut before = None;
    drive(watch, cancel, |_| {
        let state = file.bundles.state();
        let now = (state.roots, state.problem);
        if before.as_ref() != Some(&now) {
            // An error means that the run is ending.
            let _ = writer.send(());
            before = Some(now);
        }
    });
}

/// Writes the files at each wake, and at intervals, until the sender of the wakes is dropped. Calls `changed` after each
/// pass.
fn write(files: &[Arc<BundleFile>], wakes: &Receiver<()>, changed: impl Fn()) {
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
