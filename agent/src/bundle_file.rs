//! [`BundleFile`]: a file with the CA certificates of ClusterTrustBundles, and its state for the log, metrics and
//! `/state`.

mod view;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use perennial::UnixTime;
use perennial_kubernetes::{BundleState, TrustBundles};
use perennial_pki::Roots;
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{CaFile, FileOptions, FileStoreError, ProjectedFile, ProjectedVolume, Zeroizing, clock};

use crate::certificates::{ListedBundle, Volumes};
use crate::cli::TrustBundle;
use crate::failure::Failure;
use crate::latest::Latest;
pub(crate) use view::{BundleView, Problem};

/// A file with the CA certificates of ClusterTrustBundles.
pub(crate) struct BundleFile {
    pub(crate) bundles: TrustBundles,
    place: Place,
    path: PathBuf,
    on_disk: Latest<OnDisk>,
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

/// The file as it was read or written last.
#[derive(Clone, Default)]
struct OnDisk {
    /// The CA certificates that the file had when this process read it first.
    found: Option<Roots>,
    /// The CA certificates in the file; `None` if there are none, or none of perennial.
    roots: Option<Roots>,
    /// Modification time of the file; `None` without `roots`.
    changed: Option<UnixTime>,
    /// The error of the last attempt to read or write the file.
    error: Option<Problem>,
    /// True once this process has written the file, or found that it has the wanted contents.
    is_current: bool,
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
            on_disk: Latest::default(),
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
        let read = if let Retained::Unread = *retained { self.recall(&mut retained) } else { Ok(()) };
        let BundleState { roots: Some(roots), is_partial, .. } = self.bundles.state() else { return };
        let written = match read {
            // The CAs of an earlier process are not known, and would be lost.
            Err(error) if is_partial => Err(error),
            _ => {
                let all = retained.join(roots, is_partial);
                self.place.write(&all).map(|is_written| (all, is_written))
            }
        };
        let before = self.on_disk.get();
        self.on_disk.set(match written {
            Ok((roots, is_written)) => {
                if is_written && before.is_current && before.roots.as_ref() == Some(&roots) {
                    let path = self.path.display();
                    tracing::warn!(
                        "trust bundle {path}: another program has removed or changed the file; wrote it again"
                    );
                }
                let changed = if is_written { self.modified() } else { before.changed.or_else(|| self.modified()) };
                // Also a file of another program that has the wanted CA certificates.
                let is_found = !is_written && !before.is_current;
                let found = if is_found { Some(roots.clone()) } else { before.found };
                OnDisk { found, roots: Some(roots), changed, error: None, is_current: true }
            }
            Err(error) => OnDisk { error: Some(Problem::of_file(&error)), ..before },
        });
    }

    /// Reads the CA certificates that an earlier process has written.
    ///
    /// # Errors
    /// The file cannot be read. The next call tries again.
    fn recall(&self, retained: &mut Retained) -> Result<(), FileStoreError> {
        let found = self.place.read()?;
        *retained = found.clone().map_or(Retained::None, Retained::Some);
        let changed = found.as_ref().and_then(|_| self.modified());
        self.on_disk.set(OnDisk { roots: found.clone(), found, changed, ..OnDisk::default() });
        Ok(())
    }

    fn modified(&self) -> Option<UnixTime> {
        let modified = fs::metadata(&self.path).and_then(|file| file.modified()).ok()?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::from_millis(i64::try_from(since.as_millis()).ok()?))
    }

    /// The state of the file while [`write`](Self::write) is called again and again.
    pub(crate) fn view(&self) -> BundleView {
        let (state, on_disk) = (self.bundles.state(), self.on_disk.get());
        let is_written = on_disk.is_current && state.roots == on_disk.roots;
        let blocked_on = Some(self.blocked_on.get()).filter(|why| !why.is_empty());
        let problem = on_disk.error.or_else(|| blocked_on.map(Problem::of_connection));
        let problem = problem.or_else(|| state.problem.map(Problem::of_bundles));
        BundleView {
            selection: self.bundles.selection().clone(),
            path: self.path.clone(),
            found: on_disk.found,
            written: on_disk.roots,
            changed: on_disk.changed,
            read: state.read,
            bundles: state.read.map(|_| state.bundles),
            is_settled: is_written || problem.is_some(),
            problem,
        }
    }

    /// The state of the file, read from the disk alone. Changes nothing, and reads nothing from the API server.
    pub(crate) fn read(&self) -> BundleView {
        // The user of this command may be one who can only read the file.
        let found = match self.place.read() {
            Ok(None) => self.is_free().map(|()| None),
            found => found,
        };
        let problem = match &found {
            Ok(Some(_)) => None,
            Ok(None) => Some(Problem::unwritten(&self.path)),
            Err(error) => Some(Problem::of_file(error)),
        };
        let written = found.ok().flatten();
        BundleView {
            selection: self.bundles.selection().clone(),
            path: self.path.clone(),
            found: written.clone(),
            changed: written.as_ref().and_then(|_| self.modified()),
            written,
            read: None,
            bundles: None,
            is_settled: true,
            problem,
        }
    }

    /// Checks that the file could be written, as far as possible without changing anything on disk.
    ///
    /// # Errors
    /// The directory cannot be written to, or the file is another program's.
    pub(crate) fn is_free(&self) -> Result<(), FileStoreError> {
        match &self.place {
            Place::File(file) => file.is_free(),
            Place::Volume { .. } => Ok(()),
        }
    }
}

impl Retained {
    /// Returns the CA certificates for the file: `roots`, and those that stay while `roots` is partial.
    fn join(&mut self, roots: Roots, is_partial: bool) -> Roots {
        let before = match std::mem::take(self) {
            Self::Some(retained) if is_partial => Some(retained),
            _ => None,
        };
        let others = before.and_then(|before| without(&before, &roots));
        let all = others.as_ref().and_then(|others| Roots::joined([&roots, others]).ok());
        *self = others.map_or(Self::None, Self::Some);
        all.unwrap_or(roots)
    }
}

/// The certificates of `roots` that `others` lacks; `None` if there are none.
fn without(roots: &Roots, others: &Roots) -> Option<Roots> {
    let others: BTreeSet<&str> = blocks(others).collect();
    let rest: String = blocks(roots).filter(|block| !others.contains(block)).collect();
    Roots::from_pem(rest.as_bytes()).ok()
}

/// The PEM blocks of the certificates.
fn blocks(roots: &Roots) -> impl Iterator<Item = &str> {
    roots.pem().split_inclusive("-----END CERTIFICATE-----\n")
}
