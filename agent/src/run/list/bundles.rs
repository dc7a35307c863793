//! The trust bundles of a certificate list.

use std::path::Path;
use std::sync::Arc;

use super::member::Shared;
use super::resolved::connect;
use crate::bundle_file::BundleFile;
use crate::certificates::ListedBundle;
use crate::failure::Failure;
use crate::run::bundles::Bundles;

/// The trust bundles of a certificate list, and the files that they are written to.
pub(super) struct ListedBundles {
    pub(super) followed: Bundles,
    listed: Vec<(ListedBundle, Arc<BundleFile>)>,
}

impl ListedBundles {
    /// Makes a value without trust bundles. `wake` wakes the main loop.
    pub(super) fn new(list: &Path, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let followed = Bundles::new(&format!("{name} {}", list.display()), move || wake());
        Self { followed, listed: Vec::new() }
    }

    /// Follows these trust bundles from now on, and no others. The files of removed trust bundles stay. A trust bundle that
    /// did not change keeps its certificates; its kubeconfig is read again.
    ///
    /// # Errors
    /// If a path names no file, or the system refuses a thread.
    pub(super) fn follow(&mut self, wanted: Vec<ListedBundle>, shared: &Shared) -> Result<(), Failure> {
        let mut listed = Vec::new();
        for wanted in wanted {
            let known = self.listed.iter().find(|(known, _)| *known == wanted).map(|(_, file)| file.clone());
            let file = known.map_or_else(|| BundleFile::listed(&wanted, &shared.volumes).map(Arc::new), Ok)?;
            listed.push((wanted, file));
        }
        self.listed = listed;
        let files = self.listed.iter();
        let files =
            files.map(|(listed, file)| (file.clone(), connect(listed, &shared.handles, shared.proxy))).collect();
        self.followed.follow(files)
    }
}
