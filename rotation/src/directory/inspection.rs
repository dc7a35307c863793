//! [`Inspection`]: reads all files that may contain a pair, collects their problems, and chooses the pair to use.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use perennial::UnixTime;
use perennial::store::{Found, Layout, Listing, Plan, Source};
use perennial_pki::{Chain, Credential, PemError};

use super::{Contents, Directory, DirectoryError, Folder, Loaded};
use crate::store::waiting_beside;

/// One pass over the files of a directory, with the problems found so far.
pub(super) struct Inspection<'a> {
    directory: &'a Directory,
    folder: &'a dyn Folder,
    listing: &'a Listing,
    /// The wanted common name, if it is known.
    wanted: Option<&'a str>,
    problems: Vec<DirectoryError>,
    /// The files with a problem in `problems`. A file that is read twice, by its name and through a link, adds its
    /// problem once. The flag is true if the problem is [`DirectoryError::Exposed`]: a file can have this problem and
    /// one other.
    known: BTreeSet<(&'a str, bool)>,
    /// The first foreign pair at a name in use, such as `PREFIX-current.pem`: the pair's certificate has another common
    /// name than the wanted one.
    foreign: Option<Arc<Credential>>,
    /// The common names of all certificates read so far, including those whose key cannot be read.
    names: Vec<String>,
}

/// A pair, with the place where it was found. The flag is true if the place is in use, such as `PREFIX-current.pem`.
type Candidate = (Source, Arc<Credential>, bool);

impl<'a> Inspection<'a> {
    pub(super) fn new(
        directory: &'a Directory,
        folder: &'a dyn Folder,
        listing: &'a Listing,
        wanted: Option<&'a str>,
    ) -> Self {
        let (problems, known, foreign, names) = Default::default();
        Self { directory, folder, listing, wanted, problems, known, foreign, names }
    }

    /// Reads the directory, chooses the pair to use, and plans the repairs that a start makes.
    pub(super) fn find(mut self, now: UnixTime) -> (Loaded, Plan) {
        let (layout, listing) = (&self.directory.layout, self.listing);
        self.at_folder();
        let is_in_order = |found: &Candidate| !found.1.chain().certificate().validity.expired(now);
        let mut found: Vec<Candidate> = Vec::new();
        for source in layout.sources(listing) {
            found.extend(self.wanted_at(source, true));
            // The second name, `PREFIX-updated.pem`, stays after an interrupted update. While the first name leads to a
            // good pair, problems of the second do not matter.
            if found.last().is_some_and(is_in_order) {
                break;
            }
        }
        let names = if self.wanted.is_none() { self.names.clone() } else { Vec::new() };
        if !found.last().is_some_and(is_in_order) {
            found.extend(layout.others(listing).into_iter().filter_map(|source| self.wanted_at(source, false)));
        }
        self.at_record();
        let facts = found.iter().map(|(_, credential, in_use)| {
            let certificate = credential.chain().certificate();
            Found { in_use: *in_use, common_name: certificate.common_name(), validity: certificate.validity }
        });
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let best = Layout::best(&facts.collect::<Vec<_>>(), &names, now);
        let taken = best.map(|best| found.remove(best));
        let source = taken.as_ref().map(|(source, ..)| source);
        let is_current = source.is_some_and(|source| *source == Source::Bundle(layout.current()));
        // Evaluated before the problems below are added: those problems do not prevent a link.
        let vacant = !is_current && self.is_vacant();
        let plan = layout.recover(listing, vacant, source, now);
        // `Layout::best` prefers pairs in use: one that it does not choose has expired.
        let expired = found.iter().filter(|(.., in_use)| *in_use);
        let expired = expired.map(|(source, ..)| DirectoryError::Expired { path: self.path(names_of(source)[0]) });
        self.problems.extend(expired.collect::<Vec<_>>());
        let is_served = taken.as_ref().is_none_or(|(source, credential, _)| self.add_flaws(source, credential));
        let in_use = vacant || is_current || source.is_none();
        let waiting = taken.as_ref().and_then(|(source, held, _)| {
            let own: Vec<&str> = names_of(source).into_iter().filter_map(|name| listing.file_behind(name)).collect();
            let others = self.directory.dated(self.folder, listing, &own);
            waiting_beside(held, others.map(|(_, other)| Arc::new(other)), now)
        });
        let credential = taken.map(|(source, credential, _)| (credential, self.path(names_of(&source)[0])));
        let Self { foreign, problems, .. } = self;
        (Loaded { credential, foreign, waiting, in_use: in_use && is_served, problems }, plan)
    }

    /// Reads the pair of `source`; `None` if there is no usable pair, or if the pair has another common name than the
    /// wanted one. In the second case, adds the problem [`DirectoryError::Foreign`] if the pair is `in_use`.
    fn wanted_at(&mut self, source: Source, in_use: bool) -> Option<Candidate> {
        let credential = self.at(&source)?;
        let common_name = credential.chain().certificate().common_name();
        let Some(wanted) = self.wanted.filter(|wanted| *wanted != common_name) else {
            return Some((source, credential, in_use));
        };
        if in_use {
            let name = names_of(&source)[0];
            let (path, wanted, common_name) = (self.path(name), wanted.to_owned(), common_name.to_owned());
            self.add(name, DirectoryError::Foreign { path, common_name, wanted });
            self.foreign.get_or_insert(credential);
        }
        None
    }

