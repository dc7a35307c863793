//! A directory of a real file system, every operation relative to its descriptor.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use perennial::store::{Entry, FileOp, Kind, Listing};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, accessat, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::DirectoryError;
use super::volume::{Contents, Folder, Volume};

/// No credential is larger.
const MAX_FILE: u64 = 1 << 20;
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
}

struct Opened<'a> {
    path: &'a Path,
    fd: OwnedFd,
}

impl Disk {
    /// A directory, made if it is not there.
    pub(super) fn create(path: &Path) -> Result<Self, DirectoryError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| DirectoryError::io("create", path, source))?;
        Self::existing(path)
    }

    /// Whether we may write to it.
    pub(super) fn is_writable(&self) -> Result<(), DirectoryError> {
        let path = &self.path;
        let opened = self.opened().map_err(|source| DirectoryError::io("open", path, source))?;
        accessat(&opened.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())
            .map_err(|source| DirectoryError::io("write to", path, source.into()))
    }

    pub(super) fn existing(path: &Path) -> Result<Self, DirectoryError> {
        let disk = Self { path: path.to_owned() };
        disk.opened().map_err(|source| DirectoryError::io("open", path, source))?;
        Ok(disk)
    }

    fn opened(&self) -> io::Result<Opened<'_>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.path, flags, Mode::empty())?;
        Ok(Opened { path: &self.path, fd })
    }
}

impl Volume for Disk {
    fn open(&self) -> io::Result<Box<dyn Folder + '_>> {
        Ok(Box::new(self.opened()?))
    }
}

impl Folder for Opened<'_> {
    fn list(&self) -> io::Result<Listing> {
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
            let target = if kind == Kind::Link { self.target(&name) } else { None };
            entries.push(Entry { name, kind, target });
        }
        Ok(Listing(entries))
    }

    fn read(&self, name: &str) -> io::Result<Option<Contents>> {
        let never = |why: &str| Err(Error::new(ErrorKind::InvalidData, why));
        // NONBLOCK, so that a pipe by that name does not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return never("it is a link that leads nowhere"),
            Err(Errno::NXIO) => return never("it is a socket"),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return never("it is not a regular file of at most 1 MiB");
        }
        // Room for all of it, and for learning that it is all: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
        file.take(metadata.len()).read_to_end(&mut bytes)?;
        Ok(Some(Contents { bytes, exposed: metadata.mode() & 0o077 != 0 }))
    }

    fn execute(&self, op: &FileOp, contents: &[u8]) -> io::Result<()> {
        let fd = &self.fd;
        match op {
            FileOp::CreateNew { name } => return self.create(name, contents),
            FileOp::Sync { name } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                fsync(openat(fd, name, flags, Mode::empty())?)?;
            }
            FileOp::Restrict { name } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::fchmod(openat(fd, name, flags, Mode::empty())?, OWNER_ONLY)?;
            }
            FileOp::Symlink { target, name } => rustix::fs::symlinkat(target, fd, name)?,
            FileOp::Link { file, name } => rustix::fs::linkat(fd, file, fd, name, AtFlags::empty())?,
            FileOp::Rename { from, to } => renameat(fd, from, fd, to)?,
            FileOp::SyncDir => fsync(fd)?,
            FileOp::Remove { name } => unlinkat(fd, name, AtFlags::empty())?,
        }
        Ok(())
    }
}

impl Opened<'_> {
    fn create(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.fd, name, flags, OWNER_ONLY)?;
        // Half a pair is of no use to anybody.
        File::from(file).write_all(contents).inspect_err(|_| {
            let _ = unlinkat(&self.fd, name, AtFlags::empty());
        })
    }

    /// The name in this directory that a link leads to. A kubelet writes absolute ones.
    fn target(&self, link: &str) -> Option<String> {
        let text = rustix::fs::readlinkat(&self.fd, link, Vec::new()).ok()?.into_string().ok()?;
        let target = Path::new(&text);
        let name = target.file_name()?.to_str()?;
        let here = match target.parent()? {
            parent if parent.as_os_str().is_empty() || parent == Path::new(".") => true,
            parent => fs::canonicalize(parent).ok()? == fs::canonicalize(self.path).ok()? && parent.is_absolute(),
        };
        here.then(|| name.to_owned())
    }
}
