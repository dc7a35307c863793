//! [`Directory`], the credential directory: carries out the file operations that core's [`Layout`] plans.

mod create;
pub(crate) mod disk;
mod error;
mod inspection;
mod lock;
mod record;
mod settle;
mod stored;
mod trust;
pub mod volume;
mod walk;
mod write;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use perennial::UnixTime;
use perennial::store::{Layout, Listing, Plan};
use perennial_pki::Credential;

use disk::Disk;
use inspection::Inspection;

pub use error::{DirectoryError, Distrust};
use volume::{Contents, Folder, Stamp, Volume};

/// A directory with the files of one certificate, in kubelet's layout: dated pairs, the link `PREFIX-current.pem` to
/// the pair in use, and the pending record.
#[derive(Debug)]
pub struct Directory {
    volume: Box<dyn Volume>,
    path: PathBuf,
    layout: Layout,
    /// Stamps of unreadable files for which [`load_settled`](Self::load_settled) has waited in vain. While a file keeps
    /// its stamp, no program is writing the file, and `load_settled` does not wait for it again.
    settled: Mutex<Vec<Stamp>>,
    /// True if all pairs are of one certificate, whatever their names: see [`sole`](Self::sole).
    is_sole: bool,
}

/// The contents of a credential directory, as [`Directory::load`] found them.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub struct Loaded {
    /// The pair to use, and the file it was read from; `None` if the directory has no usable pair.
    pub credential: Option<(Arc<Credential>, PathBuf)>,
    /// The pair that `PREFIX-current.pem` leads to, if its certificate has another common name than the wanted one;
    /// else `None`. Must not be served.
    pub foreign: Option<Arc<Credential>>,
    /// The successor of [`credential`](Self::credential), with the same common name and not valid yet: use it from its
    /// notBefore on.
    pub waiting: Option<Arc<Credential>>,
    /// True if programs that read `PREFIX-current.pem` get the pair in `credential`, or if that name does not exist.
    /// False if the name leads to another file, or if TLS peers would reject the certificate; a new certificate should
    /// then be requested.
    pub in_use: bool,
    /// Problems of the directory and of the files in it that were read.
    pub problems: Vec<DirectoryError>,
}

/// The repairs of a directory that was just read, or the error of its lock, without which nothing is repaired.
struct Repairs<'a> {
    folder: Box<dyn Folder + 'a>,
    plans: Result<[Plan; 2], DirectoryError>,
}

impl Directory {
    /// Opens a directory for writing: [`at`](Self::at) and [`claim`](Self::claim) in one call.
    ///
    /// # Errors
    /// The errors of [`at`](Self::at) and of [`claim`](Self::claim).
    pub fn open(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let directory = Self::at(path, prefix)?;
        directory.claim()?;
        Ok(directory)
    }

    /// Makes a `Directory` for files whose names begin with `prefix`. Changes nothing on disk. The directory need not
    /// exist, and then counts as empty. Call [`claim`](Self::claim) before the first write.
    ///
    /// # Errors
    /// [`DirectoryError::Prefix`]: file names cannot begin with `prefix`.
    pub fn at(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let (path, layout) = (path.into(), Layout::new(prefix)?);
        Ok(Self::on(Box::new(Disk::new(&path, prefix)), path, layout))
    }

    /// Makes a `Directory` as [`at`](Self::at), for private files at a path on which no link of another user may be: such a
    /// link is not followed, and a directory that another user owns or can write to is refused.
    ///
    /// # Errors
    /// [`DirectoryError::Prefix`]: file names cannot begin with `prefix`.
    pub fn private(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let (path, layout) = (path.into(), Layout::new(prefix)?);
        Ok(Self::on(Box::new(Disk::private(&path, prefix)), path, layout))
    }

