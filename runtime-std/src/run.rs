//! Runs each rotation on a thread, with one more thread while a request is in flight or the store is called.

use std::io;
use std::sync::Arc;
use std::thread;

use perennial_rotation::{
    Cancel, CancelOnDrop, Exchange, FileCredential, Handle, Reporter, Rotations, Rotator, StartError, Task, Work, clock,
};

use crate::calls::Calls;
use crate::drive::{block_on, drive};

/// Reads the store and starts the rotation on a thread of its own, which ends after [`Handle::shutdown`]. This call
/// blocks while it reads the store, for as long as [`Rotator::prepare`] does.
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
    // The guard of the exchange in flight: dropping it cancels the exchange.
    let mut exchange = None;
    // One at a time to the store, and one to the key source. The thread of a request's first call makes the later ones,
    // too.
    let calls = Calls::new(1);
    while !task.is_over() {
        for work in task.step(clock::now()) {
            match work {
                Work::Drive(begun, reporter) => {
                    let thread = thread::Builder::new().name("perennial-exchange".into());
                    exchange = drive_on_thread(begun, reporter, |driven| thread.spawn(driven).map(drop));
                }
                Work::Cancel => drop(exchange.take()),
                Work::Store(job) => calls.make(job),
            }
        }
        if !task.is_over() {
            task.arrival().within(task.deadline().map(clock::until));
        }
    }
}

/// Drives an exchange on the thread that `start` starts, and reports its result. Dropping the returned guard cancels the
/// exchange. If `start` fails, reports that failure and returns `None`.
pub(crate) fn drive_on_thread(
    exchange: Exchange,
    reporter: Reporter,
    start: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>,
) -> Option<CancelOnDrop> {
    let cancel = Arc::new(Cancel::default());
    let (cancelled, failed) = (cancel.clone(), reporter.clone());
    match start(Box::new(move || drive_to_end(exchange, reporter, &cancelled))) {
        Ok(()) => Some(CancelOnDrop(cancel)),
        Err(error) => {
            failed.fail(format!("cannot start a thread for the request: {error}; raise the limit of threads"));
            None
        }
    }
}

/// Drives an exchange to its end, and reports its result. Reports nothing once the exchange is cancelled, and does not
/// begin an exchange that is cancelled already.
fn drive_to_end(exchange: Exchange, mut reporter: Reporter, cancel: &Cancel) {
    if cancel.is_cancelled() {
        return;
    }
    let outcome = match exchange {
        Exchange::Conversation(conversation) => {
            drive(conversation, cancel, |conversation| reporter.progress(&**conversation))
        }
        Exchange::Blocking(work) => Some(work(cancel)),
        Exchange::Future(future) => block_on(future, cancel),
    };
    if let Some(result) = outcome {
        reporter.finish(result);
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
