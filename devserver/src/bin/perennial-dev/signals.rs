//! Signals, on a thread of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// Calls `then` at SIGTERM and SIGINT. Returns a flag that is true from the first of them on; a second SIGINT ends the
/// process at once.
pub(crate) fn on_stop(mut then: impl FnMut() + Send + 'static) -> Result<Arc<AtomicBool>, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, asked.clone()).map_err(unable)?;
    let stopped = asked.clone();
    on_each(&[SIGINT, SIGTERM], move || {
        stopped.store(true, Ordering::SeqCst);
        then();
    })?;
    Ok(asked)
}

/// Calls `then` at each of these signals.
pub(crate) fn on_each(which: &[i32], mut then: impl FnMut() + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new(which).map_err(unable)?;
    let wait = move || signals.forever().for_each(|_| then());
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(unable)?;
    Ok(())
}

fn unable(error: std::io::Error) -> Failure {
    Failure::Failed(format!("cannot set up signal handling: {error}; raise ulimit -n and -u"))
}
