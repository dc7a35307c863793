//! [`BundleFile`]: a file with the CA certificates of ClusterTrustBundles, and its state for the log, metrics and
//! `/state`.

mod view;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use perennial_kubernetes::{BundleState, TrustBundles};
use perennial_pki::Roots;
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{CaFile, FileOptions, FileStoreError, ProjectedFile, ProjectedVolume, Zeroizing, clock};

use crate::certificates::{ListedBundle, Volumes};
use crate::cli::TrustBundle;
use crate::failure::Failure;
use crate::latest::Latest;
pub(crate) use view::BundleView;

/// A file with the CA certificates of ClusterTrustBundles.
pub(crate) struct BundleFile {
    pub(crate) bundles: TrustBundles,
    place: Place,
    path: PathBuf,
    last_write: Latest<LastWrite>,
    /// The reason why the API server is not known yet; empty once it is.
    blocked_on: Latest<String>,
    /// Held by each write: after a reload, two threads may write the file for a moment.
    retained: Mutex<Retained>,
}

/// The CA certificates of an earlier process that stay in the file.
#[derive(Default)]
enum Retained {
    /// This process has not read the file yet.
    #[default]
    Unread,
    /// Certificates that may come from a bundle whose content is bad now. A certificate stays until the content is good
    /// again, or until it was in a good bundle, whose content decides from then on.
    Some(Roots),
    /// No certificate stays, from now until the end of the process: the content of the bundles decides alone.
    None,
}

/// The result of the last attempt to write the file.
#[derive(Clone, Default)]
struct LastWrite {
    /// The certificates that the file has for certain; `None` before the first success.
    roots: Option<Roots>,
    /// The error of the last attempt; `None` if it succeeded.
    error: Option<String>,
}

/// The place of the file.
enum Place {
    File(CaFile),
    /// A file in a volume, with its path there. All files of a volume switch together.
    Volume {
        volume: Arc<ProjectedVolume>,
        path: String,
        access: FileAccess,
    },
}

impl Place {
    /// Reads the CA certificates that an earlier process has written; `None` if there are none, or only another program's.
    fn read(&self) -> Result<Option<Roots>, FileStoreError> {
        match self {
            Self::File(file) => file.read(),
            Self::Volume { volume, path, .. } => {
                Ok(volume.read(path)?.and_then(|contents| Roots::from_pem(&contents).ok()))
            }
        }
    }

    /// Writes these CA certificates, unless the file has them. Returns true if the file was written.
    fn write(&self, roots: &Roots) -> Result<bool, FileStoreError> {
        match self {
            Self::File(file) => file.write(roots),
            Self::Volume { volume, path, access } => {
                let contents = Zeroizing::new(roots.pem().as_bytes().to_vec());
                let file = ProjectedFile { path: path.clone(), contents, access: *access };
                volume.set(&[file], clock::now().unix)
            }
        }
    }
}

impl BundleFile {
    /// Makes the file of a trust bundle in a certificate list. `volumes` are those of its certificates. Changes nothing on
    /// disk.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the path names no file.
    pub(crate) fn listed(listed: &ListedBundle, volumes: &Volumes) -> Result<Self, Failure> {
        let file = Self::new(&listed.bundle)?;
        let Some((volume, owner)) = &listed.volume else { return Ok(file) };
        let FileOptions { owner: own, group, certificate_mode: mode, .. } = listed.bundle.options;
        let access = FileAccess { owner: own, group, mode };
        let path = file.path.strip_prefix(volume).map_err(Failure::usage)?.display().to_string();
        Ok(Self { place: Place::Volume { volume: volumes.of(volume, *owner), path, access }, ..file })
    }

    /// Makes the file of an option. Changes nothing on disk.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the path names no file.
    pub(crate) fn new(option: &TrustBundle) -> Result<Self, Failure> {
        let TrustBundle { selection, path, options } = option;
        let path = std::path::absolute(path).map_err(Failure::usage)?;
        let file = CaFile::new(&path, options).map_err(|error| Failure::Usage(format!("trust bundle: {error}")))?;
        Ok(Self {
            bundles: TrustBundles::new(selection.clone()),
            place: Place::File(file),
            path,
            last_write: Latest::default(),
            blocked_on: Latest::default(),
            retained: Mutex::default(),
        })
    }

    /// Sets the reason why the API server is not known yet; empty once it is.
    pub(crate) fn set_blocked_on(&self, why: String) {
        self.blocked_on.set(why);
    }

    /// Writes the file if the bundles were read, and the file has other contents. Waits for the disk.
    pub(crate) fn write(&self) {
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        let BundleState { roots: Some(roots), is_partial, .. } = self.bundles.state() else { return };
        let all = retained.join(roots, is_partial, &self.place);
        let written = all.and_then(|all| self.place.write(&all).map(|_| all));
        self.last_write.set(match written {
            Ok(roots) => LastWrite { roots: Some(roots), error: None },
            Err(error) => LastWrite { error: Some(error.to_string()), ..self.last_write.get() },
        });
    }

    pub(crate) fn view(&self) -> BundleView {
        let (state, last_write) = (self.bundles.state(), self.last_write.get());
        let is_written = state.roots.is_some() && state.roots == last_write.roots;
        let blocked_on = Some(self.blocked_on.get()).filter(|why| !why.is_empty());
        let problem = last_write.error.or(blocked_on).or(state.problem);
        BundleView {
            selection: self.bundles.selection().clone(),
            path: self.path.clone(),
            written: last_write.roots,
            changed: state.changed,
            read: state.read,
            bundles: state.bundles,
            is_settled: is_written || problem.is_some(),
            problem,
        }
    }
}

impl Retained {
    /// Returns the CA certificates for the file: `roots`, and those that stay while `roots` is partial.
    ///
    /// # Errors
    /// The file of an earlier process cannot be read.
    fn join(&mut self, roots: Roots, is_partial: bool, place: &Place) -> Result<Roots, FileStoreError> {
        // An error leaves the file unread, for the next attempt.
        let before = match std::mem::take(self) {
            _ if !is_partial => None,
            Self::Unread => place.read()?,
            Self::Some(retained) => Some(retained),
            Self::None => None,
        };
        let others = before.and_then(|before| without(&before, &roots));
        let all = others.as_ref().and_then(|others| Roots::joined([&roots, others]).ok());
        *self = others.map_or(Self::None, Self::Some);
        Ok(all.unwrap_or(roots))
    }
}

/// The certificates of `roots` that `others` lacks; `None` if there are none.
fn without(roots: &Roots, others: &Roots) -> Option<Roots> {
    let blocks = |roots| Roots::pem(roots).split_inclusive("-----END CERTIFICATE-----\n");
    let others: BTreeSet<&str> = blocks(others).collect();
    let rest: String = blocks(roots).filter(|block| !others.contains(block)).collect();
    Roots::from_pem(rest.as_bytes()).ok()
}
