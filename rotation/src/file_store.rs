//! [`FileStore`]: a store whose files other programs read under names of their own.

mod ca_file;
mod error;
mod found;
mod layout;
mod linked;
mod publish;
pub(crate) mod replace;
pub(crate) mod switch;
mod unpublished;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::UnixTime;
use perennial::store::Layout;
use perennial_pki::{Credential, KeyEncoding};
use zeroize::Zeroizing;

use crate::Directory;
use crate::directory::disk::Disk;
use crate::directory::volume::{FileAccess, Volume};
use crate::store::{LoadRequest, Store, StoreError, Stored};

pub use ca_file::CaFile;
pub use error::FileStoreError;
pub use layout::{CaCopy, FileLayout, FileOptions};
pub use unpublished::Unpublished;

pub(crate) use unpublished::LastFailure;

use found::are_for_same;
use layout::{Content, Files};
use publish::Published;

/// Name of the private directory beside the key file or bundle.
const PRIVATE: &str = ".perennial";

/// A store whose files other programs read: two files or one bundle, under names of these programs, with their owner,
/// modes and key encoding.
///
/// The subdirectory `.perennial` beside the key (mode 0700) contains the store's own copy of the pair, the pending
/// record and the lock, in the layout of a [`Directory`]. A new pair is durable there before a public file changes. A
/// [`load`](Store::load) completes public files that a crash has left behind.
///
/// # When readers see a new pair
///
/// - [`FileLayout::Linked`]: the link `..data` is switched, and with it all files at once, as in volumes of Kubernetes. A
///   reader that opens one file before the switch and the other after it gets a key that does not belong to the
///   certificate.
/// - [`FileLayout::Bundle`]: the file is replaced by one rename.
/// - [`FileLayout::Plain`]: each file is replaced by one rename: first the CA file, then the key, then the certificate.
///   All new files are durable under temporary names before the first rename. The key does not belong to the certificate
///   for a moment between two renames, and, after a loss of power in that moment, until the next start. TLS libraries
///   refuse such a pair, since each rotation has a new key. A reader that waits until the certificate file changes always
///   finds its key.
///
/// [`FileCredential`](crate::FileCredential) reads each layout correctly at any time.
///
/// # Files of other programs
///
/// A pair of another program is adopted if it has the wanted common name: the rotation starts from it. A pair without a
/// common name is not adopted, but replaced if it is for the names of the new pair. Other files are replaced only if
/// [`FileOptions::replaces_foreign`] is set; without, writes fail with an error that names the file. A CA file with other
/// contents than its source counts as a file of another program until this store has written a pair beside it. Symbolic
/// links on the path are followed only if root or the user of this process owns them.
#[derive(Debug)]
pub struct FileStore {
    private: Directory,
    files: Files,
    options: FileOptions,
    /// Held by each call that compares or changes files, so that a [`restore`](FileStore::restore) never comes between
    /// the private files and the public files of a write. Other processes are excluded by the lock of `private`.
    turn: Mutex<()>,
    unpublished: LastFailure,
}

impl FileStore {
    /// Makes a store. Changes nothing on disk; no file and no directory need exist.
    ///
    /// # Errors
    /// [`FileStoreError::Layout`] if a path names no file, or two files have the same path.
    pub fn new(layout: FileLayout, options: FileOptions) -> Result<Self, FileStoreError> {
        let owner = options.owner;
        let public = |path: &Path| Box::new(Disk::published(path, owner)) as Box<dyn Volume>;
        Self::with(&layout, options, public, |path, prefix| Box::new(Disk::private(path, prefix)))
    }

    /// Makes a store on a simulated [`Volume`]. All files are in one directory, whose path is that of the layout, and
    /// `volume` makes a volume for it and for the private directory inside of it (true).
    ///
    /// # Errors
    /// The errors of [`new`](Self::new).
    pub fn on(
        layout: FileLayout,
        options: FileOptions,
        volume: impl Fn(bool) -> Box<dyn Volume>,
    ) -> Result<Self, FileStoreError> {
        Self::with(&layout, options, |_| volume(false), |_, _| volume(true))
    }

