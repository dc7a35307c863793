//! [`SignError`]: why a signer issued no certificate.

use std::time::Duration;

use perennial::Failure;
use perennial_pki::KeyAlgorithm;

use crate::health::Health;

/// Error of a signer or of its exchange: the request ends without a certificate. The current certificate stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SignError {
    /// Kind of the failure, by which the machine chooses its reaction, such as the backoff.
    pub failure: Failure,
    /// The signer's demand for the least time until the next request, counted from now: `Retry-After` in HTTP. `None`:
    /// the signer demands nothing.
    pub retry_after: Option<Duration>,
    /// The error for people: what happened, where, and what to do about it. One line, no secrets.
    pub message: String,
    /// True if the signer rejected the identity of the request. The next request then authenticates with another
    /// identity, if there is another.
    pub credential_refused: bool,
    /// The kind of keys that the signer accepts, if it has refused the request because of its key.
    pub accepted_key: Option<KeyAlgorithm>,
    /// Health of the signer's server by its last answer; `None` without an answer, or without a server.
    pub health: Option<Health>,
}

impl SignError {
    /// Makes an error of this kind that rejects no identity, demands no wait, and reports no health of a server.
    /// `message` is one line for people, without secrets.
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            retry_after: None,
            message: message.into(),
            credential_refused: false,
            accepted_key: None,
            health: None,
        }
    }

    /// Sets the kind of keys that the signer accepts instead of the kind that it has refused. The next request follows
    /// soon, with a key of this kind, if [`Profile::other_key_algorithms`](crate::Profile::other_key_algorithms) allows
    /// it and no other kind has been tried.
    #[must_use]
    pub fn accepts_key(self, algorithm: KeyAlgorithm) -> Self {
        Self { accepted_key: Some(algorithm), ..self }
    }

    /// Sets the least time that the signer demands until the next request, counted from now.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}
