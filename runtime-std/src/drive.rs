//! Driver of conversations on a thread: connects, writes, reads and sleeps.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use perennial_rotation::{Cancel, Conversation, IoEvent, IoRequest, clock};

/// Drives a conversation to its end, and returns its outcome; `None` if it was cancelled. Calls `notice` after every
/// poll, before carrying out the operation that the conversation has returned.
///
/// Cancellation ends reads, writes and sleeps at once. It does not end a connection attempt, which goes on up to its
/// time limit, nor the name lookup before that, which goes on up to the resolver's limit.
pub fn drive<C: Conversation>(mut conversation: C, cancel: &Cancel, mut notice: impl FnMut(&C)) -> Option<C::Outcome> {
    let mut stream: Option<TcpStream> = None;
    let mut buffer = [0; 16 << 10];
    let left = |until| clock::until(until).max(Duration::from_millis(1));
    loop {
        let step = conversation.poll(clock::now());
        if cancel.is_cancelled() {
            return None;
        }
        notice(&conversation);
        let input = match (step, &mut stream) {
            (IoRequest::Done(outcome), _) => return Some(outcome),
            (IoRequest::Connect { host, port, until }, _) => {
                opened(connect(&host, port, left(until)), &mut stream, cancel)
            }
            (IoRequest::Reuse(kept), _) => {
                opened(kept.take().ok_or_else(|| ErrorKind::NotConnected.into()), &mut stream, cancel)
            }
            (IoRequest::Transmit { bytes, until }, Some(stream)) => {
                match stream.set_write_timeout(Some(left(until))).and_then(|()| stream.write_all(&bytes)) {
                    Ok(()) => continue,
                    Err(error) => IoEvent::Failed(error.to_string()),
                }
            }
            (IoRequest::Receive { until }, Some(stream)) => {
                match stream.set_read_timeout(Some(left(until))).and_then(|()| stream.read(&mut buffer)) {
                    Ok(0) => IoEvent::Ended,
                    Ok(length) => IoEvent::Received(&buffer[..length]),
                    Err(error) if is_timeout(&error) => continue,
                    Err(error) => IoEvent::Failed(error.to_string()),
                }
            }
            (IoRequest::Disconnect, _) => {
                stream = None;
                cancel.drop_hook();
                continue;
            }
            (IoRequest::Keep(kept), _) => {
                // The connection belongs to another conversation from now on.
                cancel.drop_hook();
                stream.take().into_iter().for_each(|stream| kept.put(stream));
                continue;
            }
            (IoRequest::Wait { until }, _) => {
                cancel.sleep(left(until));
                continue;
            }
            // The connection could not be opened, or was closed.
            (IoRequest::Transmit { .. } | IoRequest::Receive { .. }, None) => IoEvent::Ended,
        };
        conversation.handle(input, clock::now());
    }
}

/// Puts a connection into `stream`, and lets `cancel` shut it down.
fn opened(connected: io::Result<TcpStream>, stream: &mut Option<TcpStream>, cancel: &Cancel) -> IoEvent<'static> {
    let watched = connected.and_then(|connected| {
        let watched = connected.try_clone()?;
        // Shutting down ends a blocked read or write. An error means that the socket is closed already.
        cancel.on_cancel(move || drop(watched.shutdown(Shutdown::Both)));
        Ok(connected)
    });
    match watched {
        Ok(connected) => {
            *stream = Some(connected);
            IoEvent::Connected
        }
        Err(error) => IoEvent::Failed(error.to_string()),
    }
}

/// Polls a future to its end, and returns its output; `None` if it was cancelled.
pub(crate) fn block_on<T>(mut future: Pin<Box<dyn Future<Output = T> + Send>>, cancel: &Cancel) -> Option<T> {
    let (thread, waker) = (thread::current(), Waker::from(Arc::new(Unpark(thread::current()))));
    cancel.on_cancel(move || thread.unpark());
    let mut context = Context::from_waker(&waker);
    while !cancel.is_cancelled() {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
            return Some(outcome);
        }
        thread::park();
    }
    None
}

/// A waker that unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Tries the addresses of `host` in turn, each for an equal share of the time left, and returns the first connection.
fn connect(host: &str, port: u16, within: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host name resolves to no address");
    let until = Instant::now() + within;
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    for (address, remaining) in addresses.iter().zip((1..=addresses.len() as u32).rev()) {
        // An equal share of the time for each address: one that drops packets does not use up the time of the others.
        let left = until.saturating_duration_since(Instant::now()) / remaining;
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(address, left) {
            Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// True if a read ended at its time limit or by a signal. The connection has no error then, and the conversation
/// decides what follows.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
