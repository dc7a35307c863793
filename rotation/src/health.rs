//! What the last answer told of the server that a signer asks.

use std::fmt;

use perennial::{Instant, Now, UnixTime};

/// What the last answer, or the lack of one, told of the API server, and when that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// What came.
    pub answer: Answer,
    /// When, by the local clocks.
    pub at: Now,
    /// What the API server's clock showed last in this exchange.
    pub date: Option<ServerDate>,
}

/// A reading of the API server's clock: the `Date` of an answer, over a connection whose certificate was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerDate {
    /// What it showed, to the second.
    pub unix: UnixTime,
    /// When the answer began to arrive.
    pub at: Instant,
}

/// What came of asking an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It did what it was asked, or goes on doing it.
    Served,
    /// It said no, in its own words (a `Status`).
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// Something answered, and not in the API's words: a proxy, a load balancer, another server.
    Foreign {
        /// The HTTP status.
        status: u16,
    },
    /// It refused the certificate it was shown, or the lack of one (TLS alert).
    CertificateRefused,
    /// It could not be reached, is not to be trusted, or what came was no answer.
    Unreachable,
}

impl Health {
    /// Whether an API server is at work there, whatever it thinks of us.
    pub const fn is_at_work(&self) -> bool {
        matches!(self.answer, Answer::Served | Answer::Refused { .. } | Answer::CertificateRefused)
    }

    /// As client-go's `ServerHealthy` judges an answer: what was served; any 401; the API's own 403 and 404.
    ///
    /// Source: client-go `util/certificate/certificate_manager.go`, `updateServerError`.
    pub const fn reference_healthy(&self) -> bool {
        match self.answer {
            Answer::Served => true,
            Answer::Refused { status } => matches!(status, 401 | 403 | 404),
            Answer::Foreign { status } => status == 401,
            Answer::CertificateRefused | Answer::Unreachable => false,
        }
    }
}

/// A phrase that completes "the API server …".
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
