//! What lies where a pair may lie, and what is wrong with it.

use std::path::Path;
use std::sync::Arc;

use perennial::store::{FileOp, Layout, Listing, Plan, Source};
use perennial_pki::{Chain, Credential};
use zeroize::Zeroizing;

use super::{Contents, DirectoryError, Folder, volume};

/// Looks at places, and keeps in mind what is wrong with them.
pub(super) struct Look<'a> {
    path: &'a Path,
    layout: &'a Layout,
    folder: &'a dyn Folder,
    listing: &'a Listing,
    problems: Vec<DirectoryError>,
    damaged: Vec<String>,
    exposed: Vec<String>,
    /// Whose certificates were seen.
    names: Vec<String>,
    /// Something could not be read, and may be another time.
    unsure: bool,
}

impl<'a> Look<'a> {
    pub(super) fn new(path: &'a Path, layout: &'a Layout, folder: &'a dyn Folder, listing: &'a Listing) -> Self {
        let (problems, damaged, exposed, names) = Default::default();
        Self { path, layout, folder, listing, problems, damaged, exposed, names, unsure: false }
    }

    /// The pair that lies there.
    pub(super) fn at(&mut self, source: &Source) -> Option<Arc<Credential>> {
        let names: Vec<&String> = match source {
            Source::Bundle(name) => vec![name],
            Source::Pair { certificate, key } => vec![certificate, key],
        };
        let mut bundle = Zeroizing::new(Vec::new());
        // A certificate alone is no secret: the key comes last.
        let mut is_exposed = false;
        for name in &names {
            match self.folder.read(name) {
                Ok(None) => return None,
                Ok(Some(Contents { bytes, exposed })) => {
                    is_exposed = exposed;
                    // A buffer that grows leaves copies behind.
                    bundle = Zeroizing::new([&bundle[..], b"\n", &bytes[..]].concat());
                }
                Err(source) => {
                    let for_good = volume::is_for_good(&source);
                    let problem = DirectoryError::io("read", &self.path.join(name), source);
                    if for_good {
                        self.is_damaged(name, problem);
                    } else {
                        self.unsure = true;
                        self.problems.push(problem);
                    }
                    return None;
                }
            }
        }
        let (first, last) = (names.first()?, names.last()?);
        let read = Credential::from_pem(&bundle);
        // There may be a key in what is damaged as well; but a link may lead to what is no secret of ours.
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
                self.names.extend(Chain::from_pem(&bundle).map(|chain| chain.certificate().common_name.clone()));
                self.is_damaged(first, DirectoryError::Credential { path: self.path.join(first), error });
                None
            }
        }
    }

    /// The record of what was asked last: there may be a key in it.
    pub(super) fn at_record(&mut self) {
        let name = self.layout.pending();
        let there = self.listing.file_behind(&name).is_some();
        if there && let Ok(Some(Contents { exposed: true, .. })) = self.folder.read(&name) {
            self.exposes(&name);
        }
    }

    fn is_damaged(&mut self, name: &str, problem: DirectoryError) {
        if !self.is_told(&self.damaged, name) {
            self.problems.push(problem);
        }
        self.damaged.push(name.to_owned());
    }

    fn exposes(&mut self, name: &str) {
        if !self.is_told(&self.exposed, name) {
            self.exposed.push(name.to_owned());
            self.problems.push(DirectoryError::Exposed { path: self.path.join(name) });
        }
    }

    /// Whether one of these names leads to the same file, as a link to a dated one does.
    fn is_told(&self, told: &[String], name: &str) -> bool {
        let file = self.listing.file_behind(name);
        file.is_some() && told.iter().any(|told| self.listing.file_behind(told) == file)
    }

    /// Whose certificates were seen so far, those included whose key cannot be read.
    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// How to make private what others could read, which must be done under its old name; and how to put the directory
    /// right, if the pair that was found there is to be in use.
    pub(super) fn plans(&self, taken: Option<&Source>) -> [Plan; 2] {
        let exposed = self.exposed.iter().filter_map(|name| self.listing.file_behind(name));
        // Durable before it may be renamed: nobody looks at what was set aside any more.
        let private = |name: &str| [FileOp::Restrict { name: name.into() }, FileOp::Sync { name: name.into() }];
        let restrict = Plan { steps: exposed.flat_map(private).collect() };
        // What cannot be read now may be the better pair: it stays what is in use.
        let recover =
            if self.unsure { Plan::default() } else { self.layout.recover(self.listing, &self.damaged, taken) };
        [restrict, recover]
    }

    pub(super) fn into_problems(self) -> Vec<DirectoryError> {
        self.problems
    }
}
