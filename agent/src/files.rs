//! Writes files atomically, and reads files with bounds on size, kind and time.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use perennial_kubernetes::text;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, getpid, test_kill_process};
use zeroize::Zeroizing;

use perennial_pki::PemError;

use crate::descriptors::{is_refusal, with_limit};

/// Replaces a file (mode 0600) atomically and durably: readers find the old contents or the new ones, also after a
/// crash.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    // Renaming onto a link would replace the link instead of the file it leads to.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = temporary(&path)?;
    let written = create(&temporary, contents).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    // Without a sync of the directory, a crash may undo the rename.
    written.and_then(|()| File::open(parent(&path))?.sync_all())
}

/// Reads a regular file of at most [`LONGEST`] bytes. Refuses pipes and devices: perennial reads the file again later,
/// and a pipe can be read only once.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before the open, since opening a device may have an effect, and after it, since the path may have
    // changed.
    let opened = fs::metadata(path)?.is_file().then(|| open(path)).transpose()?;
    let Some(file) = opened.filter(|file| file.metadata().is_ok_and(|found| found.is_file())) else {
        let why = "it is not a regular file, but perennial reads it again while it runs; name a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    };
    bounded(file)
}

/// Reads a file or pipe (`/dev/stdin`, `<(…)`) of at most [`LONGEST`] bytes. A pipe has to end within [`PIPE_LIMIT`],
/// and must not be empty.
pub(crate) fn read_once(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    if file.metadata()?.is_file() {
        return bounded(file);
    }
    let contents = bounded(Piped { file, until: Instant::now() + PIPE_LIMIT })?;
    if contents.is_empty() {
        let why = "this pipe was empty: a pipe can be read only once; name a regular file";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(contents)
}

/// Reads a file as [`read`] does, and decodes its text: UTF-8, or UTF-16 with a byte order mark.
pub(crate) fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    decode(read(path)?)
}

/// Reads a file or pipe as [`read_once`] does, and decodes its text: UTF-8, or UTF-16 with a byte order mark.
pub(crate) fn read_text_once(path: &Path) -> io::Result<Zeroizing<String>> {
    decode(read_once(path)?)
}

/// Most bytes read from a file: more than any kubeconfig, configuration or system CA bundle has.
const LONGEST: usize = 8 << 20;
/// Total time limit for reading a pipe.
const PIPE_LIMIT: Duration = Duration::from_secs(10);

/// Decodes text: UTF-8, or UTF-16 with a byte order mark.
pub(crate) fn decode(bytes: Vec<u8>) -> io::Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(bytes);
    text::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Opens a file for reading, without blocking: opening a FIFO would wait for its writer, perhaps for ever.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| if is_refusal(&error) { io::Error::other(with_limit(&error)) } else { error })
}

/// Reads to the end of a file or pipe of at most [`LONGEST`] bytes.
pub(crate) fn bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    // One byte more than allowed shows that the file is longer.
    source.take(LONGEST as u64 + 1).read_to_end(&mut contents)?;
    if contents.len() > LONGEST {
        let why = format!("it is longer than {} MiB; is it the right file?", LONGEST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(contents)
}

/// A pipe or device to read to its end. A read that would wait beyond the time `until` fails as timed out.
struct Piped {
    file: File,
    until: Instant,
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            // Polled first: without a writer, reading a FIFO returns its end at once, but poll reports it as not ready.
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&left)) {
                Ok(0) => {
                    let limit = PIPE_LIMIT.as_secs();
                    let why =
                        format!("its end was not reached within {limit} s; close the pipe, or name a regular file");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            match self.file.read(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                done => return done,
            }
        }
    }
}

/// Logs a warning for each CA certificate of a bundle that is damaged and therefore left out (`skipped`). A server is
/// rejected if none but a damaged CA certificate could verify the server.
pub(crate) fn warn_of_skipped(bundle: &Path, skipped: &[PemError]) {
    for damage in skipped {
        tracing::warn!("CA bundle {} is damaged: {damage}; using the other certificates", bundle.display());
    }
}

/// Checks whether [`replace`] could write this file: creates the missing directories and a temporary file, then removes
/// both again. Also removes temporary files that ended processes have left. Apart from that, only the modification
/// times of directories change.
pub(crate) fn probe(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = parent(path).ancestors().take_while(|directory| is_missing(directory)).collect();
    let probed = create_directory(parent(path)).and_then(|()| {
        let temporary = temporary(&fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))?;
        create(&temporary, b"").and_then(|()| fs::remove_file(&temporary))
    });
    // The innermost first. A directory that another program has put a file in is not empty, and stays.
    let _ = missing.iter().try_for_each(fs::remove_dir);
    probed
}

