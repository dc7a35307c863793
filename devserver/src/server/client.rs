//! One client: moves bytes between its socket and its session.

use std::cell::RefCell;
use std::future::pending;
use std::io::{self, Read as _};
use std::net::{Shutdown, TcpStream};
use std::sync::PoisonError;
use std::time::Duration;

use async_io::{Async, Timer};
use perennial::Instant;
use perennial_rotation::clock;
use rustix::net::sockopt;
use smol::future::{or, yield_now};
use smol::io::AsyncWriteExt as _;

use super::Shared;
use super::clients::Registration;
use crate::{Break, Session};

/// Send buffer of a connection, in bytes. Linux's default grows to megabytes for a client that does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// Idle time before the first TCP keepalive probe, and interval between two probes, as in a cluster.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Time that a client has to read the last bytes sent to it before the socket is closed.
const LINGER: Duration = Duration::from_secs(2);

/// The event that ends a wait of [`serve`].
enum Woken {
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    Driven,
}

/// Serves a client until its connection ends. If `turned_away`, answers the first request with 429 and closes.
pub(super) async fn serve(
    stream: &Async<TcpStream>,
    turned_away: bool,
    shared: &Shared,
    buffer: &RefCell<Vec<u8>>,
    registration: &Registration,
) -> io::Result<()> {
    // Events of a watch are small and must not wait for more data.
    stream.get_ref().set_nodelay(true)?;
    sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
    // A watch may be idle for hours: keepalive detects a client that has vanished.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    let tls = shared.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut session = Session::new(&tls, clock::now().instant).map_err(io::Error::other)?;
    if turned_away {
        session.turn_away();
    }
    let mut out = Vec::new();
    let mut closing: Option<Instant> = None;
    loop {
        // Listen before driving the session: a change in between is not missed.
        let changed = shared.changed.listen();
        let now = clock::now();
        shared.with_api(|api, _| session.drive(api, now));
        if session.is_known() {
            registration.protect();
        }
        if out.is_empty() {
            // Free the buffer: an idle client should cost little memory.
            out.shrink_to(0);
            session.transmit(&mut out, now.instant);
        }
        // The bytes before the fault must reach the socket first.
        match session.breaks().filter(|_| out.is_empty()) {
            // With a linger time of zero, closing resets the connection.
            Some(Break::Midway) => return Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?),
            Some(Break::Refused | Break::Reset) => return reset(stream).await,
            None => {}
        }
        let deadline = if session.is_closed() {
            let last = *closing.get_or_insert_with(|| now.instant.after(LINGER));
            if out.is_empty() || now.instant >= last {
                break;
            }
            last
        } else {
            session.deadline()
        };

        let mut writer = stream;
        let (reads, watches) = (session.wants_read(), session.is_watching());
        let into = |mut socket: &TcpStream| socket.read(&mut buffer.borrow_mut());
        let read = async { if reads { Woken::Read(stream.read_with(into).await) } else { pending().await } };
        let write = async { if out.is_empty() { pending().await } else { Woken::Wrote(writer.write(&out).await) } };
        let change = async {
            if watches {
                changed.await;
                Woken::Driven
            } else {
                pending().await
            }
        };
        let timer = async {
            Timer::after(deadline.since(now.instant)).await;
            Woken::Driven
        };
        // Writes first: a client that sends without pause still gets its answers.
        match or(or(write, read), or(change, timer)).await {
            // The shared buffer is unchanged: there was no await since the read, so that no other task has run.
            Woken::Read(read) => match read? {
                0 => session.receive_eof(),
                count => session.receive(&buffer.borrow()[..count]),
            },
            Woken::Wrote(written) => drop(out.drain(..written?)),
            Woken::Driven => {}
        }
        // A client that sends as fast as its bytes are read is always ready: yield, so that other clients are served.
        yield_now().await;
    }
    close_gracefully(stream, buffer).await
}

/// Waits for bytes of the client, [`LINGER`] at most, and leaves them unread. The caller then closes the socket, and
/// the unread bytes make this a reset of the connection.
async fn reset(stream: &Async<TcpStream>) -> io::Result<()> {
    let timer = async {
        Timer::after(LINGER).await;
        Ok(())
    };
    or(stream.readable(), timer).await
}

/// Closes the connection so that the client gets the last bytes sent to it: shuts down the sending side, and reads on
/// until the client closes, [`LINGER`] at most. Closing a socket with unread bytes would reset the connection, and the
/// last bytes would be lost.
async fn close_gracefully(stream: &Async<TcpStream>, buffer: &RefCell<Vec<u8>>) -> io::Result<()> {
    stream.get_ref().shutdown(Shutdown::Write)?;
    let drain = async {
        let into = |mut socket: &TcpStream| socket.read(&mut buffer.borrow_mut());
        while stream.read_with(into).await.is_ok_and(|count| count > 0) {
            yield_now().await;
        }
    };
    let timer = async {
        Timer::after(LINGER).await;
    };
    or(drain, timer).await;
    Ok(())
}
