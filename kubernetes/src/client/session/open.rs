//! [`Open`]: an open connection, and the command to the runtime that it waits for.

use perennial::Instant;
use perennial_rotation::{IoRequest, KeptConnection};

use crate::client::exchange::Exchange;
use crate::client::exchange_error::ExchangeError;
use crate::cluster::Cluster;

/// An open connection, or one that is being opened.
pub(super) struct Open {
    pub(super) exchange: Exchange,
    pub(super) operation: Operation,
    /// The time by which the connection must be open, or the awaited part of the answer must have arrived.
    pub(super) until: Instant,
    /// True if an earlier request was answered over this connection.
    pub(super) reused: bool,
}

/// The last command to the runtime, to know which operation has failed.
pub(super) enum Operation {
    Connecting,
    /// Taking a kept connection out of this place.
    Reusing(KeptConnection),
    /// Reading from a kept connection before the request is sent.
    Checking,
    Writing,
    Reading,
    /// After a failed write, read the alert or answer that the server may have sent before it closed the connection.
    /// Contains the error of the write.
    Listening(String),
}

impl Operation {
    /// True unless the connection can take a request.
    pub(super) const fn is_opening(&self) -> bool {
        matches!(self, Self::Connecting | Self::Reusing(_) | Self::Checking)
    }
}

impl Open {
    pub(super) fn step<T>(&mut self, cluster: &Cluster) -> IoRequest<T> {
        let until = self.until;
        match &self.operation {
            Operation::Connecting => {
                let (host, port) = cluster.next_hop();
                return IoRequest::Connect { host: host.to_owned(), port, until };
            }
            Operation::Reusing(stream) => return IoRequest::Reuse(stream.clone()),
            Operation::Checking | Operation::Listening(_) => return IoRequest::Receive { until },
            Operation::Writing | Operation::Reading => {}
        }
        let bytes = self.exchange.transmit();
        if bytes.is_empty() {
            self.operation = Operation::Reading;
            IoRequest::Receive { until }
        } else {
            self.operation = Operation::Writing;
            IoRequest::Transmit { bytes, until }
        }
    }

    pub(super) fn late(&self) -> ExchangeError {
        match self.operation {
            Operation::Connecting | Operation::Reusing(_) => ExchangeError::Connect("timed out".to_owned()),
            Operation::Checking | Operation::Writing | Operation::Reading | Operation::Listening(_) => {
                ExchangeError::TimedOut(self.exchange.awaited())
            }
        }
    }

    /// Chooses the error to report after a failed write and the read that follows it. If the read meets the end of the
    /// connection, a break or a timeout, this is the error of the write. Otherwise it is the error of the read, such as
    /// a TLS alert.
    pub(super) fn reason(&self, error: ExchangeError) -> ExchangeError {
        match (&self.operation, error) {
            (
                Operation::Listening(why),
                ExchangeError::Closed | ExchangeError::Broken(_) | ExchangeError::TimedOut(_),
            ) => ExchangeError::Broken(why.clone()),
            (_, error) => error,
        }
    }
}