    /// Makes a store. `public` makes the volume of each directory with public files, and `private` the volume of the
    /// private directory, for its path and the prefix of its files.
    fn with(
        layout: &FileLayout,
        options: FileOptions,
        public: impl Fn(&Path) -> Box<dyn Volume>,
        private: impl FnOnce(&Path, &str) -> Box<dyn Volume>,
    ) -> Result<Self, FileStoreError> {
        let files = Files::new(layout, &options, public)?;
        let (directory, prefix) = files.private();
        let path = directory.join(PRIVATE);
        let why = "a file name must not begin with a dot";
        let layout = Layout::new(prefix).map_err(|_| FileStoreError::Layout { path: path.clone(), why })?;
        let private = Directory::on(private(&path, prefix), path, layout);
        Ok(Self { private, files, options, turn: Mutex::default(), unpublished: LastFailure::default() })
    }

    /// Checks that [`claim`](Self::claim) would succeed, as far as possible without changing anything on disk.
    ///
    /// # Errors
    /// The errors of [`claim`](Self::claim). Directories that do not exist are no error.
    pub fn is_free(&self) -> Result<(), FileStoreError> {
        self.files.check()?;
        Ok(self.private.is_free()?)
    }

    /// Makes this process the owner of the files: creates missing directories (mode 0755; the private one 0700), and
    /// takes the lock. No other process can take the lock until this store is dropped or [released](Self::release), or
    /// this process ends.
    ///
    /// # Errors
    /// A directory cannot be created or written to, another process holds the lock ([`DirectoryError::Owned`]), or
    /// another program switches the links of the directory ([`FileStoreError::Volume`]).
    ///
    /// [`DirectoryError::Owned`]: crate::DirectoryError::Owned
    pub fn claim(&self) -> Result<(), FileStoreError> {
        self.files.check()?;
        self.files.create_directories()?;
        Ok(self.private.claim()?)
    }

    /// Releases the lock, so that another process can claim the files. A later write takes the lock again.
    pub fn release(&self) {
        self.private.release();
    }

    /// Path of the file with the certificate.
    pub fn certificate(&self) -> PathBuf {
        self.files.certificate()
    }

    /// Path of the private directory, whether or not it exists.
    pub fn private_directory(&self) -> &Path {
        self.private.path()
    }

