//! The thread on which smol waits for sockets and timers.

use std::io;
use std::thread;
use std::time::Duration;

/// Starts that thread, unless it runs. async-io panics at the first use of a socket or timer if it has none.
///
/// # Errors
/// If the system has no thread to give.
pub(crate) fn start() -> io::Result<()> {
    // The thread that is tried leaves its place to the one that is wanted.
    let tried = thread::Builder::new().name("async-io".into()).spawn(|| ())?;
    // It does nothing.
    drop(tried.join());
    smol::block_on(smol::Timer::after(Duration::ZERO));
    Ok(())
}
