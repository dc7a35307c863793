//! The files of a member: its store, and the paths that other parts of perennial need.

use std::path::PathBuf;
use std::sync::Arc;

use perennial_pki::Credential;
use perennial_rotation::{Directory, Store, clock};

use super::{Location, StoreKind};
use crate::hook_debt;

/// The files of a member.
pub(crate) struct Files {
    directory: Arc<Directory>,
    /// The prefix of the file names.
    prefix: String,
    /// The file that other programs read, as an absolute path.
    current: PathBuf,
}

impl Files {
    /// Opens the store at this location. Changes no file, and takes no lock.
    ///
    /// # Errors
    /// The reason why the location cannot be used, as a clause.
    pub(crate) fn open(location: &Location) -> Result<Self, String> {
        let StoreKind::Directory { path, prefix } = &location.kind else {
            return Err("this kind of store is not known".into());
        };
        let directory = Directory::at(path, prefix).map_err(|error| error.to_string())?;
        let current = std::path::absolute(directory.current()).map_err(|error| error.to_string())?;
        Ok(Self { directory: Arc::new(directory), prefix: prefix.clone(), current })
    }

    /// Locks the files, so that no other perennial writes them.
    ///
    /// # Errors
    /// The reason why the lock is not free, or the directory cannot be used, as a clause.
    pub(crate) fn claim(&self) -> Result<(), String> {
        self.directory.claim().map_err(|error| error.to_string())
    }

    /// The store of the rotation.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.directory.clone()
    }

    /// The file that other programs read.
    pub(crate) fn current(&self) -> PathBuf {
        self.current.clone()
    }

    /// The path of the hook record: beside the pair.
    pub(crate) fn hook_record(&self) -> PathBuf {
        hook_debt::record_path(self.directory.path(), &self.prefix)
    }

    /// Reads the valid credential with this common name; `None` if there is none.
    pub(crate) fn in_use(&self, common_name: &str) -> Option<Arc<Credential>> {
        let now = clock::now().unix;
        let found =
            Directory::load(&self.directory, Some(common_name), now).ok()?.credential.map(|(credential, _)| credential);
        found.filter(|credential| !credential.chain().certificate().validity.expired(now))
    }
}
