//! Files that are whole or not there.

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

/// Writes a file (mode 0600) in one step, durably: whatever happens, readers find the old one or the new one.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    // Through a link, to the file itself.
    replace_name(&fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()), contents)
}

/// As [`replace`], but replaces a link instead of writing through it: another user may have put the link there.
pub(crate) fn replace_name(path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = temporary(path)?;
    let written = create(&temporary, contents).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| File::open(parent(path))?.sync_all())
}

/// Reads a file that is read again while the process runs, and so has to be a regular one. At most [`LONGEST`] bytes.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // To open a device may do something; what is there may be another thing by the time it is opened.
    let opened = fs::metadata(path)?.is_file().then(|| open(path, OFlags::empty())).transpose()?;
    let Some(file) = opened.filter(|file| file.metadata().is_ok_and(|found| found.is_file())) else {
        let why = "it is not a regular file, and it is read again while perennial runs; name a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    };
    bounded(file)
}

/// Reads a file that only this user or root can have written; `None` if there is none.
///
/// # Errors
/// If it is a link or anything else but a regular file, others could have written it, or the system refuses.
pub(crate) fn read_own(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match open(path, OFlags::NOFOLLOW) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let found = file.metadata()?;
    let owner_fits = [0, geteuid().as_raw()].contains(&found.uid());
    if !found.is_file() || !owner_fits || found.mode() & 0o022 != 0 {
        let why = "others could have written it, or it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    bounded(file).map(Some)
}

/// Reads a file that is read once: a pipe (`/dev/stdin`, `<(…)`) will do, if it ends within [`PATIENCE`].
pub(crate) fn read_once(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path, OFlags::empty())?;
    if file.metadata()?.is_file() {
        return bounded(file);
    }
    let contents = bounded(Piped { file, until: Instant::now() + PATIENCE })?;
    if contents.is_empty() {
        let why = "nothing came through this pipe; each can be read once only, so name a file to have it read again";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(contents)
}

/// Text, as [`read`].
pub(crate) fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    decode(read(path)?)
}

/// Text, as [`read_once`].
pub(crate) fn read_text_once(path: &Path) -> io::Result<Zeroizing<String>> {
    decode(read_once(path)?)
}

/// More than any kubeconfig, configuration or CA bundle; several bundles of a whole system fit.
const LONGEST: usize = 8 << 20;
/// Total time limit for reading a pipe.
const PATIENCE: Duration = Duration::from_secs(10);

fn decode(bytes: Vec<u8>) -> io::Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(bytes);
    text::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A FIFO without a writer would be waited for, perhaps for ever, if it were opened to block.
fn open(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | more).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    source.take(LONGEST as u64 + 1).read_to_end(&mut contents)?;
    if contents.len() > LONGEST {
        let why = format!("it is longer than {} MiB; is it the right file?", LONGEST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(contents)
}

/// A pipe or device, waited for no longer than until then.
struct Piped {
    file: File,
    until: Instant,
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            // Before its first writer has come, a FIFO reads as ended, but is not ready.
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&left)) {
                Ok(0) => {
                    let why = format!("it did not come to an end within {} s", PATIENCE.as_secs());
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

/// Logs what was passed over in a CA bundle: a server whose CA is among it is not trusted.
pub(crate) fn warn_of_skipped(bundle: &Path, skipped: &[PemError]) {
    for damage in skipped {
        tracing::warn!("CA bundle {} is damaged: {damage}; using the other certificates", bundle.display());
    }
}

/// Checks whether [`replace`] could write this file, as far as possible beforehand. Leaves no trace, but for the times of
/// directories: those that are missing are made, and removed again.
pub(crate) fn probe(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = parent(path).ancestors().take_while(|directory| is_missing(directory)).collect();
    let probed = create_directory(parent(path)).and_then(|()| {
        let temporary = temporary(&fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))?;
        create(&temporary, b"").and_then(|()| fs::remove_file(&temporary))
    });
    // The innermost first. Another program may have put something there meanwhile.
    let _ = missing.iter().try_for_each(fs::remove_dir);
    probed
}

fn is_missing(directory: &Path) -> bool {
    !directory.as_os_str().is_empty() && matches!(directory.try_exists(), Ok(false))
}

/// True if a file system is mounted on this very file, as a container's runtime does with a single file: it can be written
/// to, and never be replaced.
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

/// A file beside the one to replace, which does not exist.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this path names no file"))?;
    let mut temporary = parent(path).join(name).into_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    sweep(path);
    Ok(PathBuf::from(temporary))
}

/// Removes what killed processes of ours left beside this file: `NAME.PID.tmp` of a process that is no more.
pub(crate) fn sweep(path: &Path) {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (Some(name), Ok(entries)) = (path.file_name(), fs::read_dir(parent(&path))) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let found = found.as_encoded_bytes();
        let pid =
            found.strip_prefix(name.as_encoded_bytes()).and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(b".tmp"));
        let pid = pid
            .and_then(|pid| str::from_utf8(pid).ok()?.parse::<u32>().ok())
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let ours = || entry.metadata().is_ok_and(|found| found.is_file() && found.uid() == geteuid().as_raw());
        if pid.is_some_and(|pid| is_gone(pid) && ours()) {
            // A temporary file that cannot be removed does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Our own number on a file that we have not made yet is one that was given again.
fn is_gone(pid: Pid) -> bool {
    pid == getpid() || test_kill_process(pid) == Err(Errno::SRCH)
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

/// The directory a file is in.
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
    fn file_that_is_read_again_must_be_regular_and_bounded() {
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
    fn pipe_that_is_read_once_may_come_late_and_in_parts() {
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
    fn pipe_and_device_are_bounded_in_size() {
        let error = read_once(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("longer than 8 MiB"), "{error}");
        let error = read_once(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.contains("can be read once only"), "{error}");
    }

    #[test]
    fn pipe_is_bounded_in_time() {
        let directory = TempDir::new().unwrap();
        let file = open(&fifo(&directory), OFlags::empty()).unwrap();
        let error = bounded(Piped { file, until: Instant::now() }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }

    #[test]
    fn only_litter_of_dead_processes_is_swept() {
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
