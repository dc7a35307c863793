//! [`RootFiles`]: the CAs in files that another program replaces.

use std::mem;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial::UnixTime;
use perennial_pki::{ChainError, Roots};

use crate::files::{FileError, MAX_BUNDLE, read};
use crate::{NotYet, RootsSource, clock};

/// Source of CAs: one or more files of PEM certificates, such as kubelet's `clientCAFile`, `ca.crt` of a Secret, or a
/// projected ClusterTrustBundle. The CAs of all files are trusted.
///
/// [`roots`](RootsSource::roots) reads the files again if the interval has passed. While a file is missing or holds no
/// usable CA, the CAs of its last good read are trusted, and a warning is logged. The paths may be symbolic links that
/// are switched.
#[derive(Debug)]
pub struct RootFiles {
    every: Duration,
    read: Mutex<LastRead>,
    /// The origin of the CAs, for messages. Has a lock of its own: `read` stays locked while files are read, and no
    /// message must wait for a disk.
    origin: Mutex<String>,
}

#[derive(Debug)]
struct LastRead {
    files: Vec<RootFile>,
    /// The CAs of all files.
    joined: Roots,
    at: Instant,
}

/// A file, as of its last good read.
#[derive(Debug)]
struct RootFile {
    path: PathBuf,
    pem: Vec<u8>,
    roots: Roots,
    at: UnixTime,
    /// The error of the last read; empty if the last read succeeded.
    trouble: String,
}

impl RootFiles {
    /// Reads the files at these paths for the first time.
    ///
    /// # Errors
    /// [`RootsError`]: there is no path, a file cannot be read, or it holds no usable CA.
    pub fn open(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Result<Self, RootsError> {
        let files = paths.into_iter().map(|path| RootFile::open(path.into())).collect::<Result<Vec<_>, _>>()?;
        let joined = joined(&files).map_err(|_| RootsError::NoPath)?;
        let origin = Mutex::new(origin(&files));
        let read = Mutex::new(LastRead { files, joined, at: Instant::now() });
        Ok(Self { every: Duration::from_secs(5), read, origin })
    }

    /// Sets the interval at which the files are read again: five seconds by default.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }
}

impl RootsSource for RootFiles {
    fn roots(&self) -> Result<Roots, NotYet> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.at.elapsed() >= self.every {
            read.at = Instant::now();
            let mut changed = false;
            for file in &mut read.files {
                changed |= file.read_again();
            }
            if let (true, Ok(joined)) = (changed, joined(&read.files)) {
                read.joined = joined;
            }
            *self.origin.lock().unwrap_or_else(PoisonError::into_inner) = origin(&read.files);
        }
        Ok(read.joined.clone())
    }

    fn origin(&self) -> String {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl RootFile {
    fn open(path: PathBuf) -> Result<Self, RootsError> {
        let pem = read(&path, MAX_BUNDLE)?.to_vec();
        let roots = Roots::from_pem(&pem).map_err(|error| RootsError::Unusable(path.clone(), error))?;
        let file = Self { path, pem, roots, at: clock::now().unix, trouble: String::new() };
        file.warn_of_skipped();
        Ok(file)
    }

    /// Reads the file again. Returns true if its CAs have changed.
    fn read_again(&mut self) -> bool {
        let found = read(&self.path, MAX_BUNDLE).map_err(RootsError::from).and_then(|pem| {
            // Most reads find the same bytes, which need not be parsed.
            let roots = if **pem == self.pem { Ok(self.roots.clone()) } else { Roots::from_pem(&pem) };
            Ok((pem.to_vec(), roots.map_err(|error| RootsError::Unusable(self.path.clone(), error))?))
        });
        let path = self.path.display();
        match found {
            Ok((pem, roots)) => {
                self.trouble.clear();
                self.at = clock::now().unix;
                self.pem = pem;
                let before = mem::replace(&mut self.roots, roots);
                let changed = self.roots != before;
                if changed {
                    tracing::info!("{path}: the CA bundle has changed; verifying peers with the new one");
                    self.warn_of_skipped();
                }
                changed
            }
            Err(error) => {
                let (error, at) = (error.to_string(), self.at);
                // Logged once, not at every read.
                if self.trouble != error {
                    tracing::warn!("CA bundle {error}; verifying peers with the CAs read at {at}");
                }
                self.trouble = error;
                false
            }
        }
    }

    fn warn_of_skipped(&self) {
        for damage in self.roots.skipped() {
            tracing::warn!("CA bundle {} is damaged: {damage}; using the other certificates", self.path.display());
        }
    }
}

fn joined(files: &[RootFile]) -> Result<Roots, ChainError> {
    match files {
        [only] => Ok(only.roots.clone()),
        several => Roots::joined(several.iter().map(|file| &file.roots)),
    }
}

fn origin(files: &[RootFile]) -> String {
    let of_file = |file: &RootFile| {
        let state = if file.trouble.is_empty() { "" } else { "; it cannot be read now" };
        format!("{}, read at {}{state}", file.path.display(), file.at)
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
