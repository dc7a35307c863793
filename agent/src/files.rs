//! Files that are whole or not there.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use perennial_pki::PemError;

/// Writes a file (mode 0600) in one step, durably: whatever happens, readers find the old one or the new one.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let (path, temporary) = places(path)?;
    let written = create(&temporary, contents).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| File::open(parent(&path))?.sync_all())
}

/// Reads a file. What is none would be waited for, perhaps for ever.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    fs::read(path)
}

/// The same, of text.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Logs what was passed over in a CA bundle: a server whose CA is among it is not trusted.
pub(crate) fn warn_of_skipped(bundle: &Path, skipped: &[PemError]) {
    for damage in skipped {
        tracing::warn!("CA bundle {} is damaged: {damage}; using the other certificates", bundle.display());
    }
}

/// Whether [`replace`] could write this file, as far as that can be told beforehand. Leaves no trace.
pub(crate) fn probe(path: &Path) -> io::Result<()> {
    let (_, temporary) = places(path)?;
    create(&temporary, b"").and_then(|()| fs::remove_file(&temporary))
}

/// The file to replace, and one beside it to begin with, which does not exist.
fn places(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    // Through a link, to the file itself.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().ok_or_else(|| io::Error::other("this path names no file"))?;
    let mut temporary = parent(&path).join(name).into_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    // By this name it can only be left over from a process long gone.
    let _ = fs::remove_file(&temporary);
    Ok((path, temporary))
}

/// Writes a file (mode 0600) that must not exist yet.
fn create(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Creates a directory (mode 0700) and those above it, unless it is there.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes away what others may do with something of ours that has been there before. Whether they could do anything.
pub(crate) fn make_private(path: &Path) -> io::Result<bool> {
    let mode = fs::metadata(path)?.permissions().mode();
    let others = mode & 0o077 != 0;
    if others {
        fs::set_permissions(path, Permissions::from_mode(mode & 0o700))?;
    }
    Ok(others)
}

/// The directory a file is in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// A directory of our own (mode 0700), removed on drop.
pub(crate) struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    pub(crate) fn new(prefix: &str) -> io::Result<Self> {
        let mut attempt = 0_u32;
        loop {
            let path = std::env::temp_dir().join(format!("{prefix}-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{} could not be removed: {error}", self.0.display());
        }
    }
}