    /// Writes the public files again if they are not those of the current pair: if another program has removed or
    /// replaced them, or an earlier write failed. Copies the CA file again if its source has changed. A pair that expires
    /// later than the current one stays in place.
    ///
    /// A rotation writes only new certificates, so a program should call this regularly, for example once a minute, on any
    /// thread. Waits for a write in progress.
    ///
    /// # Errors
    /// The files cannot be compared or written.
    pub fn restore(&self, now: UnixTime) -> Result<Restored, FileStoreError> {
        let _turn = self.turn();
        let Some((current, _)) = self.private.load(None, now)?.credential else {
            // A pair that was adopted has no copy before the next write.
            return Ok(if self.files.has_pair()? { Restored::Unchanged } else { Restored::Missing });
        };
        Ok(match self.publish_if_changed(&current, now)? {
            Published::Already | Published::Newer => Restored::Unchanged,
            Published::Written => Restored::Written,
        })
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Bytes = Zeroizing<Vec<u8>>;

/// The result of [`FileStore::restore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The public files stay as they were.
    Unchanged,
    /// The store wrote public files again.
    Written,
    /// The certificate or the key is missing, and the private directory has no pair to write them from: no pair was
    /// written yet, or another program has removed it. A rotation that holds the credential writes it again after
    /// [`Handle::report_replaced`](crate::Handle::report_replaced).
    Missing,
}

/// Encoding, owner and modes that fit most programs: PKCS#8, this process's user and group, 0600 and 0644.
impl Default for FileOptions {
    fn default() -> Self {
        Self {
            owner: None,
            group: None,
            key_mode: 0o600,
            certificate_mode: 0o644,
            key_encoding: KeyEncoding::default(),
            ca: None,
            replaces_foreign: false,
        }
    }
}

impl FileOptions {
    /// The access to a file with this content.
    const fn access(&self, content: Content) -> FileAccess {
        let mode = match content {
            Content::Key | Content::Bundle => self.key_mode,
            Content::Chain | Content::Ca => self.certificate_mode,
        };
        FileAccess { owner: self.owner, group: self.group, mode }
    }
}

/// With a signer, `load` completes public files that do not belong to the current pair. Problems with public files do
/// not prevent the start: they are logged, and writes report them again.
impl Store for FileStore {
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        let _turn = self.turn();
        let stored = Store::load(&self.private, request)?;
        let own = stored.credential.as_ref().filter(|held| request.wants(held));
        if let Some(own) = own
            && request.has_signer
        {
            // An earlier pair is taken if the current one has another name: `restore` must not bring that one back.
            let kept = if stored.is_misplaced { self.private.write(own, request.now) } else { Ok(()) };
            let published = kept.map_err(Into::into).and_then(|()| self.publish_if_changed(own, request.now));
            match &published {
                Ok(Published::Written) => {
                    tracing::info!("{}: completed the files of the certificate", self.certificate().display());
                }
                Ok(Published::Already | Published::Newer) => {}
                Err(error) => tracing::error!("{error}"),
            }
            if let Err(error) = self.files.sweep() {
                tracing::warn!("cannot remove temporary files: {error}; the next start tries again");
            }
            // The files were just read: there is no other pair to adopt, and none in the way.
            if matches!(published, Ok(Published::Already)) {
                return Ok(Stored { is_misplaced: false, ..stored });
            }
        }
        // Without a common name, each pair of another program would be the wanted one.
        let is_known = |found: &Credential| {
            let names = &found.chain().certificate().names;
            request.common_name.is_none()
                || !names.common_name().is_empty()
                || own.is_some_and(|own| are_for_same(names, &own.chain().certificate().names))
        };
        match self.found_pair() {
            Ok(Some(found)) if request.wants(&found) && !is_known(&found) => {
                let file = self.certificate();
                tracing::warn!("{}: not adopted: the certificate has no common name to know it by", file.display());
            }
            Ok(Some(found)) if request.wants(&found) && own.is_none_or(|own| !is_same(own, &found)) => {
                let all = own.into_iter().cloned().chain([Arc::new(found)]).collect();
                return Ok(Stored { waiting: stored.waiting.clone(), ..Stored::best_of(all, request) });
            }
            Ok(_) => {}
            Err(error) => error.log_unusable(),
        }
        // With an own pair, the files were checked above.
        if let (Some(name), None) = (request.common_name, own)
            && request.has_signer
        {
            let checked = self.check_replaceable(name, None, request.now);
            let ca = self.ca();
            if let Err(error) = checked.and_then(|()| ca.map_or(Ok(()), |ca| self.check_ca(&ca, request.now))) {
                tracing::error!("{error}");
            }
        }
        // With a signer, the files were completed.
        Ok(Stored { is_misplaced: stored.is_misplaced && !request.has_signer, ..stored })
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, now: UnixTime) -> Result<(), StoreError> {
        let _turn = self.turn();
        if !serve {
            self.claim()?;
            return Ok(self.private.write_ahead(credential, now)?);
        }
        let kept = self.claim().and_then(|()| self.contents(credential)).and_then(|contents| {
            // First, so that a crash or a failure on the way to the public files loses nothing.
            self.private.write(credential, now)?;
            Ok(contents)
        });
        // The credential is in memory only: an earlier failure to publish is not about this one.
        let contents = kept.inspect_err(|_| self.unpublished.note(None, now))?;
        Ok(self.publish(credential, &contents, now)?)
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Store::recall(&self.private)
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        let _turn = self.turn();
        self.claim()?;
        Store::remember(&self.private, record)
    }
}

fn is_same(one: &Credential, other: &Credential) -> bool {
    one.chain() == other.chain()
}
