//! [`VolumeStore`]: the store of a certificate that the containers of a pod read from a volume.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::{Fingerprint, UnixTime};
use perennial_pki::{Credential, KeyEncoding};
use zeroize::Zeroizing;

use crate::directory::volume::FileAccess;
use crate::file_store::LastFailure;
use crate::store::{LoadRequest, Store, StoreError, Stored};
use crate::{Directory, FileStoreError, ProjectedFile, ProjectedVolume, Record, Restored, Unpublished};

/// The files of a certificate in a volume. Paths are relative to the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Projection {
    /// One file with the private key (PKCS#8) and, behind it, the certificate chain: `credentialBundlePath` of a pod.
    Bundle {
        /// The path of the file.
        path: String,
    },
    /// Two files, which switch together: `keyPath` and `certificateChainPath` of a pod. A program that opens one file
    /// before a switch and the other one after it finds a key that does not belong to the certificate.
    Files {
        /// The path of the file with the private key (PKCS#8).
        key: String,
        /// The path of the file with the certificate chain.
        certificate_chain: String,
    },
}

impl Projection {
    /// The paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Bundle { path } => (path, None),
            Self::Files { key, certificate_chain } => (key, Some(certificate_chain)),
        };
        [first].into_iter().chain(second).map(String::as_str)
    }
}

/// The store of a certificate whose files are in a [`ProjectedVolume`], with a private copy in a [`Directory`].
///
/// The directory also has the pending record, and survives a restart of the node; the volume may be a tmpfs. A new pair is
/// durable in the private copy before the volume changes, and a [`load`](Store::load) completes the volume from the
/// private copy. A certificate that is not valid yet is in the private copy only.
///
/// If requests with another [digest](LoadRequest::request_digest) have led to the private copy, a `load` leaves the files of
/// the volume as they are, until a new pair is written: the certificate may be for other users than these files.
///
/// If the volume cannot be written, `write` fails, so that the rotation repeats the write. After a `load` that could not
/// complete the volume, and if another program removes files of the volume, call [`restore`](Self::restore).
#[derive(Debug)]
pub struct VolumeStore {
    private: Directory,
    volume: Arc<ProjectedVolume>,
    projection: Projection,
    access: FileAccess,
    /// Held by each call that changes files.
    turn: Mutex<Turn>,
    unpublished: LastFailure,
}

#[derive(Debug, Default)]
struct Turn {
    stage: Stage,
    /// The stored pair, if the last load has found that requests with another digest have led to it.
    withheld: Option<Fingerprint>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    New,
    /// The private copy exists, and its lock is held.
    Claimed,
    Closed,
}

impl VolumeStore {
    /// Makes a store with its private copy in `private`, which no other certificate uses, and its files in `volume`, with
    /// this owner, group and mode. Changes nothing on disk.
    ///
    /// # Errors
    /// [`FileStoreError::Layout`]: a path of the projection is bad.
    pub fn new(
        private: Directory,
        volume: Arc<ProjectedVolume>,
        projection: Projection,
        access: FileAccess,
    ) -> Result<Self, FileStoreError> {
        ProjectedVolume::check_paths(projection.paths())?;
        let (private, turn, unpublished) = (private.sole(), Mutex::default(), LastFailure::default());
        Ok(Self { private, volume, projection, access, turn, unpublished })
    }

    /// Makes this process the owner of the private copy: see [`Directory::claim`].
    ///
    /// # Errors
    /// The errors of [`Directory::claim`].
    pub fn claim(&self) -> Result<(), FileStoreError> {
        self.claim_once(&mut self.turn().stage)
    }

    /// Claims the private copy before its first change. Later, each write takes the lock again if that is necessary.
    fn claim_once(&self, stage: &mut Stage) -> Result<(), FileStoreError> {
        if *stage == Stage::New {
            self.private.claim()?;
            *stage = Stage::Claimed;
        }
        Ok(())
    }

    /// Ends the use of the store, and releases the lock of the private copy, so that the caller can remove the directory.
    /// Waits for a call of the store that is running. Later calls change nothing, and report success: the certificate is
    /// not wanted any more.
    pub fn close(&self) {
        let mut turn = self.turn();
        turn.stage = Stage::Closed;
        self.private.release();
    }

    /// Path of the directory with the private copy.
    pub fn private_directory(&self) -> &Path {
        self.private.path()
    }

    /// The failure to write the current pair to the volume; `None` if the volume had the files of the pair after the last
    /// load, write or [`restore`](Self::restore), and if requests with another digest have led to the pair: such a pair is not
    /// written. Never waits for a disk.
    pub fn unpublished(&self) -> Option<Unpublished> {
        self.unpublished.get()
    }

