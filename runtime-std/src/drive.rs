//! Drives a conversation from a thread: connect, write, read, sleep.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, Listener as _};
use perennial_rotation::{Conversation, IoEvent, IoRequest, clock};

/// Ends a conversation from another thread, at once but for a connection that is being opened: that
/// ends by itself, within its time limit, and nobody waits for it.
#[derive(Debug, Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    stream: Mutex<Option<TcpStream>>,
    event: Event,
}

impl Cancel {
    /// Ends the conversation. Its outcome, if it had one by now, is dropped.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.event.notify(usize::MAX);
        if let Some(stream) = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn watch_over(&self, stream: Option<TcpStream>) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }

    fn sleep(&self, span: Duration) {
        let listener = self.event.listen();
        if self.is_cancelled() {
            return;
        }
        match Instant::now().checked_add(span) {
            Some(until) => drop(listener.wait_deadline(until)),
            None => listener.wait(),
        }
    }
}

/// Drives a conversation to its end; `notice` sees it before every step. `None` if it was cancelled.
pub fn drive<C: Conversation>(mut conversation: C, cancel: &Cancel, mut notice: impl FnMut(&C)) -> Option<C::Outcome> {
    let mut stream: Option<TcpStream> = None;
    let mut buffer = [0; 16 << 10];
    let left = |until| clock::until(until).max(Duration::from_millis(1));
    loop {
        let step = conversation.poll(clock::now());
        notice(&conversation);
        if cancel.is_cancelled() {
            return None;
        }
        let input = match (step, &mut stream) {
            (IoRequest::Done(outcome), _) => return Some(outcome),
            (IoRequest::Connect { host, port, until }, _) => {
                let connected = connect(&host, port, left(until)).and_then(|connected| {
                    cancel.watch_over(Some(connected.try_clone()?));
                    Ok(connected)
                });
                match connected {
                    Ok(connected) => {
                        stream = Some(connected);
                        IoEvent::Connected
                    }
                    Err(error) => IoEvent::Failed(error.to_string()),
                }
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
                cancel.watch_over(None);
                continue;
            }
            (IoRequest::Wait { until }, _) => {
                cancel.sleep(left(until));
                continue;
            }
            (IoRequest::Transmit { .. } | IoRequest::Receive { .. }, None) => IoEvent::Ended,
        };
        conversation.handle(input, clock::now());
    }
}

fn connect(host: &str, port: u16, within: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    let until = Instant::now() + within;
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    for (address, remaining) in addresses.iter().zip((1..=addresses.len() as u32).rev()) {
        // The time is shared, so that one address that swallows packets does not hide the others.
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

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