fn is_missing(directory: &Path) -> bool {
    !directory.as_os_str().is_empty() && matches!(directory.try_exists(), Ok(false))
}

/// True if a file system is mounted on this file, as when a container runtime mounts a single file. Such a file can be
/// written to, but not replaced.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    mount_root(&path)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn mount_root(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn mount_root(_: &Path) -> bool {
    false
}

/// The path of a temporary file beside `path`: `NAME.PID.tmp`. Removes temporary files of dead processes first.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this path names no file"))?;
    let mut temporary = parent(path).join(name).into_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    sweep(path);
    Ok(PathBuf::from(temporary))
}

/// Removes the temporary files (`NAME.PID.tmp`) beside `path` that belong to this user and were left by processes that
/// have ended.
pub(crate) fn sweep(path: &Path) {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (Some(name), Ok(entries)) = (path.file_name(), fs::read_dir(parent(&path))) else { return };
    for entry in entries.flatten() {
        let ours = || entry.metadata().is_ok_and(|found| found.is_file() && found.uid() == geteuid().as_raw());
        if is_left_over(&entry.file_name(), name) && ours() {
            // A temporary file that cannot be removed does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// True if `found` is the name of a temporary file of `name` (`NAME.PID.tmp`), of a process that has ended.
pub(crate) fn is_left_over(found: &OsStr, name: &OsStr) -> bool {
    let rest = found.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
    let pid = rest.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(b".tmp"));
    let pid = pid.and_then(|pid| str::from_utf8(pid).ok()?.parse::<u32>().ok());
    pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).is_some_and(is_gone)
}

/// True if the process with this ID, which wrote a temporary file, has ended. Also true for the ID of this process: a
/// sweep runs before this process creates its temporary file, so an earlier process with the same ID wrote the file.
fn is_gone(pid: Pid) -> bool {
    // Other errors, such as EPERM, are of a process that exists.
    pid == getpid() || test_kill_process(pid) == Err(Errno::SRCH)
}

/// Writes a file (mode 0600) that must not exist yet.
fn create(path: &Path, contents: &[u8]) -> io::Result<()> {
    // `create_new` follows no link that another user has put there.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Creates a directory and the missing directories above it (mode 0700). Existing directories stay as they are.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The directory of a file; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::TempDir;

    use super::*;

    fn fifo(directory: &TempDir) -> PathBuf {
        let path = directory.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        path
    }

    #[test]
    fn read_refuses_huge_files_and_all_but_regular_files() {
        let directory = TempDir::new().unwrap();
        let huge = directory.path().join("huge");
        File::create(&huge).unwrap().set_len(3 << 30).unwrap();
        for (path, why) in [
            (fifo(&directory), "not a regular file"),
            ("/dev/zero".into(), "not a regular file"),
            ("/dev/null".into(), "not a regular file"),
            (directory.path().to_owned(), "not a regular file"),
            (huge, "longer than 8 MiB"),
        ] {
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{}: {error}", path.display());
        }
    }

    #[test]
    fn pipe_that_is_written_in_parts_is_read_whole() {
        let directory = TempDir::new().unwrap();
        let path = fifo(&directory);
        let to = path.clone();
        let writer = thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(to).unwrap();
            for _ in 0..100 {
                pipe.write_all(&[b'x'; 1000]).unwrap();
                thread::yield_now();
            }
        });
        assert_eq!(read_once(&path).unwrap().len(), 100_000);
        writer.join().unwrap();
    }

    #[test]
    fn read_once_refuses_endless_and_empty_devices() {
        let error = read_once(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("longer than 8 MiB"), "{error}");
        let error = read_once(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.contains("can be read only once"), "{error}");
    }

    #[test]
    fn read_of_pipe_without_writer_times_out() {
        let directory = TempDir::new().unwrap();
        let file = open(&fifo(&directory)).unwrap();
        let error = bounded(Piped { file, until: Instant::now() }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }

    #[test]
    fn sweep_removes_files_of_dead_processes_only() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("kubeconfig");
        // No process has a number beyond pid_max, and the first one lives as long as the machine.
        let gone = format!("kubeconfig.{}.tmp", i32::MAX);
        let others =
            ["kubeconfig.1.tmp", "kubeconfig.tmp", "kubeconfig.x.tmp", "kubeconfig.-7.tmp", "other.2147483647.tmp"];
        for name in others.into_iter().chain([gone.as_str(), "kubeconfig"]) {
            fs::write(directory.path().join(name), name).unwrap();
        }
        fs::create_dir(directory.path().join("kubeconfig.2147483646.tmp")).unwrap();
        replace(&path, b"new").unwrap();
        assert!(!directory.path().join(gone).exists());
        assert!(
            others.into_iter().chain(["kubeconfig.2147483646.tmp"]).all(|name| directory.path().join(name).exists())
        );
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
