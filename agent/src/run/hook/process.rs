//! Runs a hook once: its command, with a time limit, and its signal.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::io::Errno;
use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::files;
use crate::folder;
use crate::hook_debt::{FLAG_HOOK, Hook, Subject};
use crate::spans::words;

/// Interval of checks for the end of the command.
const CHECK: Duration = Duration::from_millis(20);
/// Time from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

impl Hook {
    /// The hook of `--on-rotated`: a command for sh.
    pub(in crate::run) fn of_flag(command: &str, limit: Duration) -> Self {
        let command = ["sh", "-c", command].map(str::to_owned).to_vec();
        Self { label: FLAG_HOOK, command, signal: None, limit }
    }

    /// Runs the hook for certificate `of`: first the command, if there is one, then the signal.
    ///
    /// # Errors
    /// A clause that follows the hook's label: the command could not be started, failed or was killed, or the signal
    /// could not be sent.
    pub(super) fn run(&self, of: &str, subject: &Subject, abandoned: impl Fn() -> bool) -> Result<(), String> {
        if let Some((program, arguments)) = self.command.split_first() {
            let mut command = Command::new(program);
            run(command.args(arguments), of, subject, self.limit, abandoned)?;
        }
        match &self.signal {
            Some((signal, file)) => signal_process(*signal, file),
            None => Ok(()),
        }
    }
}

/// Sends a signal to the process whose number is in the file.
fn signal_process(signal: Signal, file: &Path) -> Result<(), String> {
    let target =
        process_in(file).map_err(|why| format!("could not signal the process in {}: {why}", file.display()))?;
    let pid = target.pid.as_raw_nonzero();
    target.send(signal).map_err(|error| format!("could not signal process {pid}, of {}: {error}", file.display()))
}

/// A process to signal.
#[derive(Debug)]
struct Target {
    pid: Pid,
    /// Refers to the process even if it ends, and another one gets its number. `None` without pidfd_open(2): before
    /// Linux 5.3, behind some seccomp filters, and on other systems.
    handle: Option<OwnedFd>,
}

impl Target {
    /// Finds a running process by its number.
    ///
    /// # Errors
    /// `ESRCH`: there is no such process.
    fn find(pid: Pid) -> io::Result<Self> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            // Seccomp filters refuse unknown calls with EPERM, which is no error of the call.
            Err(Errno::NOSYS | Errno::PERM) => None,
            opened => Some(opened?),
        };
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let handle = None;
        Ok(Self { pid, handle })
    }

    fn send(&self, signal: Signal) -> rustix::io::Result<()> {
        match &self.handle {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(handle) => pidfd_send_signal(handle, signal),
            _ => kill_process(self.pid, signal),
        }
    }
}

/// Reads the number of a running process. A user who may write the file must not make us signal processes of others:
/// the file has to be ours or root's, or the process has to be the file owner's, and no link on the way may belong to
/// another user than us or root.
fn process_in(file: &Path) -> Result<Target, String> {
    // The number, the owner and the mode are of one open file: the path may lead to another file at any time.
    let opened = folder::open_file(file).and_then(|file| Ok((file.metadata()?, file)));
    let (about, file) = opened.map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is not a regular file".into());
    }
    let text = files::bounded(file).and_then(files::decode).map_err(|error| error.to_string())?;
    let number = text.trim().parse::<i32>().ok().filter(|number| *number > 1);
    let pid = number.and_then(Pid::from_raw).ok_or("expected the number of a process in this file")?;
    if about.mode() & 0o022 != 0 {
        return Err("group or others may write this file; chmod go-w it".into());
    }
    // Found before its owner is read: if the process ends in between, the signal reaches no process.
    let target = Target::find(pid).map_err(|error| format!("process {}: {error}", pid.as_raw_nonzero()))?;
    let owner = fs::metadata(format!("/proc/{}", pid.as_raw_nonzero())).map(|process| process.uid());
    if about.uid() == 0 || about.uid() == geteuid().as_raw() || owner.is_ok_and(|owner| owner == about.uid()) {
        Ok(target)
    } else {
        Err("the owner of this file does not own the process; have root own the file".into())
    }
}

/// Runs a command in a process group of its own, and waits for its end. Kills the whole group after `limit`, or once
/// `abandoned` returns true.
///
/// # Errors
/// A clause that follows the hook's label: the command could not be started, failed, or was killed.
fn run(
    command: &mut Command,
    of: &str,
    subject: &Subject,
    limit: Duration,
    abandoned: impl Fn() -> bool,
) -> Result<(), String> {
    command.process_group(0).stdin(Stdio::null());
    command.env("PERENNIAL_CERTIFICATE", of).env("PERENNIAL_FILE", &subject.file);
    command.env("PERENNIAL_SERIAL", &subject.serial);
    // The command's stdout goes to our stderr: ours is for JSON events.
    command.stdout(io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from));
    let mut child = command.spawn().map_err(|error| format!("could not be run: {error}"))?;
    let begun = Instant::now();
    // Polled, since std has no wait with a time limit.
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("failed: {status}")),
            Ok(None) => {}
            Err(error) => return Err(format!("could not be waited for: {error}")),
        }
        let why = match begun.elapsed() > limit {
            true => Some(format!("did not end within {} and was killed", words(limit))),
            false => abandoned().then(|| "was killed because perennial ends".to_owned()),
        };
        if let Some(why) = why {
            end(&mut child);
            return Err(why);
        }
        thread::sleep(CHECK);
    }
}

/// Ends the command and its process group: sends SIGTERM and, [`GRACE`] later at most, SIGKILL.
fn end(child: &mut Child) {
    let group = Pid::from_child(child);
    // An error means that the group has ended, here and below.
    let _ = kill_process_group(group, Signal::TERM);
    let until = Instant::now() + GRACE;
    while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(CHECK);
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn process_of_file_that_another_user_controls_is_not_signalled() {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let own = std::process::id().cast_signed();
        fs::write(at("own"), format!("{own}\n")).unwrap();
        symlink(at("own"), at("link")).unwrap();
        let found = |name: &str| process_in(&at(name)).map(|target| target.pid.as_raw_nonzero().get());
        assert_eq!((found("own"), found("link")), (Ok(own), Ok(own)));
        fs::write(at("shared"), "12345").unwrap();
        fs::set_permissions(at("shared"), Permissions::from_mode(0o664)).unwrap();
        assert!(found("shared").unwrap_err().contains("may write this file"));
        assert!(found("").unwrap_err().contains("not a regular file"));
        // Only root can give files away. The link leads to a file of root, which the other user chose.
        if lchown(at("link"), Some(1234), None).is_ok() {
            chown(at("own"), Some(0), None).unwrap();
            assert!(found("link").unwrap_err().contains("belongs to user 1234"));
            chown(at("own"), Some(1234), None).unwrap();
            assert!(found("own").unwrap_err().contains("does not own the process"));
        }
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn process_that_ends_after_its_file_is_read_is_not_signalled() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("pid");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&file, child.id().to_string()).unwrap();
        let target = process_in(&file).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Stands for the process that gets the number of the one that has ended.
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let renumbered = Target { pid: Pid::from_child(&other), ..target };
        assert!(renumbered.handle.is_some(), "this system lacks pidfd_open");
        assert_eq!(renumbered.send(Signal::KILL), Err(Errno::SRCH));
        assert!(matches!(other.try_wait(), Ok(None)));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(process_in(&file).unwrap_err().ends_with("No such process (os error 3)"));
    }
}
