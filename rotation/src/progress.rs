//! [`Progress`] of a request at its signer, and [`Issued`], its successful result.

use perennial::{Instant, RenewalHint};
use perennial_pki::Chain;

use crate::health::Health;

/// The result of a successful exchange: an issued certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The issued certificate with its intermediates.
    pub chain: Chain,
    /// Number of HTTP requests or other messages to the signer that the exchange took: two with Kubernetes if none
    /// fails; zero for a closure.
    pub requests: u32,
    /// Health of the signer's server by its last answer; `None` if the signer has no server.
    pub health: Option<Health>,
    /// The signer's hint when to rotate the certificate; `None` if the signer gave none.
    pub renewal: Option<RenewalHint>,
}

impl Issued {
    /// Adds the signer's hint when to rotate the certificate.
    #[must_use]
    pub fn with_renewal(self, hint: RenewalHint) -> Self {
        Self { renewal: Some(hint), ..self }
    }
}

/// The result of a signer without a server.
impl From<Chain> for Issued {
    fn from(chain: Chain) -> Self {
        Self { chain, requests: 0, health: None, renewal: None }
    }
}

/// Progress of a request at its signer, for people. `Display` is a phrase for a log line.
#[derive(Clone, Debug, derive_more::Display, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Connecting to the server.
    #[display("connecting to the signer")]
    Connecting,
    /// Submitting the request, or searching for a request object submitted earlier.
    #[display("submitting the request")]
    Submitting,
    /// The signer has the request; an approver has yet to approve it.
    #[display("waiting for approval of CSR {request_name}")]
    WaitingForApproval {
        /// Name of the request, as people find it at the signer.
        request_name: String,
    },
    /// The request is approved, or needs no approval; the signer has yet to issue the certificate.
    #[display("waiting for the signer to issue the certificate of request {request_name}")]
    WaitingForIssuance {
        /// Name of the request, as people find it at the signer.
        request_name: String,
    },
    /// A transient error occurred, after which the exchange tries again by itself.
    #[display("{why}; will try again")]
    Retrying {
        /// Time of the next attempt.
        at: Instant,
        /// The error, with the names of the request and the server.
        why: String,
    },
    /// The exchange has ended.
    #[display("finished")]
    Finished,
}
