//! Writing pairs to a credential directory, and removing old ones.

use perennial::UnixTime;
use perennial::store::{Dated, FileOp, Listing};
use perennial_pki::{Chain, Credential};

use super::volume::{Contents, Folder};
use super::{Directory, DirectoryError};

/// Number of dated files to retain: the pair in use and its predecessor.
const KEEP: usize = 2;

impl Directory {
    /// Writes `credential` durably to a dated file, links `PREFIX-current.pem` to it, and then removes old pairs with
    /// the same common name. After a crash or an error on the way, the previous pair is still in use. Creates the
    /// directory again if it was removed, with a warning in the log.
    ///
    /// # Errors
    /// The first operation that failed, or [`DirectoryError::KeysElsewhere`]. The previous pair is still in use;
    /// temporary files are removed as far as possible.
    pub fn write(&self, credential: &Credential, now: UnixTime) -> Result<(), DirectoryError> {
        self.require_key(credential)?;
        let folder = self.held()?;
        let listing = self.list(&*folder)?;
        // A pair that `write_ahead` stored needs a link only.
        let plan = match self.stored(&*folder, &listing, credential) {
            Some(file) => self.layout.use_stored(&listing, &file, now),
            None => self.layout.update(&listing, now),
        };
        let pem = credential.to_pem();
        self.carry_out(&*folder, &plan, pem.as_bytes())?;
        let current = self.layout.current();
        // If `PREFIX-current.pem` was a regular file, the plan has linked it to a dated name: that is the predecessor.
        let linked = plan.steps.iter().find_map(|step| match step {
            FileOp::Link { file, name } if *file == current => Some(name.as_str()),
            _ => None,
        });
        let before = linked.or_else(|| listing.file_behind(&current));
        // The new pair is durable and in use: a failure to remove old ones does not fail the write.
        if let Err(error) = self.prune(&*folder, credential, &pem, before) {
            tracing::warn!("cannot remove old certificates: {error}; the next write tries again");
        }
        Ok(())
    }

    /// Writes a pair that is not valid yet, durably, to a dated file. The pair in use stays in use, until
    /// [`write`](Self::write) replaces it. Does nothing if a dated file contains this pair already.
    ///
    /// # Errors
    /// The first operation that failed. The pair in use is unchanged; temporary files are removed as far as possible.
    pub fn write_ahead(&self, credential: &Credential, now: UnixTime) -> Result<(), DirectoryError> {
        self.require_key(credential)?;
        let folder = self.held()?;
        let listing = self.list(&*folder)?;
        if self.stored(&*folder, &listing, credential).is_some() {
            return Ok(());
        }
        self.carry_out(&*folder, &self.layout.store(&listing, now), credential.to_pem().as_bytes())
    }

    /// Returns an error if the key of `credential` stays elsewhere.
    fn require_key(&self, credential: &Credential) -> Result<(), DirectoryError> {
        match credential.key().reference() {
            Some(_) => Err(DirectoryError::KeysElsewhere { path: self.path.clone() }),
            None => Ok(()),
        }
    }

    /// Name of the dated file that contains this pair; `None` if there is none.
    fn stored(&self, folder: &dyn Folder, listing: &Listing, credential: &Credential) -> Option<String> {
        let is_same = |name: &str| {
            let Ok(Some(Contents { bytes, .. })) = folder.read(name) else { return false };
            // The chain first: reading the key of another pair would take longer.
            Chain::from_pem(&bytes).is_ok_and(|chain| chain == *credential.chain())
                && Credential::from_pem(&bytes).is_ok()
        };
        self.layout.dated(listing).into_iter().find(|name| is_same(name)).map(str::to_owned)
    }

    /// Removes old pairs with the common name of `credential`, which was just written as `pem`. In a
    /// [sole](Self::sole) directory, the names do not matter.
    fn prune(
        &self,
        folder: &dyn Folder,
        credential: &Credential,
        pem: &str,
        before: Option<&str>,
    ) -> Result<(), DirectoryError> {
        let listing = self.list(folder)?;
        let own = credential.chain().certificate();
        let dated = self.layout.dated(&listing).into_iter().filter_map(|name| {
            let bytes = folder.read(name).ok()??.bytes;
            let dated = |not_before| Dated { name: name.into(), not_before };
            // No need to parse what was just written.
            if *bytes == pem.as_bytes() {
                return Some(dated(own.validity.not_before()));
            }
            let found = Credential::from_pem(&bytes).ok()?;
            let certificate = found.chain().certificate();
            (self.is_sole || certificate.common_name() == own.common_name())
                .then(|| dated(certificate.validity.not_before()))
        });
        let mut plan = self.layout.prune(&listing, &dated.collect::<Vec<_>>(), KEEP, before);
        plan.steps.extend(self.layout.sweep(&listing).steps);
        self.carry_out(folder, &plan, &[])
    }
}
