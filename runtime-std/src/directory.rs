//! The credential directory on a real file system: carries out core's plans, operation by operation.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial::UnixTime;
use perennial::store::{Entry, FileOp, Kind, Layout, Listing, Source, StoreError};
use perennial_pki::{Credential, CredentialError};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use zeroize::Zeroizing;

type Secret = Zeroizing<Vec<u8>>;

/// No credential is larger.
const MAX_FILE: u64 = 1 << 20;

/// A directory that holds one certificate's files, in kubelet's layout.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    layout: Layout,
}

/// The directory its path names at this moment: what is done together is done in one place.
struct Opened<'a> {
    path: &'a Path,
    fd: OwnedFd,
}

impl Directory {
    /// Opens the directory for files that begin with `prefix`, creating it (mode 0700) if it does not exist.
    ///
    /// # Errors
    /// If it cannot be created or is not a directory we may write to. Nothing in it is touched.
    pub fn open(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let directory = Self::new(path.into(), prefix)?;
        let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory.path);
        created.map_err(|source| DirectoryError::io("create", &directory.path, source))?;
        let opened = directory.opened()?;
        let writable = rustix::fs::accessat(&opened.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty());
        writable.map_err(|source| DirectoryError::io("write to", &directory.path, source.into()))?;
        directory.layout.check(&opened.list()?).map_err(|error| directory.layout_error(error))?;
        Ok(directory)
    }

    /// Opens a directory that exists, to look at it.
    ///
    /// # Errors
    /// If it does not exist or is not a directory we may read.
    pub fn open_existing(path: impl Into<PathBuf>, prefix: &str) -> Result<Self, DirectoryError> {
        let directory = Self::new(path.into(), prefix)?;
        directory.opened()?;
        Ok(directory)
    }

    fn new(path: PathBuf, prefix: &str) -> Result<Self, DirectoryError> {
        let layout = Layout::new(prefix).map_err(|error| DirectoryError::Layout { path: path.clone(), error })?;
        Ok(Self { path, layout })
    }

    /// Anew each time: what was removed and made again, or mounted over, is found as everybody else finds it.
    fn opened(&self) -> Result<Opened<'_>, DirectoryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.path, flags, Mode::empty());
        let fd = fd.map_err(|source| DirectoryError::io("open", &self.path, source.into()))?;
        Ok(Opened { path: &self.path, fd })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The link to the pair in use: what a kubeconfig points at.
    pub fn current(&self) -> PathBuf {
        self.path.join(self.layout.current())
    }

    /// The pair in use, and the file it was read from; `None` if there is none.
    ///
    /// # Errors
    /// If files are there, but do not make a pair: that is for a person to look at, not to be overwritten.
    pub fn load(&self) -> Result<Option<(Arc<Credential>, PathBuf)>, DirectoryError> {
        let opened = self.opened()?;
        for source in self.layout.sources(&opened.list()?) {
            let (name, bundle) = match source {
                Source::Bundle(name) => (name.clone(), opened.read(&name)?),
                Source::Pair { certificate, key } => {
                    let parts = opened.read(&certificate)?.zip(opened.read(&key)?);
                    let joined =
                        |(chain, key): (Secret, Secret)| Zeroizing::new([&chain[..], b"\n", &key[..]].concat());
                    (certificate, parts.map(joined))
                }
            };
            // A dangling link is no file.
            let Some(bundle) = bundle else { continue };
            let path = self.path.join(name);
            return match Credential::from_pem(&bundle) {
                Ok(credential) => Ok(Some((Arc::new(credential), path))),
                Err(error) => Err(DirectoryError::Credential { path, error }),
            };
        }
        Ok(None)
    }

    /// Makes this the pair in use, durably. The one in use before stays until then, whatever happens.
    ///
    /// # Errors
    /// The first operation that failed; what was begun is cleaned up as far as that goes.
    pub fn write(&self, credential: &Credential, now: UnixTime) -> Result<(), DirectoryError> {
        let opened = self.opened()?;
        let plan = self.layout.update(&opened.list()?, now).map_err(|error| self.layout_error(error))?;
        let contents = credential.to_pem();
        for (done, step) in plan.steps.iter().enumerate() {
            if let Err(error) = opened.execute(step, contents.as_bytes()) {
                for step in plan.undo(done) {
                    // The first error is the one to report.
                    let _ = opened.execute(&step, &[]);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn layout_error(&self, error: StoreError) -> DirectoryError {
        DirectoryError::Layout { path: self.path.clone(), error }
    }
}

impl Opened<'_> {
    fn execute(&self, op: &FileOp, contents: &[u8]) -> Result<(), DirectoryError> {
        let fd = &self.fd;
        match op {
            FileOp::CreateNew { name } => self.create(name, contents),
            FileOp::Sync { name } => {
                let file =
                    rustix::fs::openat(fd, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
                self.report("sync", name, file.and_then(rustix::fs::fsync))
            }
            FileOp::Symlink { target, name } => self.report("link", name, rustix::fs::symlinkat(target, fd, name)),
            FileOp::Rename { from, to } => self.report("put in place", to, rustix::fs::renameat(fd, from, fd, to)),
            FileOp::SyncDir => self.report("sync", ".", rustix::fs::fsync(fd)),
            FileOp::Remove { name } => self.report("remove", name, rustix::fs::unlinkat(fd, name, AtFlags::empty())),
        }
    }

    fn create(&self, name: &str, contents: &[u8]) -> Result<(), DirectoryError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(|source| DirectoryError::io("create", &self.path.join(name), source.into()))?;
        File::from(file).write_all(contents).map_err(|source| {
            // Half a pair is of no use to anybody.
            let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
            DirectoryError::io("write", &self.path.join(name), source)
        })
    }

    fn report(&self, what: &'static str, name: &str, result: rustix::io::Result<()>) -> Result<(), DirectoryError> {
        result.map_err(|source| DirectoryError::io(what, &self.path.join(name), source.into()))
    }

    fn list(&self) -> Result<Listing, DirectoryError> {
        let entries = || -> rustix::io::Result<Vec<Entry>> {
            let mut entries = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().to_str().map(String::from) else { continue };
                let kind = match entry.file_type() {
                    FileType::Unknown => {
                        FileType::from_raw_mode(rustix::fs::statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                    }
                    known => known,
                };
                let kind = match kind {
                    FileType::RegularFile => Kind::File,
                    FileType::Symlink => Kind::Link,
                    _ => Kind::Other,
                };
                entries.push(Entry { name, kind });
            }
            Ok(entries)
        };
        entries().map(Listing).map_err(|source| DirectoryError::io("list", self.path, source.into()))
    }

    /// The file's contents; `None` if it, or what it links to, does not exist.
    fn read(&self, name: &str) -> Result<Option<Secret>, DirectoryError> {
        let read = || -> io::Result<Option<Secret>> {
            // NONBLOCK, so that a pipe by that name does not hold us up.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
                Ok(file) => File::from(file),
                Err(rustix::io::Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let metadata = file.metadata()?;
            if !metadata.is_file() || metadata.len() > MAX_FILE {
                return Err(io::Error::other("not a regular file of at most 1 MiB"));
            }
            // Room for all of it, and for learning that it is all: a buffer that grows leaves copies behind.
            let mut contents = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
            file.take(metadata.len()).read_to_end(&mut contents)?;
            Ok(Some(contents))
        };
        read().map_err(|source| DirectoryError::io("read", &self.path.join(name), source))
    }
}

/// A credential directory that cannot be used, or an operation on it that failed.
#[derive(Debug)]
pub enum DirectoryError {
    /// The system refused an operation.
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The files there are not as they have to be. They are left alone.
    Layout {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        error: StoreError,
    },
    /// A file there does not hold a pair. It is left alone.
    Credential {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: CredentialError,
    },
}

impl DirectoryError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.into(), source }
    }
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, path, source } => write!(f, "cannot {what} {}: {source}", path.display()),
            Self::Layout { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Credential { path, error } => {
                write!(
                    f,
                    "{}: {error}; it is left alone: repair it, or move it away to have a new one issued",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for DirectoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Layout { error, .. } => Some(error),
            Self::Credential { error, .. } => Some(error),
        }
    }
}
