//! A request in flight, whether the signer began it as a conversation over a connection or as a closure.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use perennial::{Instant, Now};
use perennial_rotation::{Cancel, Exchange, Issued, SignError};

use super::{Server, Wire};

/// A request in flight: an exchange over a connection, or a closure's result.
pub(super) enum InFlight {
    /// An exchange that sends bytes to the server and receives them.
    Bytes(Box<Wire>),
    /// The result of a closure, and the time at which the node sees the result. The result is `None` if the closure's
    /// future never ends, and once the node has seen the result.
    Result(Option<Result<Issued, SignError>>, Instant),
}

impl InFlight {
    /// Begins a request. A closure runs at once, but the node sees its result only after `closure_takes`.
    pub(super) fn of(exchange: Exchange, now: Now, closure_takes: Duration) -> Self {
        let result = match exchange {
            Exchange::Conversation(conversation) => return Self::Bytes(Box::new(Wire::new(conversation, now))),
            Exchange::Blocking(work) => Some(work(&Cancel::default())),
            Exchange::Future(mut future) => match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => Some(result),
                // Virtual time has no waker: a future that is pending once is pending for ever.
                Poll::Pending => None,
            },
        };
        Self::Result(result, now.instant.after(closure_takes))
    }

    /// Carries bytes between exchange and server, both ways. Returns the result once the request has ended.
    pub(super) fn carry(&mut self, server: &mut Server) -> Option<Result<Issued, SignError>> {
        match self {
            Self::Bytes(wire) => wire.carry(server),
            Self::Result(result, at) if *at <= server.now().instant => result.take(),
            Self::Result(..) => None,
        }
    }

    /// When to call [`carry`](Self::carry) next; `None`: never.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::Bytes(wire) => Some(wire.until),
            Self::Result(result, at) => result.is_some().then_some(*at),
        }
    }

    /// The number of connections that the server refused.
    pub(super) fn refused(&self) -> usize {
        if let Self::Bytes(wire) = self { wire.refused } else { 0 }
    }
}
