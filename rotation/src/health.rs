//! [`Health`] of the server behind a signer, and readings of the server's clock.

use perennial::{Instant, Now, UnixTime};

/// Health of the server behind a signer: the kind and the time of its last answer, or the time at which the last
/// attempt to get an answer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The kind of the last answer; [`Answer::Unreachable`] if no answer arrived.
    pub answer: Answer,
    /// Time of the answer, or of the failure to get one, by the local clocks.
    pub at: Now,
    /// The newest reading of the server's clock in the current exchange; `None` before the first reading.
    pub date: Option<ServerDate>,
}

/// A reading of the server's clock: the `Date` of an answer, over a connection whose certificate was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerDate {
    /// The server's time: the value of the `Date`, in whole seconds.
    pub unix: UnixTime,
    /// Local time at which the answer began to arrive.
    pub at: Instant,
}

/// The kind of a server's last answer, which shows the health of the server. `Display` is a predicate, to follow
/// "the server".
#[derive(Clone, Copy, Debug, derive_more::Display, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The server served the request, or is streaming the response of a watch.
    #[display("answers")]
    Served,
    /// The server refused the request with an error of its protocol (a `Status` in Kubernetes).
    #[display("answers {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// A proxy, a load balancer or another server answered: the answer is not of the expected server's protocol.
    #[display("did not answer itself: a proxy or another program answered {status}")]
    Foreign {
        /// The HTTP status.
        status: u16,
    },
    /// The server rejected the client certificate, or the lack of one, in the TLS handshake (TLS alert).
    #[display("refuses the client certificate")]
    CertificateRefused,
    /// The server could not be reached, its certificate was not verified, or the bytes received were no answer.
    #[display("cannot be reached or verified, or sent no answer that can be read")]
    Unreachable,
}

impl Health {
    /// True if the server itself answered, even if it refused the request.
    pub const fn is_at_work(&self) -> bool {
        matches!(self.answer, Answer::Served | Answer::Refused { .. } | Answer::CertificateRefused)
    }
}
