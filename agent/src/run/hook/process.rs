//! Runs the command of `--on-rotated` once, with a time limit.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::hook_debt::Subject;
use crate::spans::words;

/// Interval of checks for the end of the command.
const CHECK: Duration = Duration::from_millis(20);
/// Time from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the command with sh, in a process group of its own, and waits for its end. Kills the whole group after `limit`,
/// or once `abandoned` returns true.
///
/// # Errors
/// A clause that follows "--on-rotated": the command could not be started, failed, or was killed.
pub(super) fn run(
    text: &str,
    of: &str,
    subject: &Subject,
    limit: Duration,
    abandoned: impl Fn() -> bool,
) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.args(["-c", text]).process_group(0).stdin(Stdio::null());
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
