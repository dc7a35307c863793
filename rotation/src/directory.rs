//! The credential directory: carries out core's plans, operation by operation.

mod disk;
mod error;
mod inspection;
mod lock;
mod record;
mod settle;
mod stored;
pub mod volume;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use perennial::UnixTime;
use perennial::store::{Dated, FileOp, Found, Layout, Listing, Plan, Source};
use perennial_pki::{Credential, PemError};

use disk::Disk;
use inspection::Inspection;

use crate::store::waiting_beside;

pub use error::{DirectoryError, Distrust};
use volume::{Contents, Folder, Stamp, Volume};

/// So many pairs are kept: the one in use and its predecessor.
const KEEP: usize = 2;

/// A directory that holds one certificate's files, in kubelet's layout.
#[derive(Debug)]
pub struct Directory {
    volume: Box<dyn Volume>,
    path: PathBuf,
    layout: Layout,
    /// States of files that were read often enough to know that no program is writing them.
    settled: Mutex<Vec<Stamp>>,
}

/// What a directory holds.
#[derive(Debug)]
#[must_use]
pub struct Loaded {
    /// The pair to use, and the file it was read from; `None` if there is none.
    pub credential: Option<(Arc<Credential>, PathBuf)>,
    /// The pair in use, if it is for another common name than the one asked for. It must not be served.
    pub foreign: Option<Arc<Credential>>,
    /// The successor of [`credential`](Self::credential), with the same common name and not valid yet: use it from its
    /// notBefore on.
    pub waiting: Option<Arc<Credential>>,
    /// True unless `PREFIX-current.pem` leads to another file than `credential` was read from. If false, programs that
    /// read that name do not have the pair: it is time for a new one. False as well if peers would refuse the certificate.
    pub in_use: bool,
    /// Problems of the directory and of the files that were read.
    pub problems: Vec<DirectoryError>,
}

impl Directory {
    /// [`at`](Self::at) and [`claim`](Self::claim) in one.
    ///
    /// # Errors
    /// As `claim`.
    pub fn open(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let directory = Self::at(path, prefix)?;
        directory.claim()?;
        Ok(directory)
    }

    /// A directory for files that begin with `prefix`. Changes nothing, and succeeds whether or not the directory exists:
    /// one that does not is as good as empty. [`claim`](Self::claim) it before anything is written.
    ///
    /// # Errors
    /// [`DirectoryError::Prefix`].
    pub fn at(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let (path, layout) = (path.into(), Layout::new(prefix)?);
        Ok(Self::on(Box::new(Disk::new(&path, prefix)), path, layout))
    }

