//! A runtime on tokio: a loop around a [`Task`], and a driver of conversations.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use perennial::Instant;
use perennial_rotation::{CancelOnDrop, Exchange, IoEvent, IoRequest, Reporter, SignerConversation, Task, Work, clock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

/// Runs a task to its end, on the calling thread, with a tokio runtime of its own.
///
/// # Errors
/// tokio cannot start.
pub fn block_on(task: Task) -> io::Result<()> {
    Builder::new_current_thread().enable_all().build().map(|runtime| runtime.block_on(run(task)))
}

/// Runs a task to its end, in a tokio runtime of the caller that has time and I/O enabled.
pub async fn run(mut task: Task) {
    // A set, since dropping it aborts the exchange. A plain `JoinHandle` would detach it.
    let mut exchange = JoinSet::new();
    while !task.is_over() {
        for work in task.step(clock::now()) {
            match work {
                Work::Drive(begun, reporter) => drop(exchange.spawn(drive_and_report(begun, reporter))),
                Work::Cancel => exchange.abort_all(),
                // Storage blocks, and would stop the other tasks of this thread.
                Work::Store(job) => drop(spawn_blocking(|| job.run())),
            }
        }
        if !task.is_over() {
            let due = task.deadline().map_or(Duration::MAX, left);
            tokio::select! {
                () = task.arrival() => {}
                () = sleep(due) => {}
                // Removes the ended exchange; its result reached the task through the reporter.
                _ = exchange.join_next(), if !exchange.is_empty() => {}
            }
        }
    }
}

/// Drives an exchange to its end, and reports its result to the task.
async fn drive_and_report(exchange: Exchange, reporter: Reporter) {
    match exchange {
        Exchange::Conversation(conversation) => converse(conversation, reporter).await,
        Exchange::Future(future) => reporter.finish(future.await),
        Exchange::Blocking(work) => {
            let cancel = CancelOnDrop(Arc::default());
            let cancelled = cancel.0.clone();
            match spawn_blocking(move || work(&cancelled)).await {
                Ok(result) => reporter.finish(result),
                Err(error) => reporter.fail(error.to_string()),
            }
        }
    }
}

/// Connects, writes, reads and sleeps for a conversation until it ends, and reports its result to the task.
async fn converse(mut conversation: Box<dyn SignerConversation>, mut reporter: Reporter) {
    let mut stream: Option<TcpStream> = None;
    let mut buffer = [0; 16 << 10];
    loop {
        let request = conversation.poll(clock::now());
        reporter.progress(&*conversation);
        let done = match (request, &mut stream) {
            (IoRequest::Done(outcome), _) => return reporter.finish(outcome),
            (IoRequest::Connect { host, port, until }, _) => {
                within(until, TcpStream::connect((host, port))).await.map(|connected| {
                    stream = Some(connected);
                    Some(IoEvent::Connected)
                })
            }
            (IoRequest::Transmit { bytes, until }, Some(stream)) => {
                within(until, stream.write_all(&bytes)).await.map(|()| None)
            }
            (IoRequest::Receive { until }, Some(stream)) => match within(until, stream.read(&mut buffer)).await {
                Ok(0) => Ok(Some(IoEvent::Ended)),
                Ok(length) => Ok(Some(IoEvent::Received(&buffer[..length]))),
                // No event: `poll` sees by the time that `until` has passed.
                Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
                Err(error) => Err(error),
            },
            (IoRequest::Disconnect, _) => {
                stream = None;
                Ok(None)
            }
            (IoRequest::Keep(kept), _) => {
                stream.take().into_iter().for_each(|stream| kept.put(stream));
                Ok(None)
            }
            (IoRequest::Reuse(kept), _) => {
                stream = kept.take();
                Ok(Some(if stream.is_some() { IoEvent::Connected } else { IoEvent::Failed("it was closed".into()) }))
            }
            (IoRequest::Wait { until }, _) => {
                sleep(left(until)).await;
                Ok(None)
            }
            (IoRequest::Transmit { .. } | IoRequest::Receive { .. }, None) => Ok(Some(IoEvent::Ended)),
        };
        let event = done.unwrap_or_else(|error| Some(IoEvent::Failed(error.to_string())));
        if let Some(event) = event {
            conversation.handle(event, clock::now());
        }
    }
}

/// Time left until `until`; at least a millisecond, so that a loop that sleeps yields to other tasks.
fn left(until: Instant) -> Duration {
    clock::until(until).max(Duration::from_millis(1))
}

/// Waits for the result of `work`; returns a `TimedOut` error at `until`.
async fn within<T>(until: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(left(until), work).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
