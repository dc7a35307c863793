//! An externally managed certificate and key in files: kubelet's `tlsCertFile` and `tlsPrivateKeyFile`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial_pki::{Credential, CredentialError};
use zeroize::Zeroizing;

use crate::{Identity, IdentitySource, InvalidToken, NotYet, Rotated, Token, clock};

/// A certificate and its key in two files, or in one file whose path is given twice. [`credential`](Self::credential)
/// reads the files again if the interval ([`every`](Self::every)) has passed. Files that make a pair replace the
/// current pair; otherwise the current pair stays in use. Both paths may be symbolic links that are switched, as in a
/// volume of a Secret.
#[derive(derive_more::Debug)]
pub struct FileCredential {
    certificate: PathBuf,
    key: PathBuf,
    every: Duration,
    held: Mutex<Latest>,
    #[debug(skip)]
    on_change: Box<OnChange>,
}

type OnChange = dyn Fn(&Rotated) + Send + Sync;

#[derive(Debug)]
struct Latest {
    credential: Arc<Credential>,
    read_at: Instant,
    error: Option<FileError>,
}

impl FileCredential {
    /// Reads the pair from the files at these paths for the first time.
    ///
    /// # Errors
    /// [`FileError`]: a file cannot be read, or the files do not make a pair.
    pub fn open(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, FileError> {
        let (certificate, key) = (certificate.into(), key.into());
        let credential = Arc::new(read_pair(&certificate, &key)?);
        warn_of_skipped(&credential, &certificate, &key);
        let held = Mutex::new(Latest { credential, read_at: Instant::now(), error: None });
        Ok(Self { certificate, key, every: Duration::from_secs(5), held, on_change: Box::new(|_| {}) })
    }

    /// Sets the interval at which the files are read again: five seconds by default.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    /// Calls `on_change` with each new pair. No thread polls the files: [`credential`](Self::credential) reads them and
    /// calls `on_change`, so call `credential` regularly.
    #[must_use]
    pub fn on_change(self, on_change: impl Fn(&Rotated) + Send + Sync + 'static) -> Self {
        Self { on_change: Box::new(on_change), ..self }
    }

    /// The latest pair, which may have expired. Reads the files first if the interval ([`every`](Self::every)) has
    /// passed.
    pub fn credential(&self) -> Arc<Credential> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let rotated = if held.read_at.elapsed() >= self.every { self.reload(&mut held) } else { None };
        let credential = held.credential.clone();
        // The lock is released first: `on_change` is foreign code and may call `credential`.
        drop(held);
        if let Some(rotated) = rotated {
            (self.on_change)(&rotated);
        }
        credential
    }

    fn reload(&self, held: &mut Latest) -> Option<Rotated> {
        held.read_at = Instant::now();
        match read_pair(&self.certificate, &self.key) {
            Ok(found) if found.chain() == held.credential.chain() => held.error = None,
            Ok(found) => {
                tracing::info!(
                    serial = found.chain().serial(),
                    "{}: another program has replaced the certificate; using the new one",
                    self.certificate.display()
                );
                warn_of_skipped(&found, &self.certificate, &self.key);
                let new = Arc::new(found);
                let old = std::mem::replace(&mut held.credential, new.clone());
                held.error = None;
                return Some(Rotated { old: Some(old), new });
            }
            Err(error) => {
                // Logged once, not at every read.
                if held.error.as_ref().map(ToString::to_string) != Some(error.to_string()) {
                    tracing::warn!("{error}; continuing with the pair that was read before");
                }
                held.error = Some(error);
            }
        }
        None
    }

    /// Path of the certificate file.
    pub(crate) fn path(&self) -> &Path {
        &self.certificate
    }

    /// Error of the last read of the files; `None` if that read succeeded.
    pub fn trouble(&self) -> Option<String> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.error.as_ref().map(ToString::to_string)
    }
}

/// Requests authenticate with the pair in the files, read as by [`FileCredential::credential`].
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

/// Identity source: the bearer token in a file, such as a projected service account token. Read for each request.
#[derive(Clone, Debug)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// Makes a source of the token in the file at this path. The file need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl IdentitySource for TokenFile {
    fn identity(&self) -> Result<Identity, NotYet> {
        let bytes = read(&self.0, MAX_PAIR).map_err(|error| NotYet::new(error.to_string()))?;
        let token = str::from_utf8(&bytes).map_err(|_| InvalidToken).and_then(Token::new);
        token.map(Identity::Token).map_err(|error| NotYet::new(format!("{}: {error}", self.0.display())))
    }
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Credential, FileError> {
    let (certificate_pem, key_pem) = (read(certificate, MAX_PAIR)?, read(key, MAX_PAIR)?);
    Credential::from_pair(&certificate_pem, &key_pem).map_err(|error| {
        let at_fault = if matches!(error, CredentialError::Key(_)) { key } else { certificate };
        FileError::Unusable(at_fault.to_owned(), error)
    })
}

/// Reads a regular file of at most `longest` bytes. Fails for other kinds of files, such as a pipe, which could block
/// for ever.
pub(crate) fn read(path: &Path, longest: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let unreadable = |error| FileError::Unreadable(path.to_owned(), error);
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    if metadata.len() > longest {
        return Err(FileError::TooLong { path: path.to_owned(), longest });
    }
    fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

/// Logs the damage in each file of a pair that is used in spite of the damage.
fn warn_of_skipped(credential: &Credential, certificate: &Path, key: &Path) {
    let of_key = if key == certificate { &[] } else { credential.key().skipped() };
    for (file, skipped) in [(certificate, credential.chain().skipped()), (key, of_key)] {
        for damage in skipped {
            tracing::warn!("{} is damaged: {damage}; using the rest of the file", file.display());
        }
    }
}

/// Longest file with a chain; keys and tokens are shorter.
pub(crate) const MAX_PAIR: u64 = 1 << 20;
/// Longest file with a CA bundle.
pub(crate) const MAX_BUNDLE: u64 = 8 << 20;

/// Error of files that do not make a pair, possibly for a moment only: another program that replaces both files writes
/// one of them first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file cannot be read.
    #[error("{0}: cannot be read: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// A file is longer than any file of its kind.
    #[error("{path}: longer than {} MiB", longest >> 20)]
    TooLong {
        /// The path of the file.
        path: PathBuf,
        /// The bound, in bytes.
        longest: u64,
    },
    /// A file contains no certificate or no key, or the key does not belong to the certificate.
    #[error("{0}: {1}")]
    Unusable(PathBuf, #[source] CredentialError),
}
