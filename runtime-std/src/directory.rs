//! The credential directory: carries out core's plans, operation by operation.

mod disk;
mod error;
mod lock;
mod look;
mod record;
mod volume;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial::UnixTime;
use perennial::store::{Dated, Found, Layout, Listing, Plan, Source};
use perennial_pki::Credential;

use disk::Disk;
use look::Look;

pub use error::DirectoryError;
pub use volume::{Contents, Folder, Volume};

/// So many pairs are kept: the one in use and its predecessor.
const KEEP: usize = 2;

/// A directory that holds one certificate's files, in kubelet's layout.
#[derive(Debug)]
pub struct Directory {
    volume: Box<dyn Volume>,
    path: PathBuf,
    layout: Layout,
    keep: usize,
}

/// What a directory holds.
#[derive(Debug)]
#[must_use]
pub struct Loaded {
    /// The pair to use, and the file it was read from; `None` if there is none.
    pub credential: Option<(Arc<Credential>, PathBuf)>,
    /// What was wrong on the way to it, and what was done about that.
    pub problems: Vec<DirectoryError>,
}

impl Directory {
    /// Opens the directory for files that begin with `prefix`, creating it (mode 0700) if it does not exist. Nobody
    /// else can open these files in this way until it is dropped, or its process has ended.
    ///
    /// On a disk that takes nothing, read-only or full, this succeeds as well if the directory exists, with a warning
    /// in the log: what is there can be used, and writing fails until the disk takes something again. If nobody has
    /// ever locked these files there, that is done before the first write then.
    ///
    /// # Errors
    /// If it cannot be created, is not a directory we may write to, or somebody else has it open. Nothing in it is
    /// touched.
    pub fn open(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let (path, layout) = (path.into(), Layout::new(prefix)?);
        let disk = Disk::create(&path, prefix)?;
        let takes_nothing = |result: Result<(), DirectoryError>| match result {
            Err(error) if error.is_of_the_disk() => Ok(Some(error)),
            other => other.map(|()| None),
        };
        let writable = takes_nothing(disk.is_writable())?;
        if let Some(error) = writable.or(takes_nothing(disk.hold())?) {
            tracing::warn!("{error}; what is there is used, and what is new is in memory only until it can be written");
        }
        Ok(Self::on(Box::new(disk), path, layout))
    }

    /// Opens a directory that exists, to look at it.
    ///
    /// # Errors
    /// If it does not exist or is not a directory we may read.
    pub fn open_existing(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let (path, layout) = (path.into(), Layout::new(prefix)?);
        Ok(Self::on(Box::new(Disk::existing(&path)?), path, layout))
    }

    /// The same on any volume that has the operations of a directory: a test's, or a store that is no file system.
    /// Who else uses it is the caller's affair; `path` is for messages.
    pub fn on(volume: Box<dyn Volume>, path: PathBuf, layout: Layout) -> Self {
        Self { volume, path, layout, keep: KEEP }
    }

