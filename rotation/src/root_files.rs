//! [`RootFiles`]: the CAs in files that another program replaces.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::Now;
use perennial_pki::{ChainError, Roots};

use crate::files::{FileContent, FileError, MAX_BUNDLE};
use crate::followed::{Change, EVERY, Followed, if_free, read_all};
use crate::{NotYet, RootsSource, clock};

/// Source of CAs: one or more files of PEM certificates, such as kubelet's `clientCAFile`, `ca.crt` of a Secret, or a
/// projected ClusterTrustBundle. The CAs of all files are trusted.
///
/// [`roots`](RootsSource::roots) reads the files again if the interval has passed. New content of a file is used if it
/// has a usable CA, and is at rest: not modified for a second. Until then, and while the file is missing or damaged,
/// the file's last good CAs are trusted. After ten seconds without usable content, a warning is logged. The paths may
/// be symbolic links that are switched, as in a volume of a Secret.
#[derive(Debug)]
pub struct RootFiles {
    every: Duration,
    /// Locked while files are read.
    files: Mutex<Vec<Followed<Roots, RootsError>>>,
    /// The CAs and their origin after the last check. Has a lock of its own: while one thread reads the files, `files`
    /// is locked, and neither handshakes on other threads (which need the CAs) nor error texts (which name the origin)
    /// must wait for the disk.
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
    /// [`RootsError`]: there is no path, a file cannot be read, or a file holds no usable CA.
    pub fn open(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Result<Self, RootsError> {
        let now = clock::now();
        let paths: Vec<PathBuf> = paths.into_iter().map(Into::into).collect();
        let found = read_all(paths.iter().map(PathBuf::as_path), MAX_BUNDLE);
        let open = |(path, found)| Followed::open([path], read_bundle, [found], now);
        let files = paths.into_iter().zip(found).map(open).collect::<Result<Vec<_>, _>>()?;
        let joined = joined(&files).map_err(|_| RootsError::NoPath)?;
        files.iter().for_each(|file| warn_of_skipped(file.path(), file.content()));
        let latest = Mutex::new(Latest { joined, origin: origin(&files) });
        Ok(Self { every: EVERY, files: Mutex::new(files), latest })
    }

    /// Sets the interval at which the files are read again: five seconds by default. While another program is replacing
    /// a file, all files are read every second, or at this interval if it is shorter.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    fn check(&self, files: &mut [Followed<Roots, RootsError>], now: Now) {
        let found = read_all(files.iter().map(Followed::path), MAX_BUNDLE);
        let changes: Vec<_> = files.iter_mut().zip(found).map(|(file, found)| file.check([found], now)).collect();
        let has_changed = changes.iter().any(|change| matches!(change, Change::Replaced(_)));
        let (joined, origin) = (has_changed.then(|| joined(files).ok()).flatten(), origin(files));
        let mut latest = self.latest();
        latest.origin = origin;
        if let Some(joined) = joined {
            latest.joined = joined;
        }
        drop(latest);
        changes.iter().zip(&*files).for_each(|(change, file)| report(change, file));
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RootsSource for RootFiles {
    fn roots(&self) -> Result<Roots, NotYet> {
        // While another thread reads the files, the CAs that were read before are good enough.
        if let Some(mut files) = if_free(&self.files) {
            let now = clock::now();
            if files.iter().any(|file| file.next_check(self.every) <= now.instant) {
                self.check(&mut files, now);
            }
        }
        Ok(self.latest().joined.clone())
    }

    fn origin(&self) -> String {
        self.latest().origin.clone()
    }
}

fn report(change: &Change<Roots>, file: &Followed<Roots, RootsError>) {
    match change {
        Change::Nothing => {}
        Change::Replaced(_) => {
            tracing::info!("{}: the CA bundle has changed; verifying peers with the new one", file.path().display());
            warn_of_skipped(file.path(), file.content());
        }
        Change::Trouble(error) => {
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
        let state = if file.is_failing() { "; it cannot be read now" } else { "" };
        format!("{}, read at {}{state}", file.path().display(), file.good_at())
    };
    files.iter().map(of_file).collect::<Vec<_>>().join(", and ")
}

/// Error of CA files that cannot be used as a source of CAs.
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;
    use std::time::SystemTime;

    use perennial::{UnixTime, Validity};
    use perennial_pki::{KeyAlgorithm, KeyPair, self_signed};

    use super::*;

    fn ca(name: &str) -> String {
        let begin = clock::now().unix.before(Duration::from_secs(60));
        let validity = Validity::new(begin, begin.after(Duration::from_secs(3600))).unwrap();
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        self_signed(name, &key, &[1], validity).unwrap().pem().to_owned()
    }

    /// The time now, moved so that no multiple of 100 ms later is a whole second.
    fn begin() -> Now {
        let now = clock::now();
        Now { unix: UnixTime::from_millis(now.unix.as_millis() / 100 * 100 + 50), ..now }
    }

    fn later(now: Now, millis: u64) -> Now {
        let span = Duration::from_millis(millis);
        Now { instant: now.instant.after(span), unix: now.unix.after(span) }
    }

    /// Appends `text` to a file, and sets the file's time of modification to `now`.
    fn append(path: &Path, text: &str, now: Now) {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let since = Duration::from_millis(u64::try_from(now.unix.as_millis()).unwrap());
        file.set_modified(SystemTime::UNIX_EPOCH + since).unwrap();
    }

    /// A directory, the path of a bundle in it with the CA `one`, modified at `now`, and the CAs of that bundle.
    fn opened(now: Now) -> (tempfile::TempDir, PathBuf, RootFiles) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.crt");
        append(&path, &ca("one"), now);
        let roots = RootFiles::open([&path]).unwrap();
        (directory, path, roots)
    }

    /// The trusted CAs after a check at `now`.
    fn trusted(roots: &RootFiles, now: Now) -> Vec<String> {
        roots.check(&mut roots.files.lock().unwrap(), now);
        roots.latest().joined.subjects().collect()
    }

    #[test]
    fn bundle_that_is_written_in_place_is_used_once_complete() {
        let now = begin();
        let (_directory, path, roots) = opened(now);
        File::create(&path).unwrap();
        append(&path, "", now);
        assert_eq!(trusted(&roots, now), ["CN=one"]);
        append(&path, &ca("two"), later(now, 900));
        assert_eq!(trusted(&roots, later(now, 900)), ["CN=one"]);
        append(&path, &ca("three"), later(now, 1_800));
        assert_eq!(trusted(&roots, later(now, 1_801)), ["CN=one"]);
        assert_eq!(trusted(&roots, later(now, 2_800)), ["CN=two", "CN=three"]);
    }

    #[test]
    fn bundle_modified_in_the_future_is_used_once_complete() {
        let now = begin();
        let ahead = later(now, 3_600_000);
        let (_directory, path, roots) = opened(now);
        File::create(&path).unwrap();
        append(&path, &ca("two"), ahead);
        assert_eq!(trusted(&roots, now), ["CN=one"]);
        append(&path, &ca("three"), later(ahead, 500));
        assert_eq!(trusted(&roots, later(now, 500)), ["CN=one"]);
        assert_eq!(trusted(&roots, later(now, 1_499)), ["CN=one"]);
        assert_eq!(trusted(&roots, later(now, 1_500)), ["CN=two", "CN=three"]);
    }

    #[test]
    fn bundle_with_modification_time_in_whole_seconds_is_used_once_complete() {
        let second = UnixTime::from_secs(clock::now().unix.as_secs());
        let now = Now { unix: second.after(Duration::from_millis(1_990)), ..clock::now() };
        let (_directory, path, roots) = opened(now);
        File::create(&path).unwrap();
        append(&path, &ca("two"), Now { unix: second, ..now });
        assert_eq!(trusted(&roots, now), ["CN=one"]);
        append(&path, &ca("three"), Now { unix: second, ..now });
        assert_eq!(trusted(&roots, later(now, 500)), ["CN=one"]);
        assert_eq!(trusted(&roots, later(now, 1_010)), ["CN=two", "CN=three"]);
    }

    #[test]
    fn new_bundle_is_used_although_its_modification_time_keeps_changing() {
        let now = begin();
        let (_directory, path, roots) = opened(now);
        fs::remove_file(&path).unwrap();
        append(&path, &ca("two"), now);
        for (millis, expected) in [(0, "CN=one"), (500, "CN=one"), (999, "CN=one"), (1_000, "CN=two")] {
            append(&path, "", later(now, millis));
            assert_eq!(trusted(&roots, later(now, millis)), [expected], "after {millis} ms");
        }
    }

    #[test]
    fn missing_bundle_is_reported_after_ten_seconds() {
        let now = begin();
        let (_directory, path, roots) = opened(now);
        fs::remove_file(&path).unwrap();
        for (millis, is_reported) in [(0, false), (9_999, false), (10_000, true), (60_000, true)] {
            assert_eq!(trusted(&roots, later(now, millis)), ["CN=one"]);
            assert!(roots.origin().ends_with("; it cannot be read now"), "{}", roots.origin());
            let is_warned = roots.files.lock().unwrap()[0].last_error().is_some();
            assert_eq!(is_warned, is_reported, "after {millis} ms");
        }
        append(&path, &ca("two"), now);
        assert_eq!(trusted(&roots, later(now, 70_000)), ["CN=two"]);
        assert!(!roots.origin().contains("cannot"), "{}", roots.origin());
    }
}
