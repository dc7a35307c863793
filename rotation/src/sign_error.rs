//! The error of a signer that issued no certificate.

use std::time::Duration;

use perennial::Failure;

use crate::health::Health;

/// Error of a request for a certificate. The current certificate stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SignError {
    /// Kind of the failure: the rotation machine chooses its reaction by this.
    pub failure: Failure,
    /// Least time until the next request, counted from now, if the signer demands one: `Retry-After` in HTTP.
    pub retry_after: Option<Duration>,
    /// For people: what happened, where, and what can be done about it. One line, no secrets.
    pub message: String,
    /// True if the signer rejected the identity that the request showed: the next request shows another one if there is
    /// one.
    pub credential_refused: bool,
    /// Health of the server by its last answer; `None`: no answer, or no server.
    pub health: Option<Health>,
}

impl SignError {
    /// An error that does not reject the identity and reports no health of a server. `message` is one line for people,
    /// without secrets.
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, retry_after: None, message: message.into(), credential_refused: false, health: None }
    }

    /// Sets the least time until the next request, counted from now, which the signer demands.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}
