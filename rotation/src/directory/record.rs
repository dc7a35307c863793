//! Reading and writing the file of the pending record in a credential directory.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{Directory, DirectoryError};

impl Directory {
    /// Replaces the pending record, durably. After a crash or an error on the way, the previous record is still there.
    ///
    /// # Errors
    /// The first operation that failed. The previous record is still in place; temporary files are removed as far as
    /// possible.
    pub fn remember(&self, contents: &[u8]) -> Result<(), DirectoryError> {
        let folder = self.held()?;
        let plan = self.layout.remember(&self.list(&*folder)?);
        self.carry_out(&*folder, &plan, contents)
    }

    /// Reads the pending record; `None` if there is none.
    ///
    /// # Errors
    /// The record cannot be read, or another user could have written it ([`DirectoryError::Untrusted`]). The file is
    /// left in place.
    pub fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, DirectoryError> {
        let Some(folder) = self.existing_folder()? else { return Ok(None) };
        let contents = folder.read(&self.layout.pending());
        let contents = contents.map_err(|source| DirectoryError::read(&self.record(), source))?;
        Ok(contents.map(|contents| contents.bytes))
    }

    /// Path of the file with the pending record, whether or not it exists.
    pub fn record(&self) -> PathBuf {
        self.path.join(self.layout.pending())
    }
}
