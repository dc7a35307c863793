//! [`CaFile`]: a file of CA certificates that other programs read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use perennial_pki::Roots;
use zeroize::Zeroizing;

use super::found::unrecognized;
use super::layout::{Content, FileOptions, Files};
use super::{Bytes, FileStoreError};
use crate::directory::disk::Disk;

/// The first line of a file that perennial has written. Readers of PEM skip text around the blocks (RFC 7468 §2).
const HEADING: &str = "# CA certificates of a trust bundle. perennial replaces this file when they change.\n";

/// A file of CA certificates (PEM) that other programs read, replaced by one rename when the certificates change.
///
/// The file begins with a comment by which a later process knows that perennial wrote it. A file without the comment is
/// another program's: it is replaced only if [`FileOptions::replaces_foreign`] is set. If it has the same certificates, it
/// stays in place until they change. Symbolic links on the path are followed only if root or the user of this process
/// owns them.
///
/// No lock protects the file: give each path to one process.
#[derive(Debug)]
pub struct CaFile {
    files: Files,
    replaces_foreign: bool,
    /// True once the temporary file that a crash may have left is removed.
    is_swept: AtomicBool,
}

impl CaFile {
    /// Makes a file. Changes nothing on disk; neither the file nor its directory need exist. Of `options`, the owner, the
    /// group, the [`certificate_mode`](FileOptions::certificate_mode) and
    /// [`replaces_foreign`](FileOptions::replaces_foreign) apply.
    ///
    /// # Errors
    /// [`FileStoreError::Layout`] if the path names no file, or names a hidden file.
    pub fn new(path: impl Into<PathBuf>, options: &FileOptions) -> Result<Self, FileStoreError> {
        let owner = options.owner;
        let volume = |path: &Path| Box::new(Disk::published(path, owner)) as _;
        let files = Files::of([(path.into(), Content::Ca)], false, options, volume)?;
        Ok(Self { files, replaces_foreign: options.replaces_foreign, is_swept: AtomicBool::default() })
    }

    /// Path of the file.
    pub fn path(&self) -> PathBuf {
        // The last file, and the only one.
        self.files.certificate()
    }

    /// Writes these CA certificates durably, unless the file contains them already. Creates a missing directory (mode
    /// 0755). Returns true if the file was written.
    ///
    /// # Errors
    /// The file cannot be read or written, or is another program's. The file then is as it was, unless the sync of its
    /// directory failed.
    pub fn write(&self, roots: &Roots) -> Result<bool, FileStoreError> {
        let contents: [Option<Bytes>; 1] = [Some(Zeroizing::new([HEADING, roots.pem()].concat().into_bytes()))];
        if !self.is_swept.swap(true, Ordering::Relaxed) {
            self.files.sweep()?;
        }
        if self.files.are(&contents)? {
            return Ok(false);
        }
        if !self.replaces_foreign && self.is_foreign_with(roots)? {
            return Ok(false);
        }
        self.files.check()?;
        self.files.create_directories()?;
        self.files.replace(&contents, self.replaces_foreign)?;
        Ok(true)
    }

    /// Reads the CA certificates that this process, or an earlier one, has written. `None` if there is no file, or another
    /// program's, or one without a certificate.
    ///
    /// # Errors
    /// The file or its directory cannot be read.
    pub fn read(&self) -> Result<Option<Roots>, FileStoreError> {
        for file in &self.files.all {
            match self.files.read(file) {
                Ok(Some(found)) if found.starts_with(HEADING.as_bytes()) => return Ok(Roots::from_pem(&found).ok()),
                Ok(_) => {}
                Err(error) if error.is_foreign() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Checks that [`write`](Self::write) could replace the file, as far as possible without changing anything on disk.
    ///
    /// # Errors
    /// The directory cannot be read or written to, or the file is another program's, and may not be replaced. (`write` leaves
    /// such a file in place, without an error, if it has the same certificates.) A missing file or directory is no error.
    pub fn is_free(&self) -> Result<(), FileStoreError> {
        self.files.check()?;
        match self.replaces_foreign {
            true => Ok(()),
            false => self.foreign()?.map_or(Ok(()), |(path, _)| Err(not_ours(path))),
        }
    }

    /// True if the file is another program's and has these certificates.
    ///
    /// # Errors
    /// The file is another program's and has other contents.
    fn is_foreign_with(&self, roots: &Roots) -> Result<bool, FileStoreError> {
        let Some((path, found)) = self.foreign()? else { return Ok(false) };
        match Roots::from_pem(&found) {
            Ok(found) if blocks(&found) == blocks(roots) => Ok(true),
            _ => Err(not_ours(path)),
        }
    }

    /// Path and contents of the file, if it is another program's.
    ///
    /// # Errors
    /// The file cannot be read, or is a link.
    fn foreign(&self) -> Result<Option<(PathBuf, Bytes)>, FileStoreError> {
        for file in &self.files.all {
            let path = self.files.path(file);
            let folder = self.files.existing(file.directory)?;
            let target = folder.map_or(Ok(None), |folder| folder.link_target(&file.name));
            if let Some(target) = target.map_err(|error| FileStoreError::io("read", &path, error))? {
                return Err(FileStoreError::Link { path, target });
            }
            let found = self.files.read(file)?.filter(|found| !found.starts_with(HEADING.as_bytes()));
            if let Some(found) = found {
                return Ok(Some((path, found)));
            }
        }
        Ok(None)
    }
}

fn not_ours(path: PathBuf) -> FileStoreError {
    unrecognized(path, "perennial did not write these CA certificates")
}

/// The PEM blocks of the certificates, in any order.
fn blocks(roots: &Roots) -> BTreeSet<&str> {
    roots.pem().split_inclusive("-----END CERTIFICATE-----\n").collect()
}