    /// Checks that [`claim`](Self::claim) would succeed, as far as possible without changing anything on disk.
    ///
    /// # Errors
    /// The errors of [`claim`](Self::claim). A directory that does not exist is no error.
    pub fn is_free(&self) -> Result<(), DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return Ok(()) };
        for name in [self.layout.current(), self.layout.pending()] {
            if folder.is_mount_point(&name) {
                return Err(DirectoryError::MountPoint { path: self.path.join(name) });
            }
        }
        unless_disk_is_full(folder.is_free()).map(drop)
    }

    /// Makes this process the owner of the files with the prefix: creates the directory (mode 0700) if it does not
    /// exist, and takes the lock of the prefix. No other process can take the lock until this `Directory` is dropped or
    /// [released](Self::release), or this process ends. Does nothing if the lock is held already.
    ///
    /// If the directory exists on a disk that is read-only or full, the call succeeds with a warning in the log: pairs
    /// can be read, and writes fail until the disk has space or is writable again. If such a disk has no lock file yet,
    /// the first write that succeeds takes the lock.
    ///
    /// # Errors
    /// The directory cannot be created or written to, another process holds the lock ([`DirectoryError::Owned`]), or a
    /// file is a mount point ([`DirectoryError::MountPoint`]). No pair and no record was changed.
    pub fn claim(&self) -> Result<(), DirectoryError> {
        self.is_free()?;
        self.volume.create().map_err(|source| DirectoryError::io("create", &self.path, source))?;
        let folder = self.folder()?;
        let writable = unless_disk_is_full(folder.is_free())?;
        if let Some(error) = writable.or(unless_disk_is_full(folder.hold())?) {
            tracing::warn!("{error}; new certificates are in memory only until the disk can be written to");
        }
        Ok(())
    }

    /// Releases the lock of the prefix, so that another process can [`claim`](Self::claim) the files. A later write
    /// takes the lock again, or fails if another process holds the lock by then.
    pub fn release(&self) {
        self.volume.release();
    }

    /// Opens an existing directory for reading, without a lock. Writes are not prevented: do not call methods that
    /// change files.
    ///
    /// # Errors
    /// The directory does not exist or cannot be read, or file names cannot begin with `prefix`.
    pub fn open_existing(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let (path, layout) = (path.into(), Layout::new(prefix)?);
        Ok(Self::on(Box::new(Disk::existing(&path)?), path, layout))
    }

    /// Makes a `Directory` on a simulated [`Volume`]. `path` appears in messages only.
    pub fn on(volume: Box<dyn Volume>, path: PathBuf, layout: Layout) -> Self {
        Self { volume, path, layout, settled: Mutex::default(), is_sole: false }
    }

    /// Makes all pairs of the directory those of one certificate, whose signer may choose another name each time: a write
    /// removes old pairs with other names, too.
    pub(crate) fn sole(self) -> Self {
        Self { is_sole: true, ..self }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of `PREFIX-current.pem`, the link to the pair in use: kubeconfigs name this file.
    pub fn current(&self) -> PathBuf {
        self.path.join(self.layout.current())
    }

    /// Reads the pair that `PREFIX-current.pem` leads to or, if that pair cannot be used or has expired, the best other
    /// pair. Uses only pairs with the common name `common_name`. If `common_name` is `None`, the common name of the
    /// current pair is the wanted one; if that name cannot be read, any common name will do. Changes nothing on disk.
    ///
    /// # Errors
    /// The directory cannot be read. Problems of its files are in [`Loaded::problems`].
    pub fn load(&self, common_name: Option<&str>, now: UnixTime) -> Result<Loaded, DirectoryError> {
        let Some(folder) = self.existing_folder()? else {
            return Ok(Loaded { credential: None, foreign: None, waiting: None, in_use: true, problems: Vec::new() });
        };
        let listing = self.list(&*folder)?;
        let (loaded, _) = Inspection::new(self, &*folder, &listing, common_name).find(now);
        Ok(loaded)
    }

    /// Reads the directory as [`load`](Self::load) does, and makes repairs that disturb no other program: links
    /// `PREFIX-current.pem` to the pair found if that link is missing or dangling, and removes temporary files that a
    /// crash of perennial left.
    ///
    /// # Errors
    /// The directory cannot be read. Repairs that failed are among the [problems](Loaded::problems).
    pub fn recover(&self, common_name: Option<&str>, now: UnixTime) -> Result<Loaded, DirectoryError> {
        let (loaded, repairs) = self.plan_recovery(common_name, now)?;
        Ok(self.repair(loaded, repairs))
    }

    /// Locks and reads the directory, and plans the repairs of [`recover`](Self::recover).
    fn plan_recovery(
        &self,
        common_name: Option<&str>,
        now: UnixTime,
    ) -> Result<(Loaded, Option<Repairs<'_>>), DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return Ok((self.load(common_name, now)?, None)) };
        // Before listing: no other writer may change files in between.
        let held = folder.hold();
        let listing = self.list(&*folder)?;
        let (loaded, recover) = Inspection::new(self, &*folder, &listing, common_name).find(now);
        let plans = held.map(|()| [recover, self.layout.sweep(&listing)]);
        Ok((loaded, Some(Repairs { folder, plans })))
    }

    /// Carries out repairs. Returns what was read, with the errors of the repairs.
    fn repair(&self, mut loaded: Loaded, repairs: Option<Repairs<'_>>) -> Loaded {
        let Some(Repairs { folder, plans }) = repairs else { return loaded };
        match plans {
            // Both plans are tried: each may succeed without the other.
            Ok(plans) => {
                loaded.problems.extend(plans.iter().filter_map(|plan| self.carry_out(&*folder, plan, &[]).err()));
            }
            Err(error) => loaded.problems.push(error),
        }
        loaded
    }

    /// True if the directory contains any file with the prefix: a pair, even a damaged or quarantined one, or a pending
    /// record.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn is_used(&self) -> Result<bool, DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return Ok(false) };
        Ok(self.layout.is_used(&self.list(&*folder)?))
    }

    /// The pairs in dated files other than the pair in use, newest name first, each with its path. Skips files that
    /// contain no pair or cannot be read.
    ///
    /// # Errors
    /// The directory does not exist or cannot be read.
    pub fn previous(&self) -> Result<Vec<(Arc<Credential>, PathBuf)>, DirectoryError> {
        let folder = self.folder()?;
        let listing = self.list(&*folder)?;
        let previous = self.dated(&*folder, &listing, &self.layout.in_use(&listing));
        Ok(previous.map(|(name, credential)| (Arc::new(credential), self.path.join(name))).collect())
    }

    /// Files for a person to inspect and remove: quarantined files (`.bad`), which were in the way of a link or a
    /// record, and dated files that are not in use and contain no pair.
    ///
    /// # Errors
    /// The directory does not exist or cannot be read.
    pub fn quarantined(&self) -> Result<Vec<PathBuf>, DirectoryError> {
        let folder = self.folder()?;
        let listing = self.list(&*folder)?;
        let in_use = self.layout.in_use(&listing);
        let holds_a_pair: Vec<String> = self.dated(&*folder, &listing, &in_use).map(|(name, _)| name).collect();
        let dated = self.layout.dated(&listing).into_iter();
        let useless =
            dated.filter(|name| !in_use.contains(name) && !holds_a_pair.iter().any(|holding| holding == name));
        let aside = self.layout.quarantined(&listing);
        Ok(aside.chain(useless).map(|name| self.path.join(name)).collect())
    }

    /// Name and pair of each dated file that contains a pair. Does not read the files in `skipped`.
    fn dated<'a>(
        &self,
        folder: &'a dyn Folder,
        listing: &'a Listing,
        skipped: &[&str],
    ) -> impl Iterator<Item = (String, Credential)> + use<'a> {
        let mut names = self.layout.dated(listing);
        names.retain(|name| !skipped.contains(name));
        names.into_iter().filter_map(|name| {
            let contents = folder.read(name).ok()??;
            Some((name.into(), Credential::from_pem(&contents.bytes).ok()?))
        })
    }

    fn carry_out(&self, folder: &dyn Folder, plan: &Plan, contents: &[u8]) -> Result<(), DirectoryError> {
        for (done, step) in plan.steps.iter().enumerate() {
            if let Err(source) = folder.execute(step, contents) {
                // Errors of the clean-up are not reported: the first error is the cause.
                let _ = plan.undo(done).iter().try_for_each(|step| folder.execute(step, &[]));
                return Err(DirectoryError::step(&self.path, step, source));
            }
        }
        Ok(())
    }

    /// Opens the directory by its path, on every call. If the directory was replaced or mounted over, perennial must
    /// use the new directory, since other programs use that one, too.
    fn folder(&self) -> Result<Box<dyn Folder + '_>, DirectoryError> {
        self.volume.open().map_err(|source| DirectoryError::io("open", &self.path, source))
    }

    /// Opens the directory; `None` if it does not exist.
    fn existing_folder(&self) -> Result<Option<Box<dyn Folder + '_>>, DirectoryError> {
        match self.volume.open() {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DirectoryError::io("open", &self.path, source)),
        }
    }

    /// Opens the directory for a write: creates it again if it was removed, and takes the lock.
    fn held(&self) -> Result<Box<dyn Folder + '_>, DirectoryError> {
        let folder = match self.existing_folder()? {
            Some(folder) => folder,
            None => {
                self.volume.create().map_err(|source| DirectoryError::io("create", &self.path, source))?;
                let folder = self.folder()?;
                tracing::warn!("{}: the directory had been removed; created it again (mode 0700)", self.path.display());
                folder
            }
        };
        folder.hold()?;
        Ok(folder)
    }

    fn list(&self, folder: &dyn Folder) -> Result<Listing, DirectoryError> {
        folder.list().map_err(|source| DirectoryError::io("list", &self.path, source))
    }
}

/// Turns the error of a read-only or full disk into `Ok(Some(error))`, since pairs can still be read from such a disk.
/// Success becomes `Ok(None)`. Any other error stays an error.
fn unless_disk_is_full(result: Result<(), DirectoryError>) -> Result<Option<DirectoryError>, DirectoryError> {
    match result {
        Err(error) if error.is_of_the_disk() => Ok(Some(error)),
        other => other.map(|()| None),
    }
}
