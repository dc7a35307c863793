//! Driver of conversations as a future: connects, writes, reads and sleeps.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use async_io::{Async, Timer};
use perennial::Instant;
use perennial_rotation::{Conversation, IoEvent, IoRequest, clock};
use smol::future;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::threads;

/// Drives a conversation to its end, and returns its outcome. Calls `notice` after every poll, before carrying out the
/// operation that the conversation has returned. To cancel, drop the future.
pub async fn drive<C: Conversation>(mut conversation: C, mut notice: impl FnMut(&C)) -> C::Outcome {
    let mut stream: Option<Async<TcpStream>> = None;
    let mut buffer = [0; 16 << 10];
    loop {
        let step = conversation.poll(clock::now());
        notice(&conversation);
        let input = match (step, &mut stream) {
            (IoRequest::Done(outcome), _) => return outcome,
            (IoRequest::Connect { host, port, until }, _) => match within(until, connect(host, port, until)).await {
                Ok(connected) => {
                    stream = Some(connected);
                    IoEvent::Connected
                }
                Err(error) => IoEvent::Failed(error.to_string()),
            },
            (IoRequest::Transmit { bytes, until }, Some(stream)) => match within(until, stream.write_all(&bytes)).await
            {
                Ok(()) => continue,
                Err(error) => IoEvent::Failed(error.to_string()),
            },
            (IoRequest::Receive { until }, Some(stream)) => match within(until, stream.read(&mut buffer)).await {
                Ok(0) => IoEvent::Ended,
                Ok(length) => IoEvent::Received(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::TimedOut => continue,
                Err(error) => IoEvent::Failed(error.to_string()),
            },
            (IoRequest::Disconnect, _) => {
                stream = None;
                continue;
            }
            (IoRequest::Keep(kept), _) => {
                stream.take().into_iter().for_each(|stream| kept.put(stream));
                continue;
            }
            (IoRequest::Reuse(kept), _) => {
                stream = kept.take();
                if stream.is_some() { IoEvent::Connected } else { IoEvent::Failed("the connection was closed".into()) }
            }
            (IoRequest::Wait { until }, _) => {
                sleep_until(until).await;
                continue;
            }
            // The connection could not be opened, or was closed.
            (IoRequest::Transmit { .. } | IoRequest::Receive { .. }, None) => IoEvent::Ended,
        };
        conversation.handle(input, clock::now());
    }
}

/// Sleeps until `at`, for a millisecond at least, so that a loop that sleeps yields to other tasks.
pub(crate) async fn sleep_until(at: Instant) {
    Timer::after(clock::until(at).max(Duration::from_millis(1))).await;
}

/// The result of `work`, or a timeout error at `until`.
async fn within<T>(until: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let time_out = async {
        sleep_until(until).await;
        Err(ErrorKind::TimedOut.into())
    };
    future::or(work, time_out).await
}

/// Resolves a name on a thread, since a resolver that does not answer may block for long. An IP address needs no thread.
async fn resolve(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let (found, result) = smol::channel::bounded(1);
    let look_up = move |freed: &dyn Fn()| {
        let addresses = (host.as_str(), port).to_socket_addrs();
        freed();
        // The receiver is gone if the request was dropped.
        drop(found.try_send(addresses.map(Vec::from_iter)));
    };
    threads::run(look_up).map_err(|error| {
        io::Error::other(format!("cannot start a thread for the name lookup: {error}; raise the limit of threads"))
    })?;
    result.recv().await.map_err(io::Error::other)?
}

/// Tries the addresses of `host` in turn, each for an equal share of the time left, and returns the first connection.
async fn connect(host: String, port: u16, until: Instant) -> io::Result<Async<TcpStream>> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host name resolves to no address");
    let addresses = resolve(host, port).await?;
    for (address, remaining) in addresses.iter().zip((1..=addresses.len() as u32).rev()) {
        // An equal share of the time for each address: one that drops packets does not use up the time of the others.
        let share = clock::now().instant.after(clock::until(until) / remaining);
        match within(share, Async::<TcpStream>::connect(*address)).await {
            Ok(stream) => return stream.get_ref().set_nodelay(true).map(|()| stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
