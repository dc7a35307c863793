//! SIGTERM and SIGINT end the process in order. If the process still runs after [`END`], it is ended by force. A second
//! Ctrl-C ends it at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGALRM, SIGCHLD, SIGINT, SIGQUIT, SIGTERM, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::threads;

/// Longest time from the first SIGTERM or SIGINT to the end of the process, even if a disk or hook does not answer.
pub(crate) const END: Duration = Duration::from_secs(10);
/// Time for the last line of the log to reach its reader.
const LAST_LINE: Duration = Duration::from_millis(200);

/// Calls `then`, which must not block, at the first SIGTERM or SIGINT, on a thread of its own. Returns a flag that is
/// true from that signal on. If the process still runs [`END`] after the signal, ends the process with exit code 1. A
/// SIGINT after the first signal ends the process at once.
pub(crate) fn on_stop(then: impl Fn() + Send + 'static) -> Result<Arc<AtomicBool>, Failure> {
    let stop_requested = Arc::new(AtomicBool::new(false));
    // Handlers run in the order of registration: this one finds the flag false at the first Ctrl-C, true at the second.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, stop_requested.clone()).map_err(unable)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop_requested.clone()).map_err(unable)?;
    }
    on_each(&[SIGINT, SIGTERM], move |_| {
        then();
        thread::sleep(END);
        tracing::error!(
            "not stopped {END:?} after the signal: a disk or another program does not answer; exiting without waiting"
        );
        thread::sleep(LAST_LINE);
        // Without destructors and exit handlers: one may wait for the disk or program that does not answer.
        signal_hook::low_level::exit(1);
    })?;
    Ok(stop_requested)
}

/// Makes a write beyond the file size limit (RLIMIT_FSIZE) fail with EFBIG, instead of ending the process by SIGXFSZ.
pub(crate) fn survive_file_size_limit() -> Result<(), Failure> {
    // A handler instead of SIG_IGN: child processes get the default back (execve(2)), but would inherit SIG_IGN.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop).map_err(unable)
}

/// Restores the default action of signals that the parent process may have set to ignored, as a shell does with SIGQUIT
/// for `command &`. Otherwise child processes would inherit this setting. Also, the exit status of a child is lost
/// while SIGCHLD is ignored (wait(2)).
pub(crate) fn restore_defaults() -> Result<(), Failure> {
    for signal in [SIGALRM, SIGCHLD, SIGQUIT, SIGUSR2] {
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_default(signal, always).map_err(unable)?;
    }
    Ok(())
}

/// Returns a flag that is set each time `signal` arrives, before the calls of [`on_each`] for that signal.
pub(crate) fn flag(signal: i32) -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::<AtomicBool>::default();
    signal_hook::flag::register(signal, flag.clone()).map_err(unable)?;
    Ok(flag)
}

/// Starts a thread that calls `then` each time one of the signals in `which` arrives.
pub(crate) fn on_each(which: &[i32], then: impl FnMut(i32) + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new(which).map_err(unable)?;
    let wait = move || signals.forever().for_each(then);
    threads::start("signals", "signals", wait).map(drop)
}

fn unable(error: std::io::Error) -> Failure {
    Failure::no_descriptor("signal handling", &error)
}
