//! Health of the server behind a signer, by its last answer.

use perennial::{Instant, Now, UnixTime};

/// Health of the server behind a signer: its last answer, or the lack of one, and when that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// What came.
    pub answer: Answer,
    /// When, by the local clocks.
    pub at: Now,
    /// The newest reading of the server's clock in this exchange.
    pub date: Option<ServerDate>,
}

/// A reading of the server's clock: the `Date` of an answer, over a connection whose certificate was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerDate {
    /// What it showed, to the second.
    pub unix: UnixTime,
    /// When the answer began to arrive.
    pub at: Instant,
}

/// The answer of a server, as far as it shows the health of the server. `Display` completes "the server …".
#[derive(Clone, Copy, Debug, derive_more::Display, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The server did what it was asked, or goes on doing it.
    #[display("answers")]
    Served,
    /// The server said no, in the words of its protocol (a `Status` in Kubernetes).
    #[display("answers {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// Something else answered: a proxy, a load balancer, another server.
    #[display("cannot be told from something else that answers {status}")]
    Foreign {
        /// The HTTP status.
        status: u16,
    },
    /// The server refused the certificate it was shown, or the lack of one (TLS alert).
    #[display("refuses our certificate")]
    CertificateRefused,
    /// The server could not be reached, is not to be trusted, or what came was no answer.
    #[display("does not answer")]
    Unreachable,
}

impl Health {
    /// True if the server is at work, whatever it thinks of the request.
    pub const fn is_at_work(&self) -> bool {
        matches!(self.answer, Answer::Served | Answer::Refused { .. } | Answer::CertificateRefused)
    }
}
