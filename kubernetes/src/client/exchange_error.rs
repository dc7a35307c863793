//! Why a connection to an API server came to nothing.

use std::fmt;

/// Why an exchange came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// No CA is configured to check the server against.
    #[error("no CA is configured to check the server's certificate against; set the cluster's certificate-authority")]
    NoRoots,
    /// TLS cannot be set up on this side.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The proxy in between did not let us through.
    #[error("{0}")]
    Proxy(String),
    /// The server did not answer in time.
    #[error("timed out waiting for {0}")]
    TimedOut(&'static str),
    /// The server closed the connection without an answer.
    #[error("the server closed the connection without an answer")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The server's certificate is signed by none of the configured CAs.
    #[error("the server's certificate is not trusted: {0}")]
    UnknownIssuer(String),
    /// The server's certificate is not to be trusted for another reason.
    #[error("the server's certificate is not trusted: {0}")]
    Untrusted(String),
    /// The server refused the certificate it was shown, or wants one and was shown none.
    #[error("the server refused our certificate (TLS alert {0})")]
    CertificateRefused(String),
    /// TLS failed otherwise.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// HTTP failed: what came is not HTTP.
    #[error("{0}")]
    Http(String),
    /// A whole answer, or the head of one, that perennial cannot use: too long, or coded. The next would be the same.
    #[error("{0}")]
    Unusable(String),
}

impl ExchangeError {
    pub(super) fn setup(error: impl fmt::Display) -> Self {
        Self::Setup(error.to_string())
    }

    /// The response breaks the rules of HTTP/1.1.
    pub(super) fn improper(why: &str) -> Self {
        Self::Http(format!("the answer is not proper HTTP/1.1: {why}"))
    }

    pub(super) fn too_long(what: &str) -> Self {
        Self::Unusable(format!("the {what} is longer than this client accepts"))
    }
}
