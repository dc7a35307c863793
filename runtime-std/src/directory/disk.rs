//! A directory of a real file system, every operation relative to its descriptor.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use perennial::store::{Entry, FileOp, Kind, Listing};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, accessat, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::DirectoryError;
use super::lock::Lock;
use super::volume::{Contents, Folder, Volume};

/// No credential is larger.
const MAX_FILE: u64 = 1 << 20;
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    /// Held by whoever writes.
    lock: Option<Lock>,
}

struct Opened<'a> {
    disk: &'a Disk,
    fd: OwnedFd,
}

impl Disk {
    /// A directory, made if it is not there, in which files with this prefix are ours alone.
    pub(super) fn create(path: &Path, prefix: &str) -> Result<Self, DirectoryError> {
        make(path, &mut |path| File::open(path)?.sync_all())
            .map_err(|source| DirectoryError::io("create", path, source))?;
        Ok(Self { lock: Some(Lock::new(prefix)), ..Self::existing(path)? })
    }

    /// Whether we may write to it.
    pub(super) fn is_writable(&self) -> Result<(), DirectoryError> {
        let path = &self.path;
        let opened = self.opened().map_err(|source| DirectoryError::io("open", path, source))?;
        accessat(&opened.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|source| DirectoryError::io("write to", path, source.into()))
    }

    /// Makes sure that nobody else writes to our files.
    pub(super) fn hold(&self) -> Result<(), DirectoryError> {
        self.opened().map_err(|source| DirectoryError::io("open", &self.path, source))?.hold()
    }

    pub(super) fn existing(path: &Path) -> Result<Self, DirectoryError> {
        let disk = Self { path: path.to_owned(), lock: None };
        disk.opened().map_err(|source| DirectoryError::io("open", path, source))?;
        Ok(disk)
    }

    fn opened(&self) -> io::Result<Opened<'_>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.path, flags, Mode::empty())?;
        Ok(Opened { disk: self, fd })
    }
}

/// Makes a directory, and what it lies in, for nobody but us; and syncs where each of them is named, so that no power
/// failure takes the directory with all that was synced in it.
fn make(path: &Path, sync: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let create = || fs::DirBuilder::new().mode(0o700).create(path);
    let created = match (create(), parent) {
        (Err(error), Some(parent)) if error.kind() == ErrorKind::NotFound => {
            make(parent, sync)?;
            create()
        }
        (created, _) => created,
    };
    // If it was there already, whoever made it may have been killed before it was durable.
    if let Err(error) = created
        && !path.is_dir()
    {
        return Err(error);
    }
    // A parent that we may not read, or a disk that is read-only: better that than no certificate.
    if let Some(Err(error)) = parent.map(sync) {
        tracing::debug!("{} may not outlive a power failure: {error}", path.display());
    }
    Ok(())
}

impl Volume for Disk {
    fn open(&self) -> io::Result<Box<dyn Folder + '_>> {
        Ok(Box::new(self.opened()?))
    }
}

impl Folder for Opened<'_> {
    fn hold(&self) -> Result<(), DirectoryError> {
        self.disk.lock.as_ref().map_or(Ok(()), |lock| lock.hold(self.fd.as_fd(), &self.disk.path))
    }

    fn list(&self) -> io::Result<Listing> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str().map(String::from) else { continue };
            let kind = match entry.file_type() {
                FileType::Unknown => match rustix::fs::statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // It was removed since.
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
        let never = |why: &str| Err(Error::new(ErrorKind::InvalidData, why));
        // NONBLOCK, so that a pipe by that name does not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NAMETOOLONG) => return never("it is a link that leads nowhere"),
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
            parent => fs::canonicalize(parent).ok()? == fs::canonicalize(&self.disk.path).ok()? && parent.is_absolute(),
        };
        here.then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_directory_can_be_made_there_is_an_error() {
        let sync = &mut |_: &Path| panic!("there is nothing to sync");
        let error = make(Path::new(""), sync).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let file = std::env::current_exe().unwrap();
        make(&file, sync).unwrap_err();
        make(&file.join("a"), sync).unwrap_err();
    }

    #[test]
    fn every_directory_that_is_made_is_synced_where_it_is_named_from_the_outermost_on() {
        let root = std::env::temp_dir().join(format!("perennial-make-{}", std::process::id()));
        let path = root.join("a/b");
        let mut synced = Vec::new();
        let mut sync = |at: &Path| {
            synced.push((at.to_owned(), fs::read_dir(at)?.count()));
            Ok(())
        };
        make(&path, &mut sync).unwrap();
        make(&path, &mut sync).unwrap();
        fs::remove_dir_all(&root).unwrap();
        // Each has the next one in it by then.
        assert_eq!(synced[0].0, std::env::temp_dir());
        assert_eq!(synced[1..], [(root.clone(), 1), (root.join("a"), 1), (root.join("a"), 1)]);
    }
}
