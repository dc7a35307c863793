//! Opens the file of a journal, and moves a full one. Leaves files that are no journal unchanged.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use perennial_rotation::journal::{Replay, ReplayError};
use rustix::fs::OFlags;

/// First bytes of a journal's lines: a snapshot or a step.
const BEGINNINGS: [&[u8]; 2] = [b"{\"begin\":{", b"{\"step\":{"];

/// Most bytes that are read of a line at once. A longer line is damage.
const LONGEST_LINE: u64 = 1 << 20;

/// Opens the journal for appending, or creates it (mode 0600), and locks it. A file that is no journal, such as a
/// certificate or a kubeconfig named by mistake, stays unchanged.
///
/// # Errors
/// If the file is no journal, another process has locked it, or the system refuses.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Non-blocking: opening a FIFO would wait for its reader.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = options.read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    if !is_journal(&file)? {
        return Err(io::Error::other("the file is not a journal and stays unchanged; name another file"));
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another process is writing it")),
        // A file system without locks cannot keep other processes out.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// True if this journal has a snapshot of another format version: anywhere, since another version of perennial may have
/// appended its lines to ours. False if the file cannot be read. Reads from the position of the file.
pub(super) fn is_of_another_version(file: &File) -> bool {
    let (mut lines, mut line) = (BufReader::new(file), Vec::new());
    loop {
        line.clear();
        if lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).unwrap_or_default() == 0 {
            return false;
        }
        // Most lines are steps, which carry no version.
        let snapshot = line.starts_with(BEGINNINGS[0]).then(|| str::from_utf8(&line).unwrap_or_default());
        if snapshot.is_some_and(|text| matches!(Replay::new().line(text), Err(ReplayError::Version(_)))) {
            return true;
        }
    }
}

/// Moves a journal to `PATH.1`, because the journal is full or of another format version. An earlier journal at
/// `PATH.1` is replaced.
///
/// # Errors
/// If `PATH.1` is no journal, or the system refuses. Both files stay unchanged.
pub(super) fn set_aside(path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    let aside = Path::new(&aside);
    // Checked first, since `rename` replaces a file of any contents.
    let moved = match is_free(aside)? {
        true => fs::rename(path, aside),
        false => Err(io::Error::other("the file there is not a journal")),
    };
    moved.map_err(|error| {
        io::Error::other(format!(
            "it is full, or of another version of perennial, and cannot be moved to {}: {error}",
            aside.display()
        ))
    })
}

/// True if a journal may be moved to `path`: nothing exists there, or another journal, which may be replaced.
fn is_free(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        found => Ok(found?.is_file() && is_journal(&File::open(path)?)?),
    }
}

/// True if the file begins with one of [`BEGINNINGS`]. Also true if the file is shorter than that, but agrees with one
/// of them as far as it goes: it may be empty, or its first line was cut short.
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
