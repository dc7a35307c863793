//! [`FileCredential`]: a pair in files that another program replaces, such as kubelet's `tlsCertFile` and
//! `tlsPrivateKeyFile`.

mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::Event;
use perennial::Now;
use perennial_pki::{Credential, CredentialError};

use crate::files::{FileContent, FileError, MAX_PAIR};
use crate::followed::{Change, EVERY, Followed, if_free, read_all};
use crate::{Identity, IdentitySource, NotYet, clock};
pub use watch::Watch;

/// A certificate and its key in files that another program replaces: two files, or one bundle. Cheap to clone; all
/// clones are the same pair.
///
/// The files are read again every five seconds ([`every`](Self::every)): by a [`watch`](Self::watch) or, if there is
/// none, by calls of [`credential`](Self::credential). A new pair is used if it is complete and at rest: no file was
/// modified for a second. Until then, and while files are missing or do not make a pair, the last good pair stays in
/// use. After ten seconds without a pair in the files, a warning is logged. The paths may be symbolic links that are
/// switched, as in a volume of a Secret.
///
/// The functions of [`tls`](crate::tls) take a `&FileCredential` in place of a handle:
///
/// ```no_run
/// use perennial_rotation::{FileCredential, tls};
///
/// // The `podCertificate` projection of a volume: key and chain in one file.
/// let files = FileCredential::open_bundle("/var/run/tls/credentialbundle.pem")?;
/// let config = tls::server_config(&files);
/// # Ok::<(), perennial_rotation::FileError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileCredential {
    shared: Arc<Shared>,
}

/// The state that all clones of a [`FileCredential`] share.
#[derive(Debug)]
struct Shared {
    /// The path of the certificate file, which names the pair in messages.
    certificate: PathBuf,
    /// Locked while files are read.
    files: Mutex<Files>,
    /// The pair and the error after the last check. Has a lock of its own: while one thread reads the files, `files` is
    /// locked, and handshakes on other threads must not wait for the disk.
    latest: Mutex<Latest>,
    /// Notified when a pair is replaced, when a watch ends, and when the receiver of a watch is dropped.
    changed: Event,
    /// The number of watches. While there is one, `credential` does not read the files.
    watches: AtomicUsize,
}

#[derive(Debug)]
struct Files {
    every: Duration,
    followed: Followed<Arc<Credential>, FileError>,
}

#[derive(Debug)]
struct Latest {
    credential: Arc<Credential>,
    last_error: Option<String>,
}

