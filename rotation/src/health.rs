//! Health of the server behind a signer, by its last answer.

use std::fmt;

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

/// The answer of a server, as far as it shows the health of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The server did what it was asked, or goes on doing it.
    Served,
    /// The server said no, in the words of its protocol (a `Status` in Kubernetes).
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// Something else answered: a proxy, a load balancer, another server.
    Foreign {
        /// The HTTP status.
        status: u16,
    },
    /// The server refused the certificate it was shown, or the lack of one (TLS alert).
    CertificateRefused,
    /// The server could not be reached, is not to be trusted, or what came was no answer.
    Unreachable,
}

impl Health {
    /// True if the server is at work, whatever it thinks of the request.
    pub const fn is_at_work(&self) -> bool {
        matches!(self.answer, Answer::Served | Answer::Refused { .. } | Answer::CertificateRefused)
    }
}

/// A phrase that completes "the server …".
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served => f.write_str("answers"),
            Self::Refused { status } => write!(f, "answers {status}"),
            Self::Foreign { status } => write!(f, "cannot be told from something else that answers {status}"),
            Self::CertificateRefused => f.write_str("refuses our certificate"),
            Self::Unreachable => f.write_str("does not answer"),
        }
    }
}
