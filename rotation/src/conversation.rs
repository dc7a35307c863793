//! What a driver does for a conversation with a server: connect, write, read, sleep. Nothing else.

use derive_more::Debug;

use perennial::{Instant, Now};

/// A conversation with a server, free of I/O. [`poll`](Self::poll) says what to do next; the driver
/// does it, reports what came of it with [`handle`](Self::handle), and polls again.
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
///     let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
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
pub trait Conversation {
    /// What the conversation was for.
    type Outcome;

    /// What came of a step. Any input is accepted at any time; one that nobody waits for is ignored.
    fn handle(&mut self, input: IoEvent<'_>, now: Now);

    /// What to do next. Asking again is harmless, except that bytes to transmit are given out once.
    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome>;
}

impl<C: Conversation + ?Sized> Conversation for Box<C> {
    type Outcome = C::Outcome;

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        (**self).handle(input, now);
    }

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        (**self).poll(now)
    }
}

/// What a driver reports. `Debug` shows the number of bytes only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoEvent<'a> {
    /// The connection asked for is there.
    Connected,
    /// These bytes arrived; any portion is fine.
    #[debug("Received({} bytes)", _0.len())]
    Received(&'a [u8]),
    /// The peer closed its side: nothing more will arrive.
    Ended,
    /// The step could not be done; the text is the system's reason.
    Failed(String),
}

/// What a driver is to do next. `Debug` shows the number of bytes only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the conversation stands still until this is done"]
pub enum IoRequest<T> {
    /// Open a TCP connection, resolving `host` if it is a name, and report [`IoEvent::Connected`] or [`IoEvent::Failed`].
    #[debug("Connect({host} port {port}, until {until:?})")]
    Connect {
        /// A DNS name or an IP address, IPv6 without brackets.
        host: String,
        /// The TCP port.
        port: u16,
        /// When to give up: report [`IoEvent::Failed`], or just poll.
        until: Instant,
    },
    /// Write all these bytes to the connection; report only a failure.
    #[debug("Transmit({} bytes, until {until:?})", bytes.len())]
    Transmit {
        /// The bytes.
        bytes: Vec<u8>,
        /// When to give up and report [`IoEvent::Failed`].
        until: Instant,
    },
    /// Read from the connection and report [`IoEvent::Received`], [`IoEvent::Ended`] or [`IoEvent::Failed`]; at `until`, just poll.
    #[debug("Receive(until {until:?})")]
    Receive {
        /// When to stop waiting.
        until: Instant,
    },
    /// Close the connection, if there is one.
    Disconnect,
    /// Let time pass, then poll. The connection may stay open.
    #[debug("Wait(until {until:?})")]
    Wait {
        /// Until when.
        until: Instant,
    },
    /// It is over; the connection is closed already.
    Done(T),
}
