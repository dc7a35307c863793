//! Reads the files that may contain a pair, and collects their problems.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use perennial::store::{Layout, Listing, Source};
use perennial_pki::{Chain, Credential};

use super::{Contents, DirectoryError, Folder};

/// Reads files and collects their problems.
pub(super) struct Inspection<'a> {
    path: &'a Path,
    layout: &'a Layout,
    folder: &'a dyn Folder,
    listing: &'a Listing,
    /// The wanted common name, if it is known.
    wanted: Option<&'a str>,
    problems: Vec<DirectoryError>,
    /// The first pair in use with another common name than the wanted one.
    foreign: Option<Arc<Credential>>,
    /// Names whose file was reported as unusable.
    unusable: Vec<String>,
    /// Names whose file was reported as readable by other users.
    exposed: Vec<String>,
    /// The common names of the certificates that were read.
    names: Vec<String>,
}

impl<'a> Inspection<'a> {
    pub(super) fn new(
        path: &'a Path,
        layout: &'a Layout,
        folder: &'a dyn Folder,
        listing: &'a Listing,
        wanted: Option<&'a str>,
    ) -> Self {
        let (problems, foreign, unusable, exposed, names) = Default::default();
        Self { path, layout, folder, listing, wanted, problems, foreign, unusable, exposed, names }
    }

    /// Reads a source that is in use. A pair with another common name is a problem, and not returned.
    pub(super) fn at_used(&mut self, source: &Source) -> Option<Arc<Credential>> {
        let credential = self.at(source)?;
        let common_name = &credential.chain().certificate().common_name;
        let Some(wanted) = self.wanted.filter(|wanted| wanted != common_name) else { return Some(credential) };
        let name = names_of(source)[0];
        let path = self.path.join(name);
        let foreign = DirectoryError::Foreign { path, common_name: common_name.clone(), wanted: wanted.to_owned() };
        self.is_unusable(name, foreign);
        self.foreign.get_or_insert(credential);
        None
    }

    /// Reads a source that is not in use. A pair with another common name is skipped without a problem.
    pub(super) fn at_other(&mut self, source: &Source) -> Option<Arc<Credential>> {
        let credential = self.at(source)?;
        self.wanted.is_none_or(|wanted| wanted == credential.chain().certificate().common_name).then_some(credential)
    }

    /// Reads the pair of a source, and collects the problems of its files.
    fn at(&mut self, source: &Source) -> Option<Arc<Credential>> {
        let names = names_of(source);
        let mut contents = Vec::new();
        // Only the last file counts, which contains the key: a certificate alone is no secret.
        let mut is_exposed = false;
        for name in &names {
            match self.folder.read(name) {
                Ok(None) => return None,
                Ok(Some(Contents { bytes, exposed })) => {
                    is_exposed = exposed;
                    contents.push(bytes);
                }
                Err(source) => {
                    self.is_unusable(name, DirectoryError::read(&self.path.join(name), source));
                    return None;
                }
            }
        }
        let (first, last) = (names.first()?, names.last()?);
        let (certificate, key) = (contents.first()?, contents.last()?);
        let read = Credential::from_pair(certificate, key);
        // Our own files may contain a key even if damaged. An unreadable file behind a link may hold no secret of ours.
        let is_ours = |name| self.listing.file_behind(name).is_some_and(|file| self.layout.is_ours(file));
        if is_exposed && (read.is_ok() || is_ours(last)) {
            self.exposes(last);
        }
        match read {
            Ok(credential) => {
                self.names.push(credential.chain().certificate().common_name.clone());
                Some(Arc::new(credential))
            }
            Err(error) => {
                self.names.extend(Chain::from_pem(certificate).map(|chain| chain.certificate().common_name.clone()));
                self.is_unusable(first, DirectoryError::Credential { path: self.path.join(first), error });
                None
            }
        }
    }

    /// Checks the mode and the owner of the pending record, which may contain a key.
    pub(super) fn at_record(&mut self) {
        let name = self.layout.pending();
        match self.folder.read(&name) {
            Ok(Some(Contents { exposed: true, .. })) if self.listing.file_behind(&name).is_some() => {
                self.exposes(&name);
            }
            // `recall` reads the record later, and reports other errors.
            Err(source) => {
                let problem = DirectoryError::read(&self.path.join(&name), source);
                self.problems.extend(matches!(problem, DirectoryError::Untrusted { .. }).then_some(problem));
            }
            Ok(_) => {}
        }
    }

    fn is_unusable(&mut self, name: &str, problem: DirectoryError) {
        if !self.is_told(&self.unusable, name) {
            self.problems.push(problem);
        }
        self.unusable.push(name.to_owned());
    }

    fn exposes(&mut self, name: &str) {
        if !self.is_told(&self.exposed, name) {
            self.exposed.push(name.to_owned());
            self.problems.push(DirectoryError::Exposed { path: self.path.join(name) });
        }
    }

    /// True if one of these names leads to the file of `name`, as a link to a dated file does.
    fn is_told(&self, told: &[String], name: &str) -> bool {
        let file = self.listing.file_behind(name);
        file.is_some() && told.iter().any(|told| self.listing.file_behind(told) == file)
    }

    /// The common names of the certificates read so far, those included whose key cannot be read.
    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// True if `PREFIX-current.pem` resolves to nothing, so that a start may link it to a pair. While any name cannot be
    /// read, it may lead to a better pair, and no link is made.
    pub(super) fn is_vacant(&self) -> bool {
        let may_pass =
            |problem: &DirectoryError| matches!(problem, DirectoryError::Io { .. }) && !problem.is_for_good();
        if self.problems.iter().any(may_pass) {
            return false;
        }
        match self.folder.read(&self.layout.current()) {
            Ok(found) => found.is_none(),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// Collects the problems of the directory itself.
    pub(super) fn at_folder(&mut self) {
        if self.folder.is_shared() {
            self.problems.push(DirectoryError::Shared { path: self.path.to_owned() });
        }
        for name in [self.layout.current(), self.layout.pending()] {
            if self.folder.is_mount_point(&name) {
                self.problems.push(DirectoryError::MountPoint { path: self.path.join(name) });
            }
        }
    }

    pub(super) fn into_findings(self) -> (Option<Arc<Credential>>, Vec<DirectoryError>) {
        (self.foreign, self.problems)
    }
}

fn names_of(source: &Source) -> Vec<&str> {
    match source {
        Source::Bundle(name) => vec![name],
        Source::Pair { certificate, key } => vec![certificate, key],
    }
}