impl FileCredential {
    /// Reads the pair from a certificate file and a key file for the first time. If both paths are equal, the file is a
    /// bundle: see [`open_bundle`](Self::open_bundle).
    ///
    /// # Errors
    /// [`FileError`]: a file cannot be read, or the files do not make a pair, possibly only because another program is
    /// replacing them.
    pub fn open(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, FileError> {
        let (certificate, key) = (certificate.into(), key.into());
        if certificate == key { Self::open_all([certificate]) } else { Self::open_all([certificate, key]) }
    }

    /// Reads the pair from one file for the first time: key and chain in any order, such as the credential bundle of a
    /// `podCertificate` projection. Since one read returns key and chain, they belong to the same pair even if a link
    /// to the file is switched.
    ///
    /// # Errors
    /// [`FileError`]: the file cannot be read, or does not contain a pair, possibly only because another program is
    /// writing it.
    pub fn open_bundle(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_all([path.into()])
    }

    fn open_all<const N: usize>(paths: [PathBuf; N]) -> Result<Self, FileError> {
        let certificate = paths[0].clone();
        let found = read_all(paths.iter().map(PathBuf::as_path), MAX_PAIR);
        let followed = Followed::open(paths, read_pair, found, clock::now())?;
        let credential = followed.content().clone();
        warn_of_skipped(&credential, followed.paths());
        let shared = Shared {
            certificate,
            files: Mutex::new(Files { every: EVERY, followed }),
            latest: Mutex::new(Latest { credential, last_error: None }),
            changed: Event::new(),
            watches: AtomicUsize::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sets the interval at which the files are read again: five seconds by default. While another program is replacing
    /// the files, they are read every second, or at this interval if it is shorter. A [`watch`](Self::watch) waits for at
    /// least ten milliseconds between two reads.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        self.files().every = every;
        self
    }

    /// The latest pair, which may have expired. Without a [`watch`](Self::watch), first reads the files if the interval
    /// ([`every`](Self::every)) has passed since the last read.
    pub fn credential(&self) -> Arc<Credential> {
        if self.shared.watches.load(Ordering::Relaxed) == 0 {
            // While another thread reads the files, the pair that was read before is good enough.
            if let Some(files) = if_free(&self.shared.files) {
                self.check_if_due(files, clock::now());
            }
        }
        self.latest().credential.clone()
    }

    /// The error that was logged last about the files, if they have made no pair for ten seconds or more; otherwise
    /// `None`.
    pub fn last_error(&self) -> Option<String> {
        self.latest().last_error.clone()
    }

    /// Path of the certificate file.
    pub(crate) fn path(&self) -> &Path {
        &self.shared.certificate
    }

    fn check_if_due(&self, mut files: MutexGuard<'_, Files>, now: Now) {
        if now.instant < files.followed.next_check(files.every) {
            return;
        }
        let found = read_all(files.followed.paths(), MAX_PAIR);
        let change = files.followed.check(found, now);
        let credential = files.followed.content().clone();
        let last_error = files.followed.last_error().map(str::to_owned);
        *self.latest() = Latest { credential: credential.clone(), last_error };
        let paths = matches!(change, Change::Replaced(_))
            .then(|| files.followed.paths().map(Path::to_owned).collect::<Vec<_>>());
        // The lock is released first: subscribers of `tracing` are foreign code and may call `credential`.
        drop(files);
        if let Change::Trouble(error) = &change {
            tracing::warn!("{error}; continuing with the pair that was read before");
        }
        if let Some(paths) = paths {
            self.shared.changed.notify(usize::MAX);
            tracing::info!(
                serial = credential.chain().serial(),
                "{}: another program has replaced the certificate; using the new one",
                self.path().display()
            );
            warn_of_skipped(&credential, paths.iter().map(PathBuf::as_path));
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.shared.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests authenticate with the pair that [`FileCredential::credential`] returns. While that pair is expired, there
/// is no identity.
impl IdentitySource for FileCredential {
    fn identity(&self) -> Result<Identity, NotYet> {
        let credential = self.credential();
        let validity = credential.chain().certificate().validity;
        match validity.expired(clock::now().unix) {
            false => Ok(Identity::Certificate(credential)),
            true => Err(NotYet::new(format!("{}: expired at {}", self.path().display(), validity.not_after()))),
        }
    }
}

/// Makes a pair of one file, or of the certificate file and the key file.
fn read_pair(paths: &[PathBuf], files: &[FileContent]) -> Result<Arc<Credential>, FileError> {
    let key = files.len() - 1;
    Credential::from_pair(&files[0].bytes, &files[key].bytes).map(Arc::new).map_err(|error| {
        let at_fault = if matches!(error, CredentialError::Key(_)) { key } else { 0 };
        FileError::Unusable(paths[at_fault].clone(), error)
    })
}

/// Logs the damage in each file of a pair that is used in spite of the damage.
fn warn_of_skipped<'a>(credential: &Credential, paths: impl Iterator<Item = &'a Path>) {
    // If chain and key come from one file, both list the same damage: `zip` ends after the only path.
    for (path, skipped) in paths.zip([credential.chain().skipped(), credential.key().skipped()]) {
        for damage in skipped {
            tracing::warn!("{} is damaged: {damage}; using the rest of the file", path.display());
        }
    }
}
