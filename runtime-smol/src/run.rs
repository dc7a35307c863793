//! Runs each rotation as one future.

use std::sync::Arc;

use perennial::{Failure, Instant};
use perennial_rotation::{
    Cancel, CancelOnDrop, Exchange, FileCredential, Handle, Issued, Job, Reporter, Rotations, Rotator, SignError,
    StartError, Task, Work, clock,
};
use smol::channel::{self, Receiver};
use smol::future::{self, Boxed, FutureExt as _};

use crate::drive::{drive, sleep_until};
use crate::threads;

/// Reads the store, and returns the handle and the future to spawn. The rotation runs only while the future is polled.
/// The future ends after [`Handle::shutdown`]; dropping it ends the rotation at once, without a last write. This call
/// blocks while it reads the store, for as long as [`Rotator::prepare`] does.
///
/// # Errors
/// [`StartError::Store`]: the store cannot be read.
pub fn start(rotator: Rotator) -> Result<(Handle, impl Future<Output = ()> + Send + use<>), StartError> {
    let (handle, task) = rotator.prepare()?;
    Ok((handle, run(task)))
}

/// Runs a task to its end while this future is polled. Dropping the future ends the rotation at once, without a last
/// write.
pub async fn run(mut task: Task) {
    let mut exchange: Option<Boxed<()>> = None;
    while !task.is_over() {
        for work in task.step(clock::now()) {
            match work {
                Work::Drive(begun, reporter) => exchange = Some(drive_and_report(begun, reporter).boxed()),
                Work::Cancel => exchange = None,
                // Its result arrives as a message.
                Work::Store(job) => drop(call_on_thread(job)),
            }
        }
        if !task.is_over() {
            // Messages first: a busy exchange must not delay a shutdown or a change.
            task.arrival().or(due(task.deadline())).or(finished(&mut exchange)).await;
        }
    }
}

/// Drives an exchange to its end, and reports its result.
pub(crate) async fn drive_and_report(exchange: Exchange, mut reporter: Reporter) {
    let result = match exchange {
        Exchange::Conversation(conversation) => {
            drive(conversation, |conversation| reporter.progress(&**conversation)).await
        }
        Exchange::Blocking(work) => sign_on_thread(work).await,
        Exchange::Future(future) => future.await,
    };
    reporter.finish(result);
}

/// Runs a signer that may block on a thread. Dropping the future cancels the signer. One that ignores this keeps its
/// thread.
async fn sign_on_thread(
    sign: impl FnOnce(&Cancel) -> Result<Issued, SignError> + Send + 'static,
) -> Result<Issued, SignError> {
    let cancel = CancelOnDrop(Arc::default());
    let (cancelled, (ended, result)) = (cancel.0.clone(), channel::bounded(1));
    let begun = threads::run(move |freed| {
        let result = sign(&cancelled);
        freed();
        // The receiver is gone if the request was dropped.
        drop(ended.try_send(result));
    });
    let failed = |why| Err(SignError::new(Failure::Local, why));
    if let Err(error) = begun {
        return failed(format!("cannot start a thread for the request: {error}; raise the limit of threads"));
    }
    result.recv().await.unwrap_or_else(|_| failed("the signer ended without a result".into()))
}

/// Makes a call to a store or a key source on a thread. The returned channel is closed when the call has ended.
pub(crate) fn call_on_thread(job: Job) -> Receiver<()> {
    let (running, ended) = channel::bounded(1);
    let again = job.clone();
    let begun = threads::run(|freed| {
        job.run_then(freed);
        drop(running);
    });
    // No thread: a blocked executor is better than a certificate that is never written.
    if begun.is_err() {
        again.run();
    }
    ended
}

/// Polls the exchange in flight to its end. Without an exchange, stays pending for ever.
async fn finished(exchange: &mut Option<Boxed<()>>) {
    match exchange {
        Some(driven) => driven.await,
        None => future::pending().await,
    }
    *exchange = None;
}

/// Sleeps until the deadline. Without a deadline, stays pending for ever.
pub(crate) async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}

/// Returns a receiver, and the future to spawn. The future watches the files of a pair, and the receiver gets each
/// replacement of the pair. The future reads the files on a thread of smol's pool, since a disk may block. Dropping the
/// receiver ends the future, and dropping the future ends the receiver.
pub fn watch(files: &FileCredential) -> (Rotations, impl Future<Output = ()> + Send + use<>) {
    let (rotations, mut watch) = files.watch();
    let watching = async move {
        loop {
            let next;
            (next, watch) = smol::unblock(move || (watch.step(clock::now()), watch)).await;
            let Some(at) = next else { break };
            watch.ended().or(sleep_until(at)).await;
        }
    };
    (rotations, watching)
}
