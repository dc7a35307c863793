//! Runs each rotation on a thread of its own, with one more thread while there is work that may block.

use std::io;
use std::thread;

use perennial_rotation::{FileCredential, Handle, Rotations, Rotator, StartError, Task, clock};

use crate::threads::Threads;

/// Reads the store and starts the rotation on a thread of its own, which ends after [`Handle::shutdown`]. This call
/// blocks while it reads the store, for as long as [`Rotator::prepare`] does.
///
/// One more thread saves the record of a request, then drives the request, then writes the new pair. It ends after a few
/// seconds without work. If a store or a signer hangs, other work gets another thread.
///
/// # Errors
/// [`StartError`]: the store cannot be read, or the operating system cannot start a thread. No certificate was
/// requested.
pub fn start(rotator: Rotator) -> Result<Handle, StartError> {
    let (handle, task) = rotator.prepare()?;
    spawn(task).map_err(StartError::Thread)?;
    Ok(handle)
}

/// Runs a task on a thread of its own.
///
/// # Errors
/// The operating system cannot start a thread. The task is dropped, which ends the rotation.
pub fn spawn(task: Task) -> io::Result<()> {
    thread::Builder::new().name("perennial".into()).spawn(|| run(task)).map(drop)
}

/// Runs a task to its end, on the calling thread.
fn run(mut task: Task) {
    let mut threads = Threads::of_one();
    while !task.is_over() {
        task.step(clock::now()).into_iter().for_each(|work| threads.begin((), work));
        if !task.is_over() {
            task.arrival().within(task.deadline().map(clock::until));
        }
    }
}

/// Watches the files of a pair on a thread of its own. Returns a receiver, which gets each replacement of the pair.
/// Dropping the receiver ends the thread.
///
/// # Errors
/// The operating system cannot start a thread.
pub fn watch(files: &FileCredential) -> io::Result<Rotations> {
    let (rotations, mut watch) = files.watch();
    thread::Builder::new().name("perennial-files".into()).spawn(move || {
        while let Some(at) = watch.step(clock::now()) {
            watch.ended().within(clock::until(at));
        }
    })?;
    Ok(rotations)
}
