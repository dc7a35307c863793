//! The thread on which smol waits for sockets and timers.

use std::fs::File;
use std::panic;
use std::thread;
use std::time::Duration;

use crate::failure::Failure;

/// Descriptors that async-io opens: an epoll instance, an event and a timer.
const DESCRIPTORS: usize = 3;

/// Starts that thread, unless it runs. At the first use of a socket or timer, async-io panics without descriptors and a
/// thread for it.
///
/// # Errors
/// If the system does not give them.
pub(crate) fn start() -> Result<(), Failure> {
    // What is tried here leaves its place to what is wanted.
    let tried = [(); DESCRIPTORS].map(|()| File::open("/dev/null"));
    for opened in tried {
        opened.map_err(|error| Failure::no_descriptor("smol", &error))?;
    }
    let tried = thread::Builder::new().name("async-io".into()).spawn(|| ());
    // It does nothing.
    drop(tried.map_err(|error| Failure::no_thread("smol", &error))?.join());
    // A timer that is due already would leave the start to that thread. smol panics if another thread took the last
    // descriptor first.
    let started = panic::catch_unwind(|| smol::block_on(smol::Timer::after(Duration::from_millis(1))));
    started.map(|_| ()).map_err(|_| Failure::Failed("cannot set up smol: it lacks descriptors, or a thread".into()))
}
