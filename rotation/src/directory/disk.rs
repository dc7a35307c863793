//! [`Volume`] on a real file system. Every file operation is relative to the descriptor of the open directory.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use perennial::store::{Entry, FileOp, Kind, Listing};
use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, accessat, fstat, fsync, openat, readlinkat, renameat, statat, unlinkat,
};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::DirectoryError;
use super::lock::Lock;
use super::trust::is_trusted;
use super::volume::{Contents, FileAccess, Folder, Stamp, Volume};
use super::{create, walk};
use crate::files::MAX_BUNDLE;

/// Largest file of a credential directory that is read, in bytes: no pair and no record is larger. Published files may be
/// CA bundles, which are larger.
const MAX_FILE: u64 = 1 << 20;
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// The lock of the prefix, held from the first write on; `None` for a directory that is only read, or whose files
    /// another lock protects.
    lock: Option<Lock>,
    kind: DiskKind,
}

/// The use of a directory, which decides how its path is opened and whose files are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskKind {
    /// The directory of a certificate, at a path that the operator chose.
    Plain,
    /// A directory whose files other programs read. `owner`, if given, owns the files, and may own the directory.
    Published { owner: Option<u32> },
    /// A private directory inside of a published one: refused if another user could have made it.
    Private,
}

impl DiskKind {
    /// The largest file that is read, in bytes.
    const fn largest(self) -> u64 {
        match self {
            Self::Published { .. } => MAX_BUNDLE,
            Self::Plain | Self::Private => MAX_FILE,
        }
    }
}

struct Opened<'a> {
    disk: &'a Disk,
    fd: OwnedFd,
}

impl Disk {
    /// Makes a `Disk` at `path`, which need not exist yet. The first write takes the lock of `prefix`.
    pub(super) fn new(path: &Path, prefix: &str) -> Self {
        Self { path: path.to_owned(), lock: Some(Lock::new(prefix)), kind: DiskKind::Plain }
    }

    /// Makes a `Disk` for the directory at `path`, which other programs read. Its files belong to `owner`, if given.
    /// No link of another user on the path is followed. Takes no lock.
    pub(crate) fn published(path: &Path, owner: Option<u32>) -> Self {
        Self { path: path.to_owned(), lock: None, kind: DiskKind::Published { owner } }
    }

    /// Makes a `Disk` for a private directory inside of a published one. The first write takes the lock of `prefix`.
    pub(crate) fn private(path: &Path, prefix: &str) -> Self {
        Self { kind: DiskKind::Private, ..Self::new(path, prefix) }
    }

    pub(super) fn existing(path: &Path) -> Result<Self, DirectoryError> {
        let disk = Self { path: path.to_owned(), lock: None, kind: DiskKind::Plain };
        disk.opened().map_err(|source| DirectoryError::io("open", path, source))?;
        Ok(disk)
    }

    fn opened(&self) -> io::Result<Opened<'_>> {
        let fd = match self.kind {
            DiskKind::Plain => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(&self.path, flags, Mode::empty())?
            }
            DiskKind::Published { .. } => walk::open(&self.path, None)?,
            DiskKind::Private => {
                let fd = walk::open(&self.path, None)?;
                let found = fstat(&fd)?;
                is_trusted(found.st_uid, Some(found.st_mode))?;
                fd
            }
        };
        Ok(Opened { disk: self, fd })
    }

    /// Fails unless the file can only have been written by a user that this directory trusts.
    fn is_trusted(&self, owner: u32, mode: u32) -> io::Result<()> {
        match self.kind {
            // The operator named the owner: a file of this user is as good as one of this process.
            DiskKind::Published { owner: Some(named) } if named == owner => is_trusted(0, Some(mode)),
            DiskKind::Plain | DiskKind::Published { .. } | DiskKind::Private => is_trusted(owner, Some(mode)),
        }
    }
}

