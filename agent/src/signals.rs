//! SIGTERM and SIGINT end the process in order, or by force after [`END`]; a second Ctrl-C ends it at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGALRM, SIGCHLD, SIGINT, SIGQUIT, SIGTERM, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// The process ends at most this long after the first SIGTERM or SIGINT, whatever does not answer.
pub(crate) const END: Duration = Duration::from_secs(10);
/// Time for the last line of the log to reach its reader.
const LAST_LINE: Duration = Duration::from_millis(200);

/// Calls `then`, which must not block, at the first signal, on a thread of its own. Returns a flag that is true from
/// then on. Ends the process with exit code 1 if it still runs [`END`] later.
pub(crate) fn on_stop(then: impl Fn() + Send + 'static) -> Result<Arc<AtomicBool>, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    // In this order: the flag is still down at the first Ctrl-C, and up at the second.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, asked.clone()).map_err(unable)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, asked.clone()).map_err(unable)?;
    }
    on_each(&[SIGINT, SIGTERM], move |_| {
        then();
        thread::sleep(END);
        tracing::error!(
            "not stopped {END:?} after the signal: a disk or another program does not answer; exiting without waiting"
        );
        thread::sleep(LAST_LINE);
        // Without any destructor: one of them may wait for what does not answer.
        signal_hook::low_level::exit(1);
    })?;
    Ok(asked)
}

/// Has a write beyond the limit of file sizes (RLIMIT_FSIZE) fail as on a full disk, instead of ending the process.
pub(crate) fn survive_file_size_limit() -> Result<(), Failure> {
    // A handler, not an ignored signal: programs that are started from here get the default back.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop).map_err(unable)
}

/// Gives signals that a parent may have ignored (a shell ignores SIGQUIT for `command &`) their default meaning: programs
/// that are started from here would ignore them, too, and nobody can wait for them if SIGCHLD is ignored.
pub(crate) fn restore_defaults() -> Result<(), Failure> {
    for signal in [SIGALRM, SIGCHLD, SIGQUIT, SIGUSR2] {
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_default(signal, always).map_err(unable)?;
    }
    Ok(())
}

/// Calls `then` each time one of these arrives, on a thread of its own.
pub(crate) fn on_each(which: &[i32], then: impl FnMut(i32) + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new(which).map_err(unable)?;
    let wait = move || signals.forever().for_each(then);
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(|error| Failure::no_thread("signals", &error))?;
    Ok(())
}

fn unable(error: std::io::Error) -> Failure {
    Failure::no_descriptor("signal handling", &error)
}
