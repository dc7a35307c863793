//! Starts threads, which the system may refuse.

use std::thread::{Builder, JoinHandle};

use crate::failure::Failure;

/// Starts a thread with this name. `of` is its purpose, for the error.
///
/// # Errors
/// If the system refuses a thread.
pub(crate) fn start<T: Send + 'static>(
    name: &str,
    of: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Failure> {
    Builder::new().name(name.into()).spawn(run).map_err(|error| Failure::no_thread(of, &error))
}
