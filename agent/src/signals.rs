//! SIGTERM and SIGINT end us in order; a person who asks again with Ctrl-C need not wait. Others have us look again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// Calls `then` at the first signal, on a thread of its own. What is returned is true from then on.
pub(crate) fn on_stop(then: impl FnOnce() + Send + 'static) -> Result<Arc<AtomicBool>, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    // In this order: the flag is still down at the first Ctrl-C, and up at the second.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, asked.clone()).map_err(Failure::failed)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, asked.clone()).map_err(Failure::failed)?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Failure::failed)?;
    let wait = move || {
        if signals.forever().next().is_some() {
            then();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(Failure::failed)?;
    Ok(asked)
}

/// Calls `then` each time one of these arrives, on a thread of its own.
pub(crate) fn on_each(which: &[i32], then: impl FnMut(i32) + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new(which).map_err(Failure::failed)?;
    let wait = move || signals.forever().for_each(then);
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(Failure::failed)?;
    Ok(())
}
