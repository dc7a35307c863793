//! Where a submission stands, and where it ends if all goes well.

use std::fmt;

use perennial::Instant;
use perennial_pki::Chain;

use crate::health::Health;

/// A certificate was issued and is good for what was asked.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate and its chain.
    pub chain: Chain,
    /// Name of the request object.
    pub csr_name: String,
    /// HTTP requests it took; two when all goes well.
    pub requests: u32,
    /// What the last answer told of the API server.
    pub health: Option<Health>,
}

/// The chain of a signer that has no names for requests and tells nothing of a server.
impl From<Chain> for Issued {
    fn from(chain: Chain) -> Self {
        Self { chain, csr_name: String::new(), requests: 0, health: None }
    }
}

/// Where a submission stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Reaching the server.
    Connecting,
    /// Creating the request object, or finding out about the one there is.
    Submitting,
    /// The object exists; somebody must approve it (`kubectl certificate approve`).
    WaitingForApproval {
        /// Name of the request object.
        csr_name: String,
    },
    /// It is approved; the signer must sign it.
    WaitingForIssuance {
        /// Name of the request object.
        csr_name: String,
    },
    /// Something went wrong that may go away.
    Retrying {
        /// When it will be tried again.
        at: Instant,
        /// Which request, at which server, and what went wrong.
        why: String,
    },
    /// It is over.
    Finished,
}

/// A phrase for a log line.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting to the API server"),
            Self::Submitting => f.write_str("submitting the request"),
            Self::WaitingForApproval { csr_name } => write!(f, "waiting for approval of CSR {csr_name}"),
            Self::WaitingForIssuance { csr_name } => write!(f, "approved; waiting for the signer of CSR {csr_name}"),
            Self::Retrying { why, .. } => write!(f, "{why}; will try again"),
            Self::Finished => f.write_str("finished"),
        }
    }
}
