//! Runs a hook once: its command, with a time limit, and its signal.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};

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
    let pid = process_in(file).map_err(|why| format!("could not signal the process in {}: {why}", file.display()))?;
    let name = |error| format!("could not signal process {}, of {}: {error}", pid.as_raw_nonzero(), file.display());
    kill_process(pid, signal).map_err(name)
}

/// Reads the number of a running process. A user who may write the file must not make us signal processes of others:
/// the file has to be ours or root's, or the process has to be the file owner's, and no link on the way may belong to
/// another user than us or root.
fn process_in(file: &Path) -> Result<Pid, String> {
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
    let owner = fs::metadata(format!("/proc/{}", pid.as_raw_nonzero())).map(|process| process.uid());
    if about.uid() == 0 || about.uid() == geteuid().as_raw() || owner.is_ok_and(|owner| owner == about.uid()) {
        Ok(pid)
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
        let found = |name: &str| process_in(&at(name)).map(|pid| pid.as_raw_nonzero().get());
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
}