    /// Reads the pair of `source`, and adds the problems of its files.
    fn at(&mut self, source: &Source) -> Option<Arc<Credential>> {
        let names = names_of(source);
        let contents: Option<Vec<Contents>> = names.iter().map(|name| self.read(name)).collect();
        let contents = contents?;
        let (first, last) = (names.first()?, names.last()?);
        // Only the last file can expose the key, which it contains: a certificate alone is no secret.
        let (certificate, Contents { bytes: key, exposed }) = (&contents.first()?.bytes, contents.last()?);
        let read = Credential::from_pair(certificate, key);
        // Our own files may contain a key even if damaged. An unreadable file behind a link may hold no secret of ours.
        let is_ours = |name| self.listing.file_behind(name).is_some_and(|file| self.directory.layout.is_ours(file));
        if *exposed && (read.is_ok() || is_ours(last)) {
            self.add(last, DirectoryError::Exposed { path: self.path(last) });
        }
        match read {
            Ok(credential) => {
                self.names.push(credential.chain().certificate().common_name().to_owned());
                Some(Arc::new(credential))
            }
            Err(error) => {
                self.names
                    .extend(Chain::from_pem(certificate).map(|chain| chain.certificate().common_name().to_owned()));
                self.add(first, DirectoryError::Credential { path: self.path(first), error });
                None
            }
        }
    }

    fn read(&mut self, name: &str) -> Option<Contents> {
        self.folder.read(name).unwrap_or_else(|source| {
            self.add(name, DirectoryError::read(&self.path(name), source));
            None
        })
    }

    /// Adds a problem if the mode or the owner of the pending record is wrong, since the record may contain a key.
    fn at_record(&mut self) {
        let name = self.directory.layout.pending();
        match self.folder.read(&name) {
            Ok(Some(Contents { exposed: true, .. })) if self.listing.file_behind(&name).is_some() => {
                self.add(&name, DirectoryError::Exposed { path: self.path(&name) });
            }
            // `recall` reads the record later, and reports other errors.
            Err(source) => {
                let problem = DirectoryError::read(&self.path(&name), source);
                self.problems.extend(matches!(problem, DirectoryError::Untrusted { .. }).then_some(problem));
            }
            Ok(_) => {}
        }
    }

    /// Adds a problem of the file that `name` is or links to, unless a problem of that file was added before.
    fn add(&mut self, name: &str, problem: DirectoryError) {
        let is_exposed = matches!(problem, DirectoryError::Exposed { .. });
        if self.listing.file_behind(name).is_none_or(|file| self.known.insert((file, is_exposed))) {
            self.problems.push(problem);
        }
    }

    /// Adds the problems of the chosen pair that do not prevent its use. Returns false if TLS peers would reject the
    /// pair's certificate.
    fn add_flaws(&mut self, source: &Source, credential: &Credential) -> bool {
        let path = |name| self.directory.path.join(name);
        let (certificate, key) = match source {
            Source::Bundle(name) => (path(name), None),
            Source::Pair { certificate, key } => (path(certificate), Some(path(key))),
        };
        let mut damaged = |path: &PathBuf, skipped: &[PemError]| {
            let damage = skipped.iter().cloned();
            self.problems.extend(damage.map(|damage| DirectoryError::Damaged { path: path.clone(), damage }));
        };
        damaged(&certificate, credential.chain().skipped());
        key.iter().for_each(|key| damaged(key, credential.key().skipped()));
        let unserved = credential.chain().encoding_error();
        let is_served = unserved.is_none();
        self.problems.extend(unserved.map(|why| DirectoryError::Unserved { path: certificate, why }));
        is_served
    }

    /// True if `PREFIX-current.pem` is missing or dangling, so that a start may link it to a pair. False while any file
    /// cannot be read for a transient reason, since that file may contain a better pair.
    fn is_vacant(&self) -> bool {
        let may_pass =
            |problem: &DirectoryError| matches!(problem, DirectoryError::Io { .. }) && !problem.is_for_good();
        if self.problems.iter().any(may_pass) {
            return false;
        }
        match self.folder.read(&self.directory.layout.current()) {
            Ok(found) => found.is_none(),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// Adds the problems of the directory itself: writable by other users, or with a mount point in it.
    fn at_folder(&mut self) {
        let Directory { path, layout, .. } = self.directory;
        if self.folder.is_shared() {
            self.problems.push(DirectoryError::Shared { path: path.clone() });
        }
        for name in [layout.current(), layout.pending()] {
            if self.folder.is_mount_point(&name) {
                self.problems.push(DirectoryError::MountPoint { path: path.join(name) });
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path.join(name)
    }
}

fn names_of(source: &Source) -> Vec<&str> {
    match source {
        Source::Bundle(name) => vec![name],
        Source::Pair { certificate, key } => vec![certificate, key],
    }
}
