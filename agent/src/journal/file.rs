//! The file of a journal.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Beginning of the first line of a journal.
const BEGINNINGS: [&[u8]; 2] = [b"{\"begin\":{", b"{\"step\":{"];

/// Opens the journal, or creates it (mode 0600), and locks it. A file with other text, a certificate or a kubeconfig named
/// by mistake, stays as it is.
///
/// # Errors
/// If it is no journal, another process writes it, or the system refuses.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Non-blocking: the open of a pipe would wait for its reader.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = options.read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    if !is_journal(&file)? {
        return Err(io::Error::other(
            "it holds something else than a journal, and is left as it is; name another file",
        ));
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another process is writing it")),
        // A file system without locks cannot keep other processes out.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Moves a full journal to `PATH.1`, in the place of the journal before.
///
/// # Errors
/// If what is there is no journal, or the system refuses. Both files stay as they are.
pub(super) fn set_aside(path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    let aside = Path::new(&aside);
    let moved = if is_free(aside)? { fs::rename(path, aside) } else { Err(io::Error::other("that is no journal")) };
    moved.map_err(|error| io::Error::other(format!("it is full, and cannot be moved to {}: {error}", aside.display())))
}

/// True unless a journal put there would replace something else than a journal.
fn is_free(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        found => Ok(found?.is_file() && is_journal(&File::open(path)?)?),
    }
}

/// True for a file that is empty, or begins as a journal does, even if it was cut there.
fn is_journal(file: &File) -> io::Result<bool> {
    let mut first = [0; 10];
    let mut length = 0;
    loop {
        match file.read_at(&mut first[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let first = &first[..length];
    Ok(BEGINNINGS.iter().any(|beginning| first.starts_with(beginning) || beginning.starts_with(first)))
}