    /// Writes the files of the volume again, if they are not those of the current pair.
    ///
    /// # Errors
    /// The private copy cannot be read, or the volume cannot be read or written.
    pub fn restore(&self, now: UnixTime) -> Result<Restored, FileStoreError> {
        let turn = self.turn();
        if turn.stage == Stage::Closed {
            return Ok(Restored::Unchanged);
        }
        let Some((current, _)) = self.private.load(None, now)?.credential else { return Ok(Restored::Missing) };
        Ok(if self.publish(&current, turn.withheld, now)? { Restored::Written } else { Restored::Unchanged })
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fingerprint of the stored pair, if the pending record shows that requests with another digest have led to it.
    fn outdated(&self, stored: &Credential, request: &LoadRequest<'_>) -> Option<Fingerprint> {
        // The rotation logs what is wrong with the record.
        let record = Record::decode_with(&self.private.recall().ok()??, request.keys).ok()?;
        let fingerprint = stored.chain().certificate().fingerprint;
        record.outdates(fingerprint, request.request_digest).then_some(fingerprint)
    }

    /// Writes the files of the pair, which must be durable in the private copy. Returns false if the volume has them, and if
    /// the pair is `withheld`.
    fn publish(
        &self,
        credential: &Credential,
        withheld: Option<Fingerprint>,
        now: UnixTime,
    ) -> Result<bool, FileStoreError> {
        if withheld == Some(credential.chain().certificate().fingerprint) {
            return Ok(false);
        }
        let published = self.files(credential).and_then(|files| self.volume.set(&files, now));
        self.unpublished.note(published.as_ref().err(), now);
        published
    }

    fn files(&self, credential: &Credential) -> Result<Vec<ProjectedFile>, FileStoreError> {
        let chain = credential.chain().pem();
        let path = || self.projection.paths().next().unwrap_or_default().into();
        let key = credential.key().to_pem_as(KeyEncoding::Pkcs8);
        let algorithm = credential.key().algorithm();
        let key = key.ok_or_else(|| FileStoreError::Encoding { path: path(), algorithm })?;
        let file = |path: &str, parts: &[&str]| ProjectedFile {
            path: path.into(),
            contents: Zeroizing::new(parts.concat().into_bytes()),
            access: self.access,
        };
        Ok(match &self.projection {
            Projection::Bundle { path } => vec![file(path, &[&key, &chain])],
            Projection::Files { key: key_path, certificate_chain } => {
                vec![file(key_path, &[&key]), file(certificate_chain, &[&chain])]
            }
        })
    }
}

/// If the rotation has a signer, `load` completes the files of the volume. A volume that cannot be written does not prevent
/// the start: `load` logs the error, and [`VolumeStore::unpublished`] returns it.
impl Store for VolumeStore {
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        let mut turn = self.turn();
        let stored = Store::load(&self.private, request)?;
        let own = stored.credential.as_ref().filter(|own| request.wants(own));
        if let Some(own) = own.filter(|_| request.has_signer && turn.stage != Stage::Closed) {
            turn.withheld = self.outdated(own, request);
            // An earlier pair is taken if the current one cannot be used: `restore` must not bring that one back.
            let kept = if stored.is_misplaced { self.private.write(own, request.now) } else { Ok(()) };
            match kept.map_err(Into::into).and_then(|()| self.publish(own, turn.withheld, request.now)) {
                Ok(true) => tracing::info!(
                    "{}: completed the files of the certificate in the volume",
                    self.volume.path().display()
                ),
                Ok(false) => {}
                Err(error) => tracing::error!("{error}"),
            }
        }
        // No other program reads the private copy.
        Ok(Stored { is_misplaced: false, ..stored })
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, now: UnixTime) -> Result<(), StoreError> {
        let mut turn = self.turn();
        if turn.stage == Stage::Closed {
            return Ok(());
        }
        self.claim_once(&mut turn.stage)?;
        if !serve {
            return Ok(self.private.write_ahead(credential, now)?);
        }
        // First, so that a crash or a failure on the way to the volume loses nothing.
        let kept = self.private.write(credential, now);
        // The credential is in memory only: an earlier failure to publish is not about this one.
        kept.inspect_err(|_| self.unpublished.note(None, now))?;
        self.publish(credential, turn.withheld, now)?;
        Ok(())
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Store::recall(&self.private)
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        let mut turn = self.turn();
        if turn.stage == Stage::Closed {
            return Ok(());
        }
        self.claim_once(&mut turn.stage)?;
        Store::remember(&self.private, record)
    }
}