    /// Keeps so many pairs, the one in use among them; 2 by default, 1 at least.
    #[must_use]
    pub fn keep(self, pairs: usize) -> Self {
        Self { keep: pairs.max(1), ..self }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The link to the pair in use: what a kubeconfig points at.
    pub fn current(&self) -> PathBuf {
        self.path.join(self.layout.current())
    }

    /// The pair in use; if that is damaged, or has expired, the best one there is. Nothing is touched.
    ///
    /// # Errors
    /// If the directory cannot be read. What is wrong with files in it is told in [`Loaded::problems`].
    pub fn load(&self, now: UnixTime) -> Result<Loaded, DirectoryError> {
        let folder = self.folder()?;
        let listing = self.list(&*folder)?;
        let (loaded, _) = self.find(&*folder, &listing, None, now);
        Ok(loaded)
    }

    /// The same, and puts the directory right: what is damaged and in the way is set aside, the best pair there is
    /// comes into use, nobody else may read it, and what a crash left of a write is removed.
    ///
    /// # Errors
    /// As [`Directory::load`]. What could not be put right is one of the problems.
    pub fn recover(&self, now: UnixTime) -> Result<Loaded, DirectoryError> {
        self.recover_of(None, now)
    }

    /// The same, if it is known whose pairs these are: those of somebody else are not brought into use. Where it is not,
    /// it is learnt from the pair in use, as far as that can be read.
    ///
    /// # Errors
    /// As [`Directory::load`].
    pub fn recover_of(&self, common_name: Option<&str>, now: UnixTime) -> Result<Loaded, DirectoryError> {
        let folder = self.folder()?;
        let held = folder.hold();
        let listing = self.list(&*folder)?;
        let (mut loaded, [restrict, recover]) = self.find(&*folder, &listing, common_name, now);
        match held {
            // What cannot be done of one does not keep from the others.
            Ok(()) => loaded.problems.extend(
                [restrict, recover, self.layout.sweep(&listing)]
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
        Ok(self.layout.is_used(&self.list(&*self.folder()?)?))
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

    /// What was set aside, or had to make room: for a person to look at, and to remove.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn aside(&self) -> Result<Vec<PathBuf>, DirectoryError> {
        let folder = self.folder()?;
        let listing = self.list(&*folder)?;
        Ok(self.layout.aside(&listing).map(|name| self.path.join(name)).collect())
    }

    /// Makes this the pair in use, durably. The one in use before stays until then, whatever happens. Then old pairs
    /// of the same identity are removed.
    ///
    /// # Errors
    /// The first operation that failed; what was begun is cleaned up as far as that goes.
    pub fn write(&self, credential: &Credential, now: UnixTime) -> Result<(), DirectoryError> {
        let folder = self.held()?;
        let listing = self.list(&*folder)?;
        let plan = self.layout.update(&listing, now);
        self.carry_out(&*folder, &plan, credential.to_pem().as_bytes())?;
        let current = self.layout.current();
        let before = listing.file_behind(&current);
        if let Err(error) = self.prune(&*folder, &credential.chain().certificate().common_name, before) {
            tracing::warn!("old certificates stay where they are: {error}");
        }
        Ok(())
    }

    fn prune(&self, folder: &dyn Folder, common_name: &str, before: Option<&str>) -> Result<(), DirectoryError> {
        let listing = self.list(folder)?;
        let dated = self.dated(folder, &listing).filter_map(|(name, credential)| {
            let certificate = credential.chain().certificate();
            let not_before = certificate.validity.not_before();
            (certificate.common_name == common_name).then_some(Dated { name, not_before })
        });
        let mut plan = self.layout.prune(&listing, &dated.collect::<Vec<_>>(), self.keep, before);
        plan.steps.extend(self.layout.sweep(&listing).steps);
        self.carry_out(folder, &plan, &[])
    }

    /// The dated files that hold a pair.
    fn dated<'a>(
        &self,
        folder: &'a dyn Folder,
        listing: &Listing,
    ) -> impl Iterator<Item = (String, Credential)> + use<'a> {
        let others = self.layout.others(listing).into_iter().filter_map(|source| match source {
            Source::Bundle(name) => Some(name),
            Source::Pair { .. } => None,
        });
        others.filter_map(|name| {
            let contents = folder.read(&name).ok()??;
            Some((name, Credential::from_pem(&contents.bytes).ok()?))
        })
    }

    /// The pair to use, and what is to be done so that nobody else may read it, and the next one who looks finds it at
    /// once.
    fn find(
        &self,
        folder: &dyn Folder,
        listing: &Listing,
        common_name: Option<&str>,
        now: UnixTime,
    ) -> (Loaded, [Plan; 2]) {
        let mut look = Look::new(&self.path, &self.layout, folder, listing);
        let is_in_order = |credential: &Credential| !credential.chain().certificate().validity.expired(now);
        let mut found = Vec::new();
        for source in self.layout.sources(listing) {
            found.extend(look.at(&source).map(|credential| (source, credential)));
            if found.last().is_some_and(|(_, credential)| is_in_order(credential)) {
                break;
            }
        }
        let in_use = found.len();
        let names = common_name.map_or_else(|| look.names(), |name| vec![name.to_owned()]);
        if !found.last().is_some_and(|(_, credential)| is_in_order(credential)) {
            let others = self.layout.others(listing).into_iter();
            found.extend(others.filter_map(|source| look.at(&source).map(|credential| (source, credential))));
        }
        look.at_record();
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
        let plans = look.plans(taken.as_ref().map(|(source, _)| source));
        let credential = taken.map(|(source, credential)| (credential, file(&source)));
        let mut problems = look.into_problems();
        problems.extend(expired);
        (Loaded { credential, problems }, plans)
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

    /// Anew each time: what was removed and made again, or mounted over, is found as everybody else finds it.
    fn folder(&self) -> Result<Box<dyn Folder + '_>, DirectoryError> {
        self.volume.open().map_err(|source| DirectoryError::io("open", &self.path, source))
    }

    /// The same, and nobody else writes to it.
    fn held(&self) -> Result<Box<dyn Folder + '_>, DirectoryError> {
        let folder = self.folder()?;
        folder.hold()?;
        Ok(folder)
    }

    fn list(&self, folder: &dyn Folder) -> Result<Listing, DirectoryError> {
        folder.list().map_err(|source| DirectoryError::io("list", &self.path, source))
    }
}
