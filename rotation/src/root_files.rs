//! [`RootFiles`]: the CAs in files that another program replaces.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use perennial::Now;
use perennial_pki::{ChainError, Roots};

use crate::files::{FileContent, FileError, MAX_BUNDLE};
use crate::followed::{EVERY, Followed, Look};
use crate::{NotYet, RootsSource, clock};

/// Source of CAs: one or more files of PEM certificates, such as kubelet's `clientCAFile`, `ca.crt` of a Secret, or a
/// projected ClusterTrustBundle. The CAs of all files are trusted.
///
/// [`roots`](RootsSource::roots) reads the files again if the interval has passed. New content of a file is used if it
/// has a usable CA and was not modified in the last second. Until then the CAs of the last good read are trusted, also
/// if the file is missing or damaged; after ten seconds of that a warning is logged. The paths may be symbolic links
/// that are switched, as in a volume of a Secret.
#[derive(Debug)]
pub struct RootFiles {
    every: Duration,
    /// Locked while files are read.
    files: Mutex<Vec<Followed<Roots, RootsError>>>,
    /// The results of the last look. Has a lock of its own: `files` stays locked while files are read, and no handshake
    /// and no message must wait for a disk.
    latest: Mutex<Latest>,
}

#[derive(Debug)]
struct Latest {
    /// The CAs of all files.
    joined: Roots,
    origin: String,
}

impl RootFiles {
    /// Reads the files at these paths for the first time.
    ///
    /// # Errors
    /// [`RootsError`]: there is no path, a file cannot be read, or it holds no usable CA.
    pub fn open(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Result<Self, RootsError> {
        let now = clock::now();
        let open = |path| Followed::open([path], MAX_BUNDLE, read_bundle, now);
        let files = paths.into_iter().map(Into::into).map(open).collect::<Result<Vec<_>, _>>()?;
        let joined = joined(&files).map_err(|_| RootsError::NoPath)?;
        files.iter().for_each(|file| warn_of_skipped(file.path(), file.content()));
        let latest = Mutex::new(Latest { joined, origin: origin(&files) });
        Ok(Self { every: EVERY, files: Mutex::new(files), latest })
    }

    /// Sets the interval at which the files are read again: five seconds by default. While a file is being replaced, it
    /// is read every second, if the interval is not shorter.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    fn look(&self, files: &mut [Followed<Roots, RootsError>], now: Now) {
        let mut has_changed = false;
        // Twice if a file has changed: a link that is switched between two files leaves the first of them behind, and
        // the second time all files are behind the new link.
        for _ in 0..2 {
            let looks: Vec<_> = files.iter_mut().map(|file| file.look(now)).collect();
            looks.iter().zip(&*files).for_each(|(look, file)| report(look, file));
            if !looks.iter().any(|look| matches!(look, Look::Replaced(_))) {
                break;
            }
            has_changed = true;
        }
        let (joined, origin) = (has_changed.then(|| joined(files).ok()).flatten(), origin(files));
        let mut latest = self.latest();
        latest.origin = origin;
        if let Some(joined) = joined {
            latest.joined = joined;
        }
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RootsSource for RootFiles {
    fn roots(&self) -> Result<Roots, NotYet> {
        // While another thread reads the files, the CAs that were read before are good enough.
        let files = match self.files.try_lock() {
            Ok(files) => Some(files),
            Err(TryLockError::Poisoned(files)) => Some(files.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(mut files) = files {
            let now = clock::now();
            if files.iter().any(|file| file.next_look(self.every) <= now.instant) {
                self.look(&mut files, now);
            }
        }
        Ok(self.latest().joined.clone())
    }

    fn origin(&self) -> String {
        self.latest().origin.clone()
    }
}

fn report(look: &Look<Roots>, file: &Followed<Roots, RootsError>) {
    match look {
        Look::Nothing => {}
        Look::Replaced(_) => {
            tracing::info!("{}: the CA bundle has changed; verifying peers with the new one", file.path().display());
            warn_of_skipped(file.path(), file.content());
        }
        Look::Trouble(error) => {
            tracing::warn!("CA bundle {error}; verifying peers with the CAs read at {}", file.good_at());
        }
    }
}

fn read_bundle(paths: &[PathBuf], files: &[FileContent]) -> Result<Roots, RootsError> {
    Roots::from_pem(&files[0].bytes).map_err(|error| RootsError::Unusable(paths[0].clone(), error))
}

fn warn_of_skipped(path: &Path, roots: &Roots) {
    for damage in roots.skipped() {
        tracing::warn!("CA bundle {} is damaged: {damage}; using the other certificates", path.display());
    }
}

fn joined(files: &[Followed<Roots, RootsError>]) -> Result<Roots, ChainError> {
    match files {
        [only] => Ok(only.content().clone()),
        several => Roots::joined(several.iter().map(Followed::content)),
    }
}

fn origin(files: &[Followed<Roots, RootsError>]) -> String {
    let of_file = |file: &Followed<Roots, RootsError>| {
        let state = if file.trouble().is_none() { "" } else { "; it cannot be read now" };
        format!("{}, read at {}{state}", file.path().display(), file.good_at())
    };
    files.iter().map(of_file).collect::<Vec<_>>().join(", and ")
}

/// Error of files that hold no CAs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// No path was given.
    #[error("no CA file was named")]
    NoPath,
    /// A file cannot be read, or is too long.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file holds no usable CA certificate.
    #[error("{0}: {1}")]
    Unusable(PathBuf, #[source] ChainError),
}
