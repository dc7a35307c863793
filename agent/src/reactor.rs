//! Starts async-io's thread, on which smol waits for sockets and timers. Returns an error where async-io would panic.

use std::fs::File;
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::failure::Failure;
use crate::threads;

/// Number of descriptors that async-io opens: an epoll instance, an event and a timer.
const DESCRIPTORS: usize = 3;

/// Number of threads that are executing [`start`].
static STARTING: AtomicUsize = AtomicUsize::new(0);

/// True if this panic is one of async-io while [`start`] runs. The system has then refused a descriptor or a thread.
/// [`start`] returns this as an error, so the panic is not logged as a bug.
pub(crate) fn is_refusal(panic: &PanicHookInfo<'_>) -> bool {
    // async-io's own thread may be the one that sets up the reactor, and panic.
    let is_of_async_io = panic.location().is_some_and(|location| location.file().contains("async-io-"));
    is_of_async_io && STARTING.load(Ordering::SeqCst) > 0
}

/// Starts async-io's thread, unless that thread runs already. Without this call, async-io would start the thread at the
/// first use of a socket or timer, and panic if the system refused a descriptor or a thread.
///
/// # Errors
/// If the system refuses three descriptors or a thread. A later call may succeed.
pub(crate) fn start() -> Result<(), Failure> {
    // Opened as a test, and closed again for async-io to open its own.
    let tried = [(); DESCRIPTORS].map(|()| File::open("/dev/null"));
    for opened in tried {
        opened.map_err(|error| Failure::no_descriptor("smol", &error))?;
    }
    // A thread as a test, which ends at once.
    drop(threads::start("async-io", "smol", || ())?.join());
    // One millisecond, since a timer that is due already does not start the reactor in this thread. Panics if another
    // thread took the last descriptor since the test.
    STARTING.fetch_add(1, Ordering::SeqCst);
    let started = panic::catch_unwind(|| smol::block_on(smol::Timer::after(Duration::from_millis(1))));
    STARTING.fetch_sub(1, Ordering::SeqCst);
    let why = "cannot set up smol: no file descriptor or thread is left; raise ulimit -n and -u";
    started.map(|_| ()).map_err(|_| Failure::Failed(why.into()))
}
