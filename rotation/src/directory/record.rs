//! The record of what was asked last, beside the pair in use.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{Directory, DirectoryError};

impl Directory {
    /// Puts a new record in place, durably. The one before stays until then, whatever happens.
    ///
    /// # Errors
    /// The first operation that failed; what was begun is cleaned up as far as that goes.
    pub fn remember(&self, contents: &[u8]) -> Result<(), DirectoryError> {
        let folder = self.held()?;
        let plan = self.layout.remember(&self.list(&*folder)?);
        self.carry_out(&*folder, &plan, contents)
    }

    /// The record, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or another user could have written it ([`DirectoryError::Untrusted`]). It stays where it is.
    pub fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return Ok(None) };
        let contents = folder.read(&self.layout.pending());
        let contents = contents.map_err(|source| DirectoryError::read(&self.record(), source))?;
        Ok(contents.map(|contents| contents.bytes))
    }

    /// Where the record is kept.
    pub fn record(&self) -> PathBuf {
        self.path.join(self.layout.pending())
    }
}
