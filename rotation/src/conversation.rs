//! A conversation with a server, and the operations that it needs of its driver: connect, write, read and sleep, and
//! keep a connection for a later conversation.

use derive_more::Debug;

use perennial::{Instant, Now};

use crate::KeptConnection;

/// A conversation with a server, free of I/O. [`poll`](Self::poll) returns the next operation; the driver carries the
/// operation out, reports its result with [`handle`](Self::handle), and polls again.
///
/// ```
/// use std::io::{self, ErrorKind, Read, Write};
/// use std::net::{TcpStream, ToSocketAddrs};
/// use std::time::Duration;
/// use perennial::{Instant, Now};
/// use perennial_rotation::{Conversation, IoEvent, IoRequest};
///
/// fn drive<C: Conversation>(mut conversation: C, now: impl Fn() -> Now) -> C::Outcome {
///     let mut stream: Option<TcpStream> = None;
///     let mut buffer = [0; 16 << 10];
///     let left = |until: Instant| until.since(now().instant).max(Duration::from_millis(1));
///     loop {
///         let input = match (conversation.poll(now()), &mut stream) {
///             (IoRequest::Done(outcome), _) => return outcome,
///             (IoRequest::Connect { host, port, until }, _) => match connect(&host, port, left(until)) {
///                 Ok(connected) => {
///                     stream = Some(connected);
///                     IoEvent::Connected
///                 }
///                 Err(error) => IoEvent::Failed(error.to_string()),
///             },
///             (IoRequest::Transmit { bytes, until }, Some(stream)) => {
///                 match stream.set_write_timeout(Some(left(until))).and_then(|()| stream.write_all(&bytes)) {
///                     Ok(()) => continue,
///                     Err(error) => IoEvent::Failed(error.to_string()),
///                 }
///             }
///             (IoRequest::Receive { until }, Some(stream)) => {
///                 match stream.set_read_timeout(Some(left(until))).and_then(|()| stream.read(&mut buffer)) {
///                     Ok(0) => IoEvent::Ended,
///                     Ok(length) => IoEvent::Received(&buffer[..length]),
///                     Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
///                     Err(error) => IoEvent::Failed(error.to_string()),
///                 }
///             }
///             (IoRequest::Disconnect, _) => {
///                 stream = None;
///                 continue;
///             }
///             (IoRequest::Keep(kept), _) => {
///                 stream.take().into_iter().for_each(|stream| kept.put(stream));
///                 continue;
///             }
///             (IoRequest::Reuse(kept), _) => {
///                 stream = kept.take();
///                 if stream.is_some() { IoEvent::Connected } else { IoEvent::Failed("it was closed".into()) }
///             }
///             (IoRequest::Wait { until }, _) => {
///                 std::thread::sleep(left(until));
///                 continue;
///             }
///             (IoRequest::Transmit { .. } | IoRequest::Receive { .. }, None) => IoEvent::Ended,
///         };
///         conversation.handle(input, now());
///     }
/// }
///
/// fn connect(host: &str, port: u16, within: Duration) -> io::Result<TcpStream> {
///     let mut last = io::Error::new(ErrorKind::NotFound, "the host name resolves to no address");
///     for address in (host, port).to_socket_addrs()? {
///         match TcpStream::connect_timeout(&address, within) {
///             Ok(stream) => return Ok(stream),
///             Err(error) => last = error,
///         }
///     }
///     Err(last)
/// }
/// ```
///
/// To cancel, drop the conversation and close its connection.
#[auto_impl::auto_impl(Box)]
pub trait Conversation {
    /// The result of the conversation, which [`IoRequest::Done`] returns to the driver.
    type Outcome;

    /// Handles the result of an operation. May be called at any time: the conversation ignores an event that it does
    /// not expect.
    fn handle(&mut self, input: IoEvent<'_>, now: Now);

    /// Returns the next operation. Repeated calls are harmless, except that bytes to transmit are returned once.
    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome>;
}

/// Result of an operation, which the driver reports to [`Conversation::handle`]. `Debug` shows the number of received
/// bytes, not the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoEvent<'a> {
    /// The connection is open.
    Connected,
    /// The next bytes of the stream arrived: any number, not necessarily a whole message.
    #[debug("Received({} bytes)", _0.len())]
    Received(&'a [u8]),
    /// The peer closed its side: nothing more will arrive.
    Ended,
    /// The operation failed. Contains the error of the operating system, as text.
    Failed(String),
}

/// The operation that a driver carries out next, returned by [`Conversation::poll`]. `Debug` shows the number of bytes
/// to transmit, not the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the conversation stands still until this is done"]
pub enum IoRequest<T> {
    /// Open a TCP connection to `host`, resolving a DNS name first, and report [`IoEvent::Connected`] or
    /// [`IoEvent::Failed`].
    #[debug("Connect({host} port {port}, until {until:?})")]
    Connect {
        /// A DNS name or an IP address, IPv6 without brackets.
        host: String,
        /// The TCP port.
        port: u16,
        /// When to give up connecting. The driver then reports [`IoEvent::Failed`], or polls the conversation without a
        /// report.
        until: Instant,
    },
    /// Write all these bytes to the connection; report only a failure.
    #[debug("Transmit({} bytes, until {until:?})", bytes.len())]
    Transmit {
        /// The bytes to write.
        bytes: Vec<u8>,
        /// When to give up writing. The driver then reports [`IoEvent::Failed`].
        until: Instant,
    },
    /// Read from the connection and report [`IoEvent::Received`], [`IoEvent::Ended`] or [`IoEvent::Failed`]; at
    /// `until`, poll without a report.
    #[debug("Receive(until {until:?})")]
    Receive {
        /// When to stop waiting for bytes, and poll the conversation.
        until: Instant,
    },
    /// Close the connection, if there is one.
    Disconnect,
    /// Set the open connection aside in this place, for a later conversation, and poll. A driver that keeps no
    /// connections closes the connection.
    Keep(KeptConnection),
    /// Take the connection out of this place, and report [`IoEvent::Connected`]; [`IoEvent::Failed`] if no connection
    /// of this driver is there. The conversation then connects anew.
    Reuse(KeptConnection),
    /// Wait until `until`, then poll. The connection may stay open.
    #[debug("Wait(until {until:?})")]
    Wait {
        /// When to poll the conversation.
        until: Instant,
    },
    /// The conversation has ended with this outcome. Its connection is closed already, or set aside.
    Done(T),
}