    /// Whether [`claim`](Self::claim) would succeed, as far as that can be known without changing anything.
    ///
    /// # Errors
    /// As `claim`. A directory that does not exist is no error.
    pub fn is_free(&self) -> Result<(), DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return Ok(()) };
        for name in [self.layout.current(), self.layout.pending()] {
            if folder.is_mount_point(&name) {
                return Err(DirectoryError::MountPoint { path: self.path.join(name) });
            }
        }
        unless_disk_is_full(folder.is_free()).map(drop)
    }

    /// Makes this process the owner of the files: creates the directory (mode 0700) if it does not exist, and locks them.
    /// No other process can do so until this is dropped, or this process has ended. Does nothing if it is the owner.
    ///
    /// On a disk that is read-only or full, this succeeds as well if the directory exists, with a warning in the log:
    /// the pair there can be used, and writing fails until the disk takes something again. The first write locks the
    /// files then, if no process ever has.
    ///
    /// # Errors
    /// If the directory cannot be created or written to, another process holds it, or a file in it is a mount point.
    /// No file in it has changed.
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

    /// Lets another process [`claim`](Self::claim) the files: for a program that writes no more. A later write takes the lock
    /// again, or fails if another process is the owner by then.
    pub fn release(&self) {
        self.volume.release();
    }

    /// Opens a directory that exists, to look at it.
    ///
    /// # Errors
    /// If it does not exist or is not a directory we may read.
    pub fn open_existing(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let (path, layout) = (path.into(), Layout::new(prefix)?);
        Ok(Self::on(Box::new(Disk::existing(&path)?), path, layout))
    }

    /// A directory on a simulated [`Volume`], to which nothing else writes. `path` is for messages.
    pub fn on(volume: Box<dyn Volume>, path: PathBuf, layout: Layout) -> Self {
        Self { volume, path, layout, settled: Mutex::default() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The link to the pair in use: what a kubeconfig points at.
    pub fn current(&self) -> PathBuf {
        self.path.join(self.layout.current())
    }

    /// The pair in use; if that cannot be used or has expired, the best one there is. Nothing is changed.
    ///
    /// # Errors
    /// If the directory cannot be read. Problems of its files are in [`Loaded::problems`].
    pub fn load(&self, now: UnixTime) -> Result<Loaded, DirectoryError> {
        self.load_of(None, now)
    }

    /// Like [`load`](Self::load), but does not use pairs with another common name than this one. `None` means the common
    /// name of the pair in use, if that can be read.
    ///
    /// # Errors
    /// As [`Directory::load`].
    pub fn load_of(&self, common_name: Option<&str>, now: UnixTime) -> Result<Loaded, DirectoryError> {
        let Some(folder) = self.existing_folder()? else {
            return Ok(Loaded { credential: None, foreign: None, waiting: None, in_use: true, problems: Vec::new() });
        };
        let listing = self.list(&*folder)?;
        let (loaded, _) = self.find(&*folder, &listing, common_name, now);
        Ok(loaded)
    }

    /// Like [`recover_of`](Self::recover_of), with the common name of the pair in use.
    ///
    /// # Errors
    /// As [`Directory::load`].
    pub fn recover(&self, now: UnixTime) -> Result<Loaded, DirectoryError> {
        self.recover_of(None, now)
    }

    /// Like [`load_of`](Self::load_of), and repairs what no other program can be using: links `PREFIX-current.pem` to the
    /// pair that was found if the name resolves to nothing, and removes what a crash left of our own writes.
    ///
    /// # Errors
    /// As [`Directory::load`]. What could not be put right is one of the problems.
    pub fn recover_of(&self, common_name: Option<&str>, now: UnixTime) -> Result<Loaded, DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return self.load_of(common_name, now) };
        let held = folder.hold();
        let listing = self.list(&*folder)?;
        let (mut loaded, recover) = self.find(&*folder, &listing, common_name, now);
        match held {
            // If one cannot be done, the other may be.
            Ok(()) => loaded.problems.extend(
                [recover, self.layout.sweep(&listing)]
                    .iter()
                    .filter_map(|plan| self.carry_out(&*folder, plan, &[]).err()),
            ),
            Err(error) => loaded.problems.push(error),
        }
        Ok(loaded)
    }

    /// Whether there is anything of this certificate: a pair, whatever became of it, or the record of a request.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn is_used(&self) -> Result<bool, DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return Ok(false) };
        Ok(self.layout.is_used(&self.list(&*folder)?))
    }

    /// The pairs kept beside the one in use, newest name first, and the files they are in.
    ///
    /// # Errors
    /// If the directory cannot be read. A file that holds no pair, or cannot be read, is passed over.
    pub fn previous(&self) -> Result<Vec<(Arc<Credential>, PathBuf)>, DirectoryError> {
        let folder = self.folder()?;
        let listing = self.list(&*folder)?;
        let in_use = self.layout.in_use(&listing);
        let previous = self.dated(&*folder, &listing).filter(|(name, _)| !in_use.contains(&name.as_str()));
        Ok(previous.map(|(name, credential)| (Arc::new(credential), self.path.join(name))).collect())
    }

    /// Files for a person to inspect and remove: those renamed to make room for a link or a record, and dated ones that are
    /// not in use and contain no pair.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn aside(&self) -> Result<Vec<PathBuf>, DirectoryError> {
        let folder = self.folder()?;
        let listing = self.list(&*folder)?;
        let in_use = self.layout.in_use(&listing);
        let holds_a_pair: Vec<String> = self.dated(&*folder, &listing).map(|(name, _)| name).collect();
        let dated = self.layout.dated(&listing).into_iter();
        let useless =
            dated.filter(|name| !in_use.contains(name) && !holds_a_pair.iter().any(|holding| holding == name));
        let aside = self.layout.quarantined(&listing);
        Ok(aside.chain(useless).map(|name| self.path.join(name)).collect())
    }

    /// Makes this the pair in use, durably. The one in use before stays until then, whatever happens. Then old pairs
    /// of the same identity are removed. A directory that was removed is made again, with a warning in the log.
    ///
    /// # Errors
    /// The first operation that failed; what was begun is cleaned up as far as that goes.
    pub fn write(&self, credential: &Credential, now: UnixTime) -> Result<(), DirectoryError> {
        let folder = self.held()?;
        let listing = self.list(&*folder)?;
        let plan = match self.stored(&*folder, &listing, credential) {
            Some(file) => self.layout.use_stored(&listing, &file, now),
            None => self.layout.update(&listing, now),
        };
        self.carry_out(&*folder, &plan, credential.to_pem().as_bytes())?;
        let current = self.layout.current();
        // A regular file by the name of the link has a dated name now.
        let linked = plan.steps.iter().find_map(|step| match step {
            FileOp::Link { file, name } if *file == current => Some(name.as_str()),
            _ => None,
        });
        let before = linked.or_else(|| listing.file_behind(&current));
        if let Err(error) = self.prune(&*folder, &credential.chain().certificate().common_name, before) {
            tracing::warn!("cannot remove old certificates: {error}; the next write tries again");
        }
        Ok(())
    }

    /// Makes this pair durable beside the one in use, which stays in use: it is not valid yet. [`write`](Self::write) puts it
    /// in use. Does nothing if it is durable.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_ahead(&self, credential: &Credential, now: UnixTime) -> Result<(), DirectoryError> {
        let folder = self.held()?;
        let listing = self.list(&*folder)?;
        if self.stored(&*folder, &listing, credential).is_some() {
            return Ok(());
        }
        self.carry_out(&*folder, &self.layout.store(&listing, now), credential.to_pem().as_bytes())
    }

    /// The dated file that holds this pair.
    fn stored(&self, folder: &dyn Folder, listing: &Listing, credential: &Credential) -> Option<String> {
        let is_same = |found: &Credential| found.chain() == credential.chain();
        self.dated(folder, listing).find(|(_, found)| is_same(found)).map(|(name, _)| name)
    }

    fn prune(&self, folder: &dyn Folder, common_name: &str, before: Option<&str>) -> Result<(), DirectoryError> {
        let listing = self.list(folder)?;
        let dated = self.dated(folder, &listing).filter_map(|(name, credential)| {
            let certificate = credential.chain().certificate();
            let not_before = certificate.validity.not_before();
            (certificate.common_name == common_name).then_some(Dated { name, not_before })
        });
        let mut plan = self.layout.prune(&listing, &dated.collect::<Vec<_>>(), KEEP, before);
        plan.steps.extend(self.layout.sweep(&listing).steps);
        self.carry_out(folder, &plan, &[])
    }

    /// The dated files that hold a pair.
    fn dated<'a>(
        &self,
        folder: &'a dyn Folder,
        listing: &'a Listing,
    ) -> impl Iterator<Item = (String, Credential)> + use<'a> {
        self.layout.dated(listing).into_iter().filter_map(|name| {
            let contents = folder.read(name).ok()??;
            Some((name.into(), Credential::from_pem(&contents.bytes).ok()?))
        })
    }

    /// The pair to use, and what a start puts right.
    fn find(&self, folder: &dyn Folder, listing: &Listing, common_name: Option<&str>, now: UnixTime) -> (Loaded, Plan) {
        let mut inspection = Inspection::new(&self.path, &self.layout, folder, listing, common_name);
        inspection.at_folder();
        let is_in_order = |credential: &Credential| !credential.chain().certificate().validity.expired(now);
        let mut found = Vec::new();
        for source in self.layout.sources(listing) {
            found.extend(inspection.at_used(&source).map(|credential| (source, credential)));
            if found.last().is_some_and(|(_, credential)| is_in_order(credential)) {
                break;
            }
        }
        let in_use = found.len();
        let names = if common_name.is_none() { inspection.names() } else { Vec::new() };
        if !found.last().is_some_and(|(_, credential)| is_in_order(credential)) {
            let others = self.layout.others(listing).into_iter();
            found.extend(
                others.filter_map(|source| inspection.at_other(&source).map(|credential| (source, credential))),
            );
        }
        inspection.at_record();
        let facts = found.iter().enumerate().map(|(index, (_, credential))| {
            let certificate = credential.chain().certificate();
            let in_use = index < in_use;
            Found { in_use, common_name: &certificate.common_name, validity: certificate.validity }
        });
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let best = Layout::best(&facts.collect::<Vec<_>>(), &names, now);
        let file = |source: &Source| match source {
            Source::Bundle(name) | Source::Pair { certificate: name, .. } => self.path.join(name),
        };
        // None of them is passed over for anything else.
        let passed_over = (0..in_use).filter(|index| Some(*index) != best).map(|index| file(&found[index].0));
        let expired: Vec<_> = passed_over.map(|path| DirectoryError::Expired { path }).collect();
        let taken = best.map(|best| found.swap_remove(best));
        let source = taken.as_ref().map(|(source, _)| source);
        let vacant = inspection.is_vacant();
        let plan = self.layout.recover(listing, vacant, source, now);
        let current = self.layout.current();
        let in_use = vacant || source.is_none_or(|source| *source == Source::Bundle(current));
        let flaws: Vec<_> = taken.iter().flat_map(|(source, credential)| self.flaws(source, credential)).collect();
        let in_use = in_use && !flaws.iter().any(|flaw| matches!(flaw, DirectoryError::Unserved { .. }));
        let credential = taken.map(|(source, credential)| (credential, file(&source)));
        let (foreign, mut problems) = inspection.into_findings();
        problems.extend(expired.into_iter().chain(flaws));
        let waiting = credential.as_ref().and_then(|(held, _)| {
            waiting_beside(held, self.dated(folder, listing).map(|(_, other)| Arc::new(other)), now)
        });
        (Loaded { credential, foreign, waiting, in_use, problems }, plan)
    }

    /// Problems of a pair that is used nevertheless.
    fn flaws(&self, source: &Source, credential: &Credential) -> Vec<DirectoryError> {
        let (certificate, key) = match source {
            Source::Bundle(name) => (name, None),
            Source::Pair { certificate, key } => (certificate, Some(key)),
        };
        let damaged = |name: &String, skipped: &[PemError]| -> Vec<_> {
            let path = self.path.join(name);
            skipped
                .iter()
                .map(|damage| DirectoryError::Damaged { path: path.clone(), damage: damage.clone() })
                .collect()
        };
        let mut flaws = damaged(certificate, credential.chain().skipped());
        flaws.extend(key.into_iter().flat_map(|key| damaged(key, credential.key().skipped())));
        let unserved = credential.chain().why_not_served();
        flaws.extend(unserved.map(|why| DirectoryError::Unserved { path: self.path.join(certificate), why }));
        flaws
    }

    fn carry_out(&self, folder: &dyn Folder, plan: &Plan, contents: &[u8]) -> Result<(), DirectoryError> {
        for (done, step) in plan.steps.iter().enumerate() {
            if let Err(source) = folder.execute(step, contents) {
                // The first error is the one to report.
                let _ = plan.undo(done).iter().try_for_each(|step| folder.execute(step, &[]));
                return Err(DirectoryError::step(&self.path, step, source));
            }
        }
        Ok(())
    }

    /// Opens the directory on every call: one that was made again, or mounted over, is found as other programs find it.
    fn folder(&self) -> Result<Box<dyn Folder + '_>, DirectoryError> {
        self.volume.open().map_err(|source| DirectoryError::io("open", &self.path, source))
    }

    /// The directory; `None` if it does not exist.
    fn existing_folder(&self) -> Result<Option<Box<dyn Folder + '_>>, DirectoryError> {
        match self.volume.open() {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DirectoryError::io("open", &self.path, source)),
        }
    }

    /// The directory, held against other writers, and made again if it was removed.
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

/// Why the disk cannot be written to now; reading goes on.
fn unless_disk_is_full(result: Result<(), DirectoryError>) -> Result<Option<DirectoryError>, DirectoryError> {
    match result {
        Err(error) if error.is_of_the_disk() => Ok(Some(error)),
        other => other.map(|()| None),
    }
}
