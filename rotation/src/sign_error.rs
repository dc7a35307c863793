//! Why a signer issued no certificate, for the machine and for people.

use std::time::Duration;

use perennial::Failure;

use crate::health::Health;

/// Error of a request for a certificate. The current certificate is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SignError {
    /// What the rotation machine needs to know.
    pub failure: Failure,
    /// How long the signer asks to be left alone, counted from now: `Retry-After` in HTTP.
    pub retry_after: Option<Duration>,
    /// For people: what happened, where, and what can be done about it. One line, no secrets.
    pub message: String,
    /// The signer did not accept the identity that the request showed.
    pub credential_refused: bool,
    /// Health of the server by its last answer; `None`: nothing was learnt.
    pub health: Option<Health>,
}

impl SignError {
    /// An error that shows nothing of the credential, and nothing of the server's health. `message` is one line for
    /// people, without secrets.
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, retry_after: None, message: message.into(), credential_refused: false, health: None }
    }

    /// Adds how long the signer asks to be left alone, counted from now.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}
