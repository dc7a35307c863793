//! Health of the server behind a signer, as its last answer shows.

use perennial::{Instant, Now, UnixTime};

/// Health of the server behind a signer: its last answer, or the lack of one, with the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Kind of the last answer.
    pub answer: Answer,
    /// Time of the answer, by the local clocks.
    pub at: Now,
    /// The newest reading of the server's clock in this exchange.
    pub date: Option<ServerDate>,
}

/// A reading of the server's clock: the `Date` of an answer, over a connection whose certificate was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerDate {
    /// Time that the server's clock showed, in whole seconds.
    pub unix: UnixTime,
    /// Time at which the answer began to arrive.
    pub at: Instant,
}

/// The answer of a server, as far as it shows the health of the server. `Display` completes "the server …".
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
    /// The answer is not of the server's protocol: a proxy, a load balancer or another server sent it.
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
