//! [`SignError`]: why a signer issued no certificate.

use std::time::Duration;

use perennial::Failure;

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
    /// Health of the signer's server by its last answer; `None` without an answer, or without a server.
    pub health: Option<Health>,
}

impl SignError {
    /// Makes an error of this kind that rejects no identity, demands no wait, and reports no health of a server.
    /// `message` is one line for people, without secrets.
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, retry_after: None, message: message.into(), credential_refused: false, health: None }
    }

    /// Sets the least time that the signer demands until the next request, counted from now.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}