impl Volume for Disk {
    fn open(&self) -> io::Result<Box<dyn Folder + '_>> {
        Ok(Box::new(self.opened()?))
    }

    fn create(&self) -> io::Result<()> {
        match self.kind {
            DiskKind::Plain => create::directory(&self.path, &mut |path| File::open(path)?.sync_all()),
            // Readers of published files may be other users.
            DiskKind::Published { .. } => walk::open(&self.path, Some(Mode::from_raw_mode(0o755))).map(drop),
            DiskKind::Private => walk::open(&self.path, Some(Mode::RWXU)).map(drop),
        }
    }

    fn release(&self) {
        self.lock.iter().for_each(Lock::release);
    }
}

impl Folder for Opened<'_> {
    fn is_free(&self) -> Result<(), DirectoryError> {
        let path = &self.disk.path;
        accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|source| DirectoryError::io("write to", path, source.into()))?;
        self.disk.lock.as_ref().map_or(Ok(()), |lock| lock.is_free(self.fd.as_fd(), path))
    }

    fn hold(&self) -> Result<(), DirectoryError> {
        self.disk.lock.as_ref().map_or(Ok(()), |lock| lock.hold(self.fd.as_fd(), &self.disk.path))
    }

    fn list(&self) -> io::Result<Listing> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str().map(String::from) else { continue };
            let kind = match entry.file_type() {
                // Some file systems do not report types when listing.
                FileType::Unknown => match statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // The file was removed after it was listed.
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
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
        let Some(file) = self.follow(name)? else { return Ok(None) };
        let metadata = file.metadata()?;
        let most = self.disk.kind.largest();
        if !metadata.is_file() || metadata.len() > most {
            let why = format!("it is not a regular file of at most {} MiB", most >> 20);
            return Err(Error::new(ErrorKind::InvalidData, why));
        }
        // fstat of the open file: a name that is replaced now does not change which file is read.
        self.disk.is_trusted(metadata.uid(), metadata.mode())?;
        // One byte more than the file, so that `read_to_end` never grows the buffer: that would leave copies of the
        // key.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
        file.take(metadata.len()).read_to_end(&mut bytes)?;
        Ok(Some(Contents { bytes, exposed: metadata.mode() & 0o077 != 0 }))
    }

    fn stamp(&self, name: &str) -> Option<Stamp> {
        let metadata = fs::metadata(self.disk.path.join(name)).ok()?;
        let inode = (metadata.dev(), metadata.ino());
        Some(Stamp { inode, size: metadata.len(), modified: metadata.modified().ok() })
    }

    fn is_shared(&self) -> bool {
        fstat(&self.fd).is_ok_and(|stat| is_trusted(stat.st_uid, Some(stat.st_mode)).is_err())
    }

    fn is_mount_point(&self, name: &str) -> bool {
        is_mount_point(&self.fd, Path::new(name))
    }

    fn folder(&self, name: &str) -> io::Result<Box<dyn Folder + '_>> {
        Ok(Box::new(Opened { disk: self.disk, fd: walk::inner(&self.fd, name)? }))
    }

    fn link_across(&self, file: &str, new: &str) -> io::Result<()> {
        let ((from, file), (to, new)) = (walk::parent(&self.fd, file)?, walk::parent(&self.fd, new)?);
        Ok(rustix::fs::linkat(from, file, to, new, AtFlags::empty())?)
    }

    fn has_access(&self, name: &str, access: &FileAccess) -> bool {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| {
            let FileAccess { owner, group, mode } = *access;
            found.st_mode & 0o7777 == mode
                && owner.is_none_or(|owner| owner == found.st_uid)
                && group.is_none_or(|group| group == found.st_gid)
        })
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        if statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        walk::make(&self.fd, name, Mode::from_raw_mode(0o755)).map(drop)
    }

    fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    fn link_target(&self, name: &str) -> io::Result<Option<String>> {
        match readlinkat(&self.fd, name, Vec::new()) {
            Ok(text) => Ok(Some(text.to_string_lossy().into_owned())),
            // INVAL: no link.
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn create_for(&self, name: &str, contents: &[u8], access: &FileAccess) -> io::Result<()> {
        self.create(name, contents, Some(access))
    }

    fn execute(&self, op: &FileOp, contents: &[u8]) -> io::Result<()> {
        let fd = &self.fd;
        match op {
            FileOp::CreateNew { name } => return self.create(name, contents, None),
            FileOp::Sync { name } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                fsync(openat(fd, name, flags, Mode::empty())?)?;
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
    /// Opens a file, following symbolic links one by one. Fails at a link that another user could have made. `None` if
    /// the file does not exist.
    fn follow(&self, name: &str) -> io::Result<Option<File>> {
        let mut path = PathBuf::from(name);
        for _ in 0..walk::MAX_LINKS {
            // NONBLOCK: opening a pipe would block until another process opens its other end.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match openat(&self.fd, &path, flags, Mode::empty()) {
                Ok(file) => return Ok(Some(File::from(file))),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::NAMETOOLONG) => break,
                Err(Errno::NXIO) => return Err(Error::new(ErrorKind::InvalidData, "it is a socket")),
                Err(Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
            let target = match walk::trusted_target(&self.fd, &path) {
                // The links that lead to the last component form a loop.
                Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => break,
                target => target?,
            };
            // No link: the link that stopped `openat` has just been replaced.
            let Some(target) = target else { break };
            path.pop();
            path.push(target);
        }
        Err(Error::new(ErrorKind::NotFound, "it is a link that leads nowhere"))
    }

    /// Creates a file. With `access`, the file is synced, too.
    fn create(&self, name: &str, contents: &[u8], access: Option<&FileAccess>) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.fd, name, flags, OWNER_ONLY)?);
        // On the open file: its name may lead elsewhere if another user can write to the directory. The owner first,
        // since a change of the owner may clear bits of the mode.
        let grant = |access: &FileAccess| -> io::Result<()> {
            if access.owner.is_some() || access.group.is_some() {
                let [owner, group] = [access.owner, access.group].map(|id| id.map(account).transpose());
                rustix::fs::fchown(&file, owner?.map(Uid::from_raw), group?.map(Gid::from_raw))?;
            }
            Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(access.mode))?)
        };
        let granted = access.map_or(Ok(()), grant);
        let written = granted.and_then(|()| file.write_all(contents));
        // Through this descriptor: the file may belong to another user now, who alone may open it.
        let synced = written.and_then(|()| if access.is_some() { file.sync_all() } else { Ok(()) });
        // Do not leave a file with half a pair.
        synced.inspect_err(|_| {
            let _ = unlinkat(&self.fd, name, AtFlags::empty());
        })
    }

    /// The name that the symbolic link `link` leads to, if that name is in this directory; `None` if the link leads
    /// elsewhere. The target may be relative, or absolute as in kubelet's links.
    fn target(&self, link: &str) -> Option<String> {
        let text = readlinkat(&self.fd, link, Vec::new()).ok()?.into_string().ok()?;
        let target = Path::new(&text);
        let name = target.file_name()?.to_str()?;
        let here = match target.parent()? {
            parent if parent.as_os_str().is_empty() || parent == Path::new(".") => true,
            parent => fs::canonicalize(parent).ok()? == fs::canonicalize(&self.disk.path).ok()? && parent.is_absolute(),
        };
        here.then(|| name.to_owned())
    }
}

/// Fails for the ID 4294967295 (-1 in C), for which the system call leaves the owner or group as it is.
fn account(id: u32) -> io::Result<u32> {
    match id {
        u32::MAX => Err(Error::new(ErrorKind::InvalidInput, "4294967295 is the ID of no user and no group")),
        id => Ok(id),
    }
}

/// True if a file system is mounted on this file, so that the file can be written to but not replaced. Does not follow
/// links.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_mount_point(directory: impl AsFd, path: &Path) -> bool {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let stat = statx(directory, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_mount_point(_: impl AsFd, _: &Path) -> bool {
    false
}
