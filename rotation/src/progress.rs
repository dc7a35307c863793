//! Where a submission stands, and where it ends if all goes well.

use perennial::Instant;
use perennial_pki::Chain;

use crate::health::Health;

/// A certificate that a signer issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate and its chain.
    pub chain: Chain,
    /// Messages to the signer that it took; two when all goes well with Kubernetes.
    pub requests: u32,
    /// Health of the server by its last answer.
    pub health: Option<Health>,
}

/// The chain of a signer that reports nothing of a server.
impl From<Chain> for Issued {
    fn from(chain: Chain) -> Self {
        Self { chain, requests: 0, health: None }
    }
}

/// Where a submission stands, for people: `Display` is a phrase for a log line.
#[derive(Clone, Debug, derive_more::Display, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Reaching the server.
    #[display("connecting to the signer")]
    Connecting,
    /// Submitting the request, or finding out what became of one submitted earlier.
    #[display("submitting the request")]
    Submitting,
    /// The signer has the request, and a person or a controller must approve it.
    #[display("waiting for approval of CSR {request_name}")]
    WaitingForApproval {
        /// Name of the request, as people find it at the signer.
        request_name: String,
    },
    /// The request is approved, and must be signed.
    #[display("approved; waiting for the signer of CSR {request_name}")]
    WaitingForIssuance {
        /// Name of the request, as people find it at the signer.
        request_name: String,
    },
    /// Something went wrong that may go away.
    #[display("{why}; will try again")]
    Retrying {
        /// When it will be tried again.
        at: Instant,
        /// Which request, at which server, and what went wrong.
        why: String,
    },
    /// It is over.
    #[display("finished")]
    Finished,
}
