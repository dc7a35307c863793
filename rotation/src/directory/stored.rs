//! [`Directory`] as the [`Store`] of a rotation.

use std::sync::Arc;

use perennial::UnixTime;
use perennial_pki::Credential;
use zeroize::Zeroizing;

use super::{Directory, DirectoryError};
use crate::store::{LoadRequest, Store, StoreError, Stored};

/// With a signer, `load` waits while an unreadable pair still changes, since another program may be writing the file.
/// After that, `load` makes the repairs of [`Directory::recover`]. Without a signer, `load` changes nothing in the
/// directory.
impl Store for Directory {
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        let LoadRequest { common_name, has_signer, now, keys, .. } = *request;
        if keys.is_some() {
            return Err(DirectoryError::KeysElsewhere { path: self.path().into() }.into());
        }
        let loaded = if has_signer { self.recover_settled(common_name, now)? } else { self.load(common_name, now)? };
        loaded.problems.iter().for_each(DirectoryError::log);
        Ok(Stored {
            credential: loaded.credential.map(|(credential, _)| credential).or(loaded.foreign),
            waiting: loaded.waiting,
            is_misplaced: !loaded.in_use,
        })
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, now: UnixTime) -> Result<(), StoreError> {
        Ok(if serve { self.write(credential, now) } else { self.write_ahead(credential, now) }?)
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        match self.recall() {
            // `load` has logged this problem.
            Err(DirectoryError::Untrusted { .. }) => Ok(None),
            recalled => Ok(recalled?),
        }
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        Ok(self.remember(record)?)
    }
}
